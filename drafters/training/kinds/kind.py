"""What the training loop asks of a kind of drafter."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from torch import Tensor

from drafters.config import TransformerConfig
from drafters.module import DrafterModule
from drafters.training.blocks import TrainingBlocks
from drafters.training.losses import DraftDistances
from drafters.training.plan import TrainingPlan

ModelT = TypeVar("ModelT", bound=DrafterModule)


class Predictions(NamedTuple):
    """Logits [N, gamma, V] and, with a confidence head, confidence logits [N, gamma]."""

    logits: Tensor
    confidence_logits: Tensor | None = None


class DraftReads(NamedTuple):
    """Weights that a draft reads from memory: once, and again for each of its tokens."""

    once: int
    per_token: int


class TrainedKind(ABC, Generic[ModelT]):
    """How one kind of drafter is made, run over known text, and judged."""

    default_block_size = 7

    def target_layer_ids(
        self, target_dir: str | Path, chosen: Sequence[int] | None
    ) -> tuple[int, ...]:
        """Whose outputs are features. Raises ValueError where they have to be `chosen`."""
        if not chosen:
            raise ValueError("no target layers; name those whose outputs are features")
        return tuple(chosen)

    @abstractmethod
    def fields(self, plan: TrainingPlan) -> dict[str, Any]:
        """Its config.json. Raises CheckpointError."""

    @abstractmethod
    def start(self, model: ModelT, target: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights to begin with, by the drafter's names; the others stay random.

        `target` is `FrozenTarget.decoder_state`. Weights of another shape are passed over.
        """

    @abstractmethod
    def hidden(self, model: ModelT, blocks: TrainingBlocks) -> Tensor:
        """Normed outputs [B, n, gamma, d] of its layers, which its heads read."""

    @abstractmethod
    def predict(self, model: ModelT, hidden: Tensor, previous: Tensor) -> Predictions:
        """What its heads say of `hidden` [N, gamma, d], `previous` int64 [N, gamma] being the
        token before the one that each position predicts."""

    @abstractmethod
    def objective(self, distances: DraftDistances, plan: TrainingPlan) -> Tensor:
        """What is minimised, position by position [N, gamma]."""

    @abstractmethod
    def position_weights(self, plan: TrainingPlan) -> Tensor:
        """How much each position of a block counts, float32 [gamma]."""

    @abstractmethod
    def attention_keys(self, plan: TrainingPlan, context: float) -> float:
        """Keys that a draft position's attention is computed over, seen or masked, with so
        many positions of context; the mean over positions."""

    @abstractmethod
    def draft_reads(self, model: ModelT) -> DraftReads:
        """What drafting a block reads, rows looked up in tables aside."""


def num_weights(model: Any, *, without: tuple[str, ...] = ()) -> int:
    """Weights whose names start with none of `without`."""
    named = model.named_parameters()
    return sum(p.numel() for name, p in named if not name.startswith(without))


def last_layers(
    config: TransformerConfig, target: Mapping[str, Tensor], names: Mapping[int, list[str]]
) -> dict[str, Tensor]:
    """The weights `names[i]` of a drafter's layer i as in the target's last layers."""
    assert config.num_target_layers is not None
    first = config.num_target_layers - config.num_hidden_layers
    return {
        f"layers.{i}.{name}": target[f"layers.{first + i}.{name}"]
        for i, layer_names in names.items()
        for name in layer_names
        if f"layers.{first + i}.{name}" in target
    }


def layer_names(model: Any) -> dict[int, list[str]]:
    """The weights that each layer of a drafter has."""
    return {i: list(layer.state_dict()) for i, layer in enumerate(model.layers)}
