"""This project's own checkpoints, in the style of DeepSpec's.

`Qwen3MTPModel`: one next-token module as DeepSeek-V3 trains it (arXiv 2412.19437, section
2.2). Fields: the target's config with `num_hidden_layers` 1, `num_target_layers`,
`target_layer_ids` `[num_target_layers - 1]` (the output of the last decoder layer, before
the target's final norm) and `block_size` (1 as it is trained; more by feeding the module
its own output). Tensors: `enorm` and `hnorm` (norms of the token's embedding and of the
hidden state), `eh_proj` (`[d, 2d]`, the embedding first), `layers.0.*` (a Qwen3 decoder
layer), `norm`, and, where they are not taken from the target, `embed_tokens` and `lm_head`.

`NgramDrafter`: no tensors. Fields: `vocab_size`, `block_size`, `min_match` (default 1) and
`max_match` (default 4) tokens, and `confidence_by_match`, one number for each length.
"""

from __future__ import annotations

from drafters.config import MTPConfig, NgramConfig
from drafters.deepspec_layout import check_single_layer, transformer_fields
from drafters.errors import CheckpointError
from drafters.fields import Fields
from drafters.ngram_settings import CONFIDENCE_BY_MATCH

MTP_ARCHITECTURE = "Qwen3MTPModel"
NGRAM_ARCHITECTURE = "NgramDrafter"


def mtp_config(read: Fields) -> MTPConfig:
    """Raises CheckpointError."""
    config = MTPConfig(
        **transformer_fields(read, "qwen3"),
        block_size=read.size("block_size", default=1),
    )
    check_single_layer(config.num_hidden_layers, read)
    config.check_sizes()
    return config


def ngram_config(read: Fields) -> NgramConfig:
    """Raises CheckpointError."""
    min_match = read.size("min_match", default=1)
    max_match = read.integer("max_match", at_least=min_match, default=max(4, min_match))
    return NgramConfig(
        source=read.source,
        block_size=read.size("block_size"),
        vocab_size=read.size("vocab_size"),
        min_match=min_match,
        max_match=max_match,
        confidence_by_match=_confidences(read, range(min_match, max_match + 1)),
    )


def _confidences(read: Fields, lengths: range) -> tuple[float, ...]:
    found = read.raw("confidence_by_match")
    if found is None:
        longest = len(CONFIDENCE_BY_MATCH)
        return tuple(CONFIDENCE_BY_MATCH[min(n, longest) - 1] for n in lengths)
    if (
        not isinstance(found, list)
        or len(found) != len(lengths)
        or not all(type(p) in (int, float) and 0 <= p <= 1 for p in found)
    ):
        raise CheckpointError(
            f"{read.source}: confidence_by_match is {found!r}; needed: {len(lengths)} "
            f"probabilities, for matches of {lengths.start} to {lengths[-1]} tokens"
        )
    return tuple(map(float, found))
