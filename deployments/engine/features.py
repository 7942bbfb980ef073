"""Feature rows out of a step's hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, pairwise

import torch


def gather_features(
    layers: Sequence[torch.Tensor], kept: Sequence[range], dtype: torch.dtype
) -> torch.Tensor:
    """The `kept` rows of all layers side by side, `[sum of kept, feature_size]`, a copy.

    Drafters that read no features have no layers, and rows of no width.
    """
    if not layers:
        return torch.empty(sum(map(len, kept)), 0, dtype=dtype)
    if all(a.stop == b.start for a, b in pairwise(kept)):  # as in every step without drafts
        first, last = (kept[0].start, kept[-1].stop) if kept else (0, 0)
        return torch.cat([layer[first:last] for layer in layers], dim=-1).to(dtype)
    rows = list(chain.from_iterable(kept))
    index = torch.tensor(rows, device=layers[0].device)
    widths = [layer.shape[1] for layer in layers]
    features = layers[0].new_empty(len(rows), sum(widths))
    for layer, part in zip(layers, torch.split(features, widths, dim=1), strict=True):
        torch.index_select(layer, 0, index, out=part)
    return features.to(dtype)
