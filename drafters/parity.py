"""Compare a drafter with what its authors' own code computed, through the real draft path.

A golden directory holds a checkpoint, `features.safetensors` (rounds of target features,
for drafters of pairs with the tokens after them) and `expected.safetensors` (what the
authors' code drafts after each round, in float32).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from drafters.checkpoint import load_drafter
from drafters.engine import DraftEngine
from drafters.errors import CheckpointError
from drafters.interface import Draft
from drafters.messages import StepBatch, StepRow

BLOCK_TOKENS = 4  # small, so that even short golden rounds cross block boundaries


@dataclass(frozen=True, slots=True)
class ParityReport:
    """Largest absolute error per kind of tensor, over `num_rounds` rounds.

    The error of `tokens` is how many differ.
    """

    num_rounds: int
    max_errors: dict[str, float]

    def within(self, tolerance: float) -> bool:
        """Whether all tokens agree and all errors are at most `tolerance`; NaN is not."""
        return self.max_errors.get("tokens", 0.0) == 0.0 and all(
            error <= tolerance for error in self.max_errors.values()
        )


def measure_parity(directory: str | Path) -> ParityReport:
    """Draft the golden rounds in float32 and compare. Raises CheckpointError."""
    directory = Path(directory)
    features = _load(directory / "features.safetensors")
    expected = _load(directory / "expected.safetensors")
    rounds = sum(name.endswith(".features") for name in features)
    if not rounds:
        raise CheckpointError(f"{directory}/features.safetensors: no round0.features in it")
    model = load_drafter(directory, dtype=torch.float32, device="cpu")
    longest = 1 + sum(t.shape[0] for name, t in features.items() if name.endswith(".features"))
    engine = DraftEngine(
        model,
        num_blocks=longest // BLOCK_TOKENS + 2,
        block_tokens=BLOCK_TOKENS,
        num_context_tokens=longest,
    )
    max_errors: dict[str, float] = {}
    for i in range(rounds):
        wanted = _round(expected, i, directory / "expected.safetensors")
        given = _round(features, i, directory / "features.safetensors")
        draft = engine.trace(_step(given, wanted, model.config.needs_tokens))
        for kind, error in _errors(draft, wanted).items():
            max_errors[kind] = _worse(max_errors.get(kind, 0.0), error)
    return ParityReport(rounds, max_errors)


def _load(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: golden tensors cannot be read: {error}") from error
    return tensors


def _round(tensors: dict[str, Tensor], i: int, path: Path) -> dict[str, Tensor]:
    prefix = f"round{i}."
    found = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    if not found:
        raise CheckpointError(f"{path}: no {prefix}* in it")
    return found


def _step(given: dict[str, Tensor], wanted: dict[str, Tensor], with_tokens: bool) -> StepBatch:
    """The target step that tells a drafter about one round."""
    features = given["features"]
    tokens = tuple(given["next_tokens"].tolist()) if with_tokens else ()
    anchor = tokens[-1] if with_tokens else int(wanted["anchor"])
    num_rows, end = features.shape[0], int(wanted["start"])
    row = StepRow("golden", 0, end - num_rows, num_rows, anchor, tokens=tokens)
    return StepBatch("golden", (row,), features)


def _errors(draft: Draft, wanted: dict[str, Tensor]) -> dict[str, float]:
    found = {
        "hidden": draft.hidden,
        "logits": draft.logits,
        "confidence_logits": draft.confidence_logits,
    }
    errors = {"tokens": float((draft.tokens[0] != wanted["tokens"]).sum())}
    for kind, tensor in found.items():
        if kind in wanted and tensor is not None:
            errors[kind] = float((tensor[0] - wanted[kind]).abs().max())
        elif kind in wanted:
            errors[kind] = float("inf")
    return errors


def _worse(a: float, b: float) -> float:
    """The larger error, NaN being the largest."""
    return a if a != a or b <= a else b
