"""What a drafter of each kind is made of, whatever layout its checkpoint has."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

from drafters.errors import CheckpointError
from drafters.messages import DraftShape
from profiles.fingerprint import checkpoint_name

log = logging.getLogger(__name__)

Family = Literal["qwen3", "llama", "gemma4"]
MARKOV_HEAD_TYPES = ("vanilla", "gated", "rnn")


@dataclass(frozen=True, slots=True)
class TrainedFor:
    """The target that a drafter's checkpoint names, a directory or hub id, and the architectures
    in that one's config.json; None and empty where it does not say."""

    name: str | None
    architectures: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DrafterConfig:
    """What target, engine and wire have to know of any drafter.

    `block_size` is gamma, the tokens of a draft; `vocab_size` the target's. Feature rows
    hold the outputs of the target's decoder layers `target_layer_ids`, -1 being the
    embedding output; `num_target_layers` and `trained_for` are None where the checkpoint does
    not say it.
    """

    block_size: int
    vocab_size: int
    target_layer_ids: tuple[int, ...] = ()
    num_target_layers: int | None = None
    trained_for: TrainedFor | None = None
    source: str = "config"

    needs_tokens: ClassVar[bool] = False  # whether rows carry `StepRow.tokens`
    reads_last_layer: ClassVar[bool] = False

    @property
    def feature_size(self) -> int:
        """Numbers per feature row: the named layers' hidden states side by side."""
        return 0

    @property
    def shape(self) -> DraftShape:
        """What a target has to agree to."""
        return DraftShape(self.feature_size, self.block_size, self.needs_tokens)

    @staticmethod
    def load(directory: str | Path) -> DrafterConfig:
        """Read `directory`/config.json. Raises CheckpointError."""
        return DrafterConfig.from_dict(read_config(directory), str(Path(directory) / "config.json"))

    @staticmethod
    def from_dict(fields: Mapping[str, Any], source: str) -> DrafterConfig:
        """The config of whichever drafter the fields describe; `source` names their file.

        Raises CheckpointError naming the first field that cannot be served.
        """
        from drafters.layouts import read_layout  # the layouts build on this module

        return read_layout(fields, source).config


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerConfig(DrafterConfig):
    """A drafter of decoder layers in the target's style.

    `rotary_fraction` is the part of a head's frequencies that turn with the position.
    `keys_are_values` (Gemma 4) has one projection for both. `draft_vocab_size`, where
    given, is the size of a reduced vocabulary that only drafted tokens come from.
    """

    family: Family = "qwen3"
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    rms_norm_eps: float
    rope_theta: float
    rotary_fraction: float = 1.0
    attention_bias: bool = False
    keys_are_values: bool = False
    logit_softcap: float | None = None
    draft_vocab_size: int | None = None

    @property
    def feature_size(self) -> int:
        return len(self.target_layer_ids) * self.hidden_size

    @property
    def num_logits(self) -> int:
        """Tokens that can be drafted."""
        return self.draft_vocab_size or self.vocab_size

    @property
    def embedding_scale(self) -> float:
        """What token embeddings are multiplied with."""
        return self.hidden_size**0.5 if self.family == "gemma4" else 1.0

    def check_sizes(self) -> None:
        """Raise CheckpointError for sizes that do not go together."""
        if self.num_attention_heads % self.num_key_value_heads:
            raise CheckpointError(
                f"{self.source}: num_key_value_heads is {self.num_key_value_heads}; it must "
                f"divide num_attention_heads, {self.num_attention_heads}"
            )
        if self.head_dim % 2:
            raise CheckpointError(
                f"{self.source}: head_dim is {self.head_dim}; rotary positions need an even one"
            )
        if self.num_logits > self.vocab_size:
            raise CheckpointError(
                f"{self.source}: draft_vocab_size is {self.draft_vocab_size}; it must be at most "
                f"vocab_size, {self.vocab_size}"
            )
        check_layer_ids(self, self.num_target_layers)


