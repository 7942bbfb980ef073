"""The drafter's architecture, read from a `config.json` in DeepSpec's layout."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

from drafters.errors import CheckpointError

ARCHITECTURE = "Qwen3DSparkModel"
MARKOV_HEAD_TYPES = ("vanilla",)


@dataclass(frozen=True, slots=True)
class DrafterConfig:
    """Sizes of a DSpark drafter; `markov_rank` 0 is plain DFlash.

    `target_layer_ids` name the target's decoder layers whose outputs are the features, -1
    being the embedding output.
    """

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    rms_norm_eps: float
    rope_theta: float
    block_size: int
    mask_token_id: int
    target_layer_ids: tuple[int, ...]
    num_target_layers: int
    markov_rank: int
    markov_head_type: str = "vanilla"
    enable_confidence_head: bool = False
    confidence_head_with_markov: bool = False
    attention_bias: bool = False
    source: str = "config"

    @property
    def feature_size(self) -> int:
        """Numbers per feature row: the named layers' hidden states side by side."""
        return len(self.target_layer_ids) * self.hidden_size

    @property
    def confidence_size(self) -> int:
        """Inputs of the confidence head: the hidden state, and W1[x] where it reads that."""
        with_markov = self.confidence_head_with_markov and self.markov_rank > 0
        return self.hidden_size + (self.markov_rank if with_markov else 0)

    @classmethod
    def load(cls, directory: str | Path) -> DrafterConfig:
        """Read `directory`/config.json. Raises CheckpointError."""
        return cls.from_dict(read_config(directory), str(Path(directory) / "config.json"))

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], source: str) -> DrafterConfig:
        """Check the fields and build the config; `source` names the file in messages.

        Raises CheckpointError naming the first field that cannot be served.
        """
        read = _Fields(fields, source)
        read.refuse_unsupported()
        hidden_size = read.size("hidden_size")
        num_heads = read.size("num_attention_heads")
        markov_rank = read.integer("markov_rank", at_least=0)
        config = cls(
            hidden_size=hidden_size,
            num_hidden_layers=read.size("num_hidden_layers"),
            num_attention_heads=num_heads,
            num_key_value_heads=read.size("num_key_value_heads"),
            head_dim=read.size("head_dim", default=hidden_size // num_heads),
            intermediate_size=read.size("intermediate_size"),
            vocab_size=read.size("vocab_size"),
            rms_norm_eps=read.positive("rms_norm_eps"),
            rope_theta=read.rope_theta(),
            block_size=read.size("block_size"),
            mask_token_id=read.integer("mask_token_id", at_least=0),
            target_layer_ids=read.layer_ids(),
            num_target_layers=read.size("num_target_layers"),
            markov_rank=markov_rank,
            markov_head_type=read.markov_head_type() if markov_rank else "vanilla",
            enable_confidence_head=read.flag("enable_confidence_head"),
            confidence_head_with_markov=read.flag("confidence_head_with_markov"),
            attention_bias=read.flag("attention_bias"),
            source=source,
        )
        config._check_consistency()
        return config

    def _check_consistency(self) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            raise CheckpointError(
                f"{self.source}: num_key_value_heads is {self.num_key_value_heads}; it must "
                f"divide num_attention_heads, {self.num_attention_heads}"
            )
        if self.head_dim % 2:
            raise CheckpointError(
                f"{self.source}: head_dim is {self.head_dim}; rotary positions need an even one"
            )
        if self.mask_token_id >= self.vocab_size:
            raise CheckpointError(
                f"{self.source}: mask_token_id is {self.mask_token_id}; it must be below "
                f"vocab_size, {self.vocab_size}"
            )
        _check_layer_ids(self)


def read_config(directory: str | Path) -> dict[str, Any]:
    """The JSON object in `directory`/config.json. Raises CheckpointError."""
    path = Path(directory) / "config.json"
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; a checkpoint needs a config.json") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(fields, dict):
        raise CheckpointError(f"{path}: holds a {type(fields).__name__}, not a JSON object")
    return fields


def text_config(target_config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's part of a target config; multimodal ones nest it."""
    nested = target_config.get("text_config")
    return cast(Mapping[str, Any], nested) if isinstance(nested, Mapping) else target_config


def check_fit(config: DrafterConfig, target_config: Mapping[str, Any]) -> None:
    """Refuse a drafter that was trained for another target.

    Raises CheckpointError naming the first field that differs, with both values.
    """
    target = text_config(target_config)
    pairs = (
        ("hidden_size", config.hidden_size, "hidden_size"),
        ("num_target_layers", config.num_target_layers, "num_hidden_layers"),
        ("vocab_size", config.vocab_size, "vocab_size"),
    )
    for field, ours, target_field in pairs:
        theirs = target.get(target_field)
        if ours != theirs:
            raise CheckpointError(
                f"{config.source}: {field} is {ours}, but the target's {target_field} is "
                f"{theirs}; use the drafter trained for this target, or the target it names"
            )
    _check_layer_ids(config)


def _check_layer_ids(config: DrafterConfig) -> None:
    ids = config.target_layer_ids
    last = config.num_target_layers - 2
    rising = all(a < b for a, b in pairwise(ids))
    if not (ids and rising and ids[0] >= -1 and ids[-1] <= last):
        raise CheckpointError(
            f"{config.source}: target_layer_ids is {list(ids)}; needed are strictly increasing "
            f"ids from -1 (the embedding output) to {last}, as num_target_layers is "
            f"{config.num_target_layers}"
        )


class _Fields:
    """Typed reads of a JSON object, each refusing what it cannot use."""

    def __init__(self, fields: Mapping[str, Any], source: str) -> None:
        self._fields = fields
        self._source = source

    def _refusal(self, field: str, needed: str) -> CheckpointError:
        found = repr(self._fields[field]) if field in self._fields else "missing"
        return CheckpointError(f"{self._source}: {field} is {found}; needed: {needed}")

    def refuse_unsupported(self) -> None:
        architectures = self._fields.get("architectures", [ARCHITECTURE])
        if architectures != [ARCHITECTURE]:
            raise self._refusal("architectures", f"['{ARCHITECTURE}']")
        if self._fields.get("hidden_act", "silu") != "silu":
            raise self._refusal("hidden_act", "'silu'")
        layer_types = self._fields.get("layer_types") or ()
        if any(kind != "full_attention" for kind in layer_types):
            raise self._refusal("layer_types", "'full_attention' in every layer")

    def integer(self, field: str, *, at_least: int, default: int | None = None) -> int:
        value = self._fields.get(field)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
            raise self._refusal(field, f"an integer of at least {at_least}")
        return value

    def size(self, field: str, *, default: int | None = None) -> int:
        return self.integer(field, at_least=1, default=default)

    def positive(self, field: str) -> float:
        value = self._fields.get(field)
        if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
            raise self._refusal(field, "a positive number")
        return float(value)

    def flag(self, field: str) -> bool:
        value = self._fields.get(field, False)
        if not isinstance(value, bool):
            raise self._refusal(field, "true or false")
        return value

    def layer_ids(self) -> tuple[int, ...]:
        value = self._fields.get("target_layer_ids")
        if not isinstance(value, list) or not all(type(i) is int for i in value):
            raise self._refusal("target_layer_ids", "a list of integers")
        return tuple(value)

    def markov_head_type(self) -> str:
        value = self._fields.get("markov_head_type", "vanilla")
        if value not in MARKOV_HEAD_TYPES:
            raise self._refusal("markov_head_type", f"one of {list(MARKOV_HEAD_TYPES)}")
        return str(value)

    def rope_theta(self) -> float:
        """Base of the rotary frequencies; any scaling of them is refused."""
        for field in ("rope_parameters", "rope_scaling"):
            rope = self._fields.get(field)
            if rope is None:
                continue
            if not isinstance(rope, Mapping):
                raise self._refusal(field, "a JSON object")
            kind = rope.get("rope_type", rope.get("type", "default"))
            if kind != "default":
                raise self._refusal(field, "rope_type 'default'")
            if "rope_theta" in rope:
                return _Fields(rope, f"{self._source}: {field}").positive("rope_theta")
        return self.positive("rope_theta")
