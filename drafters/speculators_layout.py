"""The layout of vLLM's speculators package (0.9): DSpark, DFlash, Eagle3 and MTP.

The drafter's layers are described under `transformer_layer_config` (Qwen3; for Eagle3 also
Llama), whose `num_hidden_layers` is the drafter's own. Only what differs from the defaults
of transformers' config class is stored there. Auxiliary layer i is the input of the
target's decoder layer i, hence the output of layer i - 1.

A `draft_vocab_size` below the target's comes with `d2t`: draft token i is the target's
token i + d2t[i]. `sample_from_anchor: false`, DFlash's default here, has the anchor in the
block as the bonus token: `block_size` slots draft one token less.
`speculators_config.verifier` is the target that the drafter was trained for.
"""

from __future__ import annotations

from typing import Any

from drafters.config import (
    DrafterConfig,
    DSparkConfig,
    Eagle3Config,
    Family,
    MTPConfig,
    TrainedFor,
)
from drafters.deepspec_layout import check_single_layer, layer_fields, markov_fields
from drafters.errors import CheckpointError
from drafters.fields import Fields

_MTP_NAMES = {
    "mtp_layers.0.token_layernorm.weight": "enorm.weight",
    "mtp_layers.0.hidden_layernorm.weight": "hnorm.weight",
    "mtp_layers.0.input_proj.weight": "eh_proj.weight",
    "mtp_layers.0.final_layernorm.weight": "norm.weight",
}
# The target's own weights, kept for training, and the inverse of d2t.
_NOT_NEEDED = frozenset({"t2d", "verifier_lm_head.weight", "verifier_norm.weight"})


def config(read: Fields) -> DrafterConfig:
    """Raises CheckpointError naming the first field that cannot be served."""
    kind = read.raw("speculators_model_type")
    if kind == "dspark":
        return _block_config(read, read.integer("markov_rank", at_least=0), True)
    if kind == "dflash":
        return _block_config(read, 0, False)
    if kind == "eagle3":
        return _eagle3_config(read)
    if kind == "mtp":
        return _mtp_config(read)
    raise read.refusal("speculators_model_type", "'dspark', 'dflash', 'eagle3' or 'mtp'")


def name_of(stored: str) -> str | None:
    """What a stored tensor is called here; None where it is not needed."""
    if stored in _NOT_NEEDED:
        return None
    if stored in _MTP_NAMES:
        return _MTP_NAMES[stored]
    return stored.replace("mtp_layers.", "layers.", 1)


def _block_config(read: Fields, markov_rank: int, samples_from_anchor: bool) -> DSparkConfig:
    """DSpark, or DFlash: its backbone without the two heads."""
    anchor_is_bonus = not read.flag("sample_from_anchor", default=samples_from_anchor)
    num_slots = read.integer("block_size", at_least=1 + anchor_is_bonus)
    heads = markov_fields(read, markov_rank) if samples_from_anchor else {"markov_rank": 0}
    layers = _layer_config(read, ("qwen3",))
    config = DSparkConfig(
        **_sizes(read, layers),
        **_vocabulary(read, layers),
        target_layer_ids=_layer_ids(read, "aux_hidden_state_layer_ids"),
        block_size=num_slots - anchor_is_bonus,
        mask_token_id=read.integer("mask_token_id", at_least=0),
        anchor_is_bonus=anchor_is_bonus,
        **heads,
    )
    config.check_sizes()
    config.check_mask()
    return config


def _eagle3_config(read: Fields) -> Eagle3Config:
    layers = _layer_config(read, ("qwen3", "llama"))
    check_single_layer(layers.size("num_hidden_layers"), layers)
    config = Eagle3Config(
        **_sizes(read, layers),
        **_vocabulary(read, layers),
        target_layer_ids=_layer_ids(read, "eagle_aux_hidden_state_layer_ids"),
        block_size=_proposed_tokens(read),
        norm_before_residual=read.flag("norm_before_residual"),
        norm_features=read.flag("norm_before_fc"),
        norm_each_feature=read.flag("fc_norm"),
        feed_back_normed=read.flag("norm_output"),
    )
    config.check_sizes()
    return config


def _mtp_config(read: Fields) -> MTPConfig:
    """The module's layer config is the target's: its depth names the last layer."""
    read.require("num_nextn_predict_layers", 1, 1)
    layers = _layer_config(read, ("qwen3",))
    num_target_layers = layers.size("num_hidden_layers")
    config = MTPConfig(
        **_sizes(read, layers) | {"num_hidden_layers": 1},
        target_layer_ids=(num_target_layers - 1,),
        num_target_layers=num_target_layers,
        block_size=_proposed_tokens(read),
    )
    config.check_sizes()
    return config


def _layer_config(read: Fields, families: tuple[Family, ...]) -> Fields:
    """`transformer_layer_config` with the defaults of its class filled in."""
    from transformers import AutoConfig

    stored = read.nested("transformer_layer_config")
    family = stored.choice("model_type", families[0], families)
    given = read.raw("transformer_layer_config")
    try:
        filled = AutoConfig.for_model(**{**given, "model_type": family}).to_dict()
    except Exception as error:  # whatever that class has against a value
        raise CheckpointError(f"{stored.source}: not a {family} config: {error}") from error
    layers = Fields(filled, stored.source)
    layers.require("mlp_bias", False, False)
    layers.full_attention_only()
    return layers


def _sizes(read: Fields, layers: Fields) -> dict[str, Any]:
    return {
        "source": read.source,
        "family": layers.raw("model_type"),
        "trained_for": _trained_for(read),
        **layer_fields(layers),
    }


def _trained_for(read: Fields) -> TrainedFor | None:
    if read.raw("speculators_config") is None:
        return None
    described = read.nested("speculators_config")
    if described.raw("verifier") is None:
        return None
    verifier = described.nested("verifier")
    name, architectures = verifier.raw("name_or_path"), verifier.raw("architectures") or []
    if not (name is None or isinstance(name, str)):
        raise verifier.refusal("name_or_path", "a directory, a hub id or null")
    if not isinstance(architectures, list) or not all(isinstance(a, str) for a in architectures):
        raise verifier.refusal("architectures", "a list of names")
    return TrainedFor(name, tuple(architectures))


def _vocabulary(read: Fields, layers: Fields) -> dict[str, Any]:
    read.require("target_hidden_size", None, None, layers.size("hidden_size"))
    size = read.size("draft_vocab_size")
    return {"draft_vocab_size": None if size == layers.size("vocab_size") else size}


def _layer_ids(read: Fields, field: str) -> tuple[int, ...]:
    return tuple(i - 1 for i in read.integers(field))


def _proposed_tokens(read: Fields) -> int:
    """The tokens per draft of the default proposal method."""
    proposals = read.nested("speculators_config")
    methods = proposals.raw("proposal_methods")
    for method in methods if isinstance(methods, list) else ():
        named = Fields(method, f"{proposals.source}: proposal_methods")
        if named.raw("proposal_type") == proposals.raw("default_proposal_method"):
            return named.size("speculative_tokens")
    raise proposals.refusal("proposal_methods", "a list with the default_proposal_method in it")