@dataclass(frozen=True, slots=True, kw_only=True)
class DSparkConfig(TransformerConfig):
    """A DSpark drafter; `markov_rank` 0 is plain DFlash.

    With `anchor_is_bonus` a block has one slot more than it drafts tokens: the anchor's own
    slot predicts nothing, and each mask's slot predicts the token in its place. Without it,
    every slot predicts the token after it.
    """

    mask_token_id: int
    markov_rank: int
    markov_head_type: str = "vanilla"
    enable_confidence_head: bool = False
    confidence_head_with_markov: bool = False
    anchor_is_bonus: bool = False

    @property
    def num_slots(self) -> int:
        """Positions of a block in the forward pass."""
        return self.block_size + self.anchor_is_bonus

    @property
    def confidence_size(self) -> int:
        """Inputs of the confidence head: the hidden state, and W1[x] where it reads that."""
        with_markov = self.confidence_head_with_markov and self.markov_rank > 0
        return self.hidden_size + (self.markov_rank if with_markov else 0)

    def check_mask(self) -> None:
        """Raise CheckpointError for a mask token outside the vocabulary."""
        if self.mask_token_id >= self.vocab_size:
            raise CheckpointError(
                f"{self.source}: mask_token_id is {self.mask_token_id}; it must be below "
                f"vocab_size, {self.vocab_size}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Eagle3Config(TransformerConfig):
    """An Eagle3 drafter: one layer over pairs of features and the token after them.

    The last four are the speculators package's variants: the residual starts from the
    normed hidden state; features are normed together or each layer's alone before `fc`;
    the normed output is fed back instead of the output.
    """

    needs_tokens: ClassVar[bool] = True

    norm_before_residual: bool = False
    norm_features: bool = False
    norm_each_feature: bool = False
    feed_back_normed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MTPConfig(TransformerConfig):
    """One next-token module over the target's last layer, applied `block_size` times.

    Its feature is the output of the last decoder layer, before the target's final norm:
    layer id `num_target_layers` - 1.
    """

    needs_tokens: ClassVar[bool] = True
    reads_last_layer: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class NgramConfig(DrafterConfig):
    """Lookup of the last tokens in the session's own text: no weights, no features.

    The last `max_match` tokens are looked for, then fewer, down to `min_match`.
    `confidence_by_match[n - min_match]` is the probability that a token after a match of n
    tokens is accepted, given the tokens before it are.
    """

    needs_tokens: ClassVar[bool] = True

    min_match: int
    max_match: int
    confidence_by_match: tuple[float, ...]


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


def check_fit(
    config: DrafterConfig, target_config: Mapping[str, Any], target_name: str | None = None
) -> None:
    """Refuse a drafter that was trained for another target.

    Raises CheckpointError naming the first field that differs, with both values. A target of
    another name, a directory or hub id, is warned of only: targets are renamed and fine-tuned.
    """
    target = text_config(target_config)
    pairs: list[tuple[str, int, str]] = []
    if isinstance(config, TransformerConfig):
        pairs.append(("hidden_size", config.hidden_size, "hidden_size"))
    if config.num_target_layers is not None:
        pairs.append(("num_target_layers", config.num_target_layers, "num_hidden_layers"))
    pairs.append(("vocab_size", config.vocab_size, "vocab_size"))
    for field, ours, target_field in pairs:
        theirs = target.get(target_field)
        if ours != theirs:
            raise _misfit(config, field, ours, target_field, theirs)
    if isinstance(config, TransformerConfig):
        check_layer_ids(config, target.get("num_hidden_layers"))
    if config.trained_for is not None:
        _check_trained_for(config, config.trained_for, target_config, target_name)


def _check_trained_for(
    config: DrafterConfig,
    named: TrainedFor,
    target_config: Mapping[str, Any],
    target_name: str | None,
) -> None:
    theirs = target_config.get("architectures") or ()
    if named.architectures and theirs and set(named.architectures).isdisjoint(theirs):
        field = "verifier.architectures"
        raise _misfit(config, field, list(named.architectures), "architectures", theirs)
    if named.name and target_name and _called(named.name) != _called(target_name):
        log.warning(
            "%s: verifier.name_or_path is %s, the target is %s: right where that is the same "
            "model under another name, fine-tuned or quantised; otherwise hardly a draft token "
            "will be accepted",
            config.source,
            named.name,
            target_name,
        )


def _misfit(
    config: DrafterConfig, field: str, ours: object, target_field: str, theirs: object
) -> CheckpointError:
    return CheckpointError(
        f"{config.source}: {field} is {ours}, but the target's {target_field} is "
        f"{theirs}; use the drafter trained for this target, or the target it names"
    )


def _called(source: str) -> str:
    """A model's own name, without its owner or the directories above."""
    return checkpoint_name(Path(source)).rpartition("/")[2].casefold()


def check_layer_ids(config: DrafterConfig, num_target_layers: int | None) -> None:
    """Raise CheckpointError for layers that a target of this depth does not have."""
    ids = config.target_layer_ids
    rising = all(a < b for a, b in pairwise(ids))
    if config.reads_last_layer:
        last = num_target_layers - 1 if num_target_layers else ids[-1] if ids else 0
        if ids != (last,):
            raise CheckpointError(
                f"{config.source}: target_layer_ids is {list(ids)}; needed is [{last}], the "
                f"output of the last of the target's {num_target_layers} layers"
            )
        return
    last = num_target_layers - 2 if num_target_layers else max(ids, default=-1)
    if not (ids and rising and ids[0] >= -1 and ids[-1] <= last):
        raise CheckpointError(
            f"{config.source}: target_layer_ids is {list(ids)}; needed are strictly increasing "
            f"ids from -1 (the embedding output) to {last}, as the target has "
            f"{num_target_layers} layers and the last one's output never is a feature"
        )
