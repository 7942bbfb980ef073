"""Feature rows out of a step's hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import torch


def gather_features(
    layers: Sequence[torch.Tensor], kept: Sequence[range], dtype: torch.dtype
) -> torch.Tensor:
    """The `kept` rows of all layers side by side, `[sum of kept, feature_size]`, a copy.

    `kept` are in order and do not overlap. Drafters that read no features have no layers, and
    rows of no width.
    """
    num_rows = sum(map(len, kept))
    if not layers:
        return torch.empty(num_rows, 0, dtype=dtype)
    first, last = (kept[0].start, kept[-1].stop) if kept else (0, 0)
    if num_rows == last - first:  # as in every step without drafts
        return torch.cat([layer[first:last] for layer in layers], dim=-1).to(dtype)
    index = torch.tensor(list(chain.from_iterable(kept)), device=layers[0].device)
    widths = [layer.shape[1] for layer in layers]
    features = layers[0].new_empty(num_rows, sum(widths))
    for layer, part in zip(layers, torch.split(features, widths, dim=1), strict=True):
        torch.index_select(layer, 0, index, out=part)
    return features.to(dtype)
