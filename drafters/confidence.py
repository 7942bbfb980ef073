"""Confidences of drafters without a confidence head, from their own distribution.

A logistic model per position on the log-odds of the likeliest token's probability. That
probability is fixed before the position's token is drawn, so a confidence depends on the
prefix alone and never on the token it is about.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from drafters.errors import CheckpointError
from profiles.fingerprint import CONFIDENCE_FILE

_CLOSEST_TO_ONE = 1e-6
_NEWTON_STEPS = 50
_PRIOR_WEIGHT = 1.0  # in labels: few of them leave a position near the identity


def top_log_odds(logits: Tensor) -> Tensor:
    """Float32 [...] of `logits` [..., V]: log p / (1 - p) of the likeliest token.

    p is the probability at temperature 1, whatever temperature the token is drawn at.
    """
    # With every exponent relative to the largest, their sum is 1 / p.
    inverse = (logits.float() - logits.amax(-1, keepdim=True)).exp_().sum(-1)
    return -torch.log((inverse - 1).clamp(min=_CLOSEST_TO_ONE))


@dataclass(frozen=True, slots=True)
class TopProbConfidence:
    """Position k's confidence is sigmoid(scale[k] * log-odds + offset[k])."""

    scale: tuple[float, ...]
    offset: tuple[float, ...]

    @classmethod
    def identity(cls, block_size: int) -> TopProbConfidence:
        """The likeliest token's probability, as it is."""
        return cls((1.0,) * block_size, (0.0,) * block_size)

    @classmethod
    def load(cls, directory: str | Path, block_size: int) -> TopProbConfidence:
        """What `directory`/confidence.json says, the identity where there is none.

        Raises CheckpointError naming the field that cannot be used.
        """
        path = Path(directory) / CONFIDENCE_FILE
        if not path.is_file():
            return cls.identity(block_size)
        try:
            fields = json.loads(path.read_text("utf-8"))
            read = {name: tuple(map(float, fields[name])) for name in ("scale", "offset")}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path}: needs numbers under scale and offset: {error!r}") from (
                error
            )
        for name, values in read.items():
            fine = all(math.isfinite(v) and (name == "offset" or v >= 0) for v in values)
            if len(values) != block_size or not fine:
                raise CheckpointError(
                    f"{path}: {name} is {list(values)}; needed are {block_size} finite numbers, "
                    "scale not negative"
                )
        return cls(**read)

    def save(self, directory: str | Path) -> None:
        """Write `directory`/confidence.json."""
        text = json.dumps(asdict(self), indent=2)
        (Path(directory) / CONFIDENCE_FILE).write_text(text + "\n", "utf-8")

    def confidences(self, log_odds: Tensor) -> Tensor:
        """Float32 [R, gamma] from `top_log_odds` [R, gamma]."""
        scale = torch.tensor(self.scale, device=log_odds.device)
        offset = torch.tensor(self.offset, device=log_odds.device)
        return torch.addcmul(offset, scale, log_odds).sigmoid()


def fit_confidence(
    top_probs: NDArray[np.floating],
    accepted: NDArray[np.bool_],
    counted: NDArray[np.bool_],
) -> TopProbConfidence:
    """Fit from N drafts, each argument [N, gamma].

    `top_probs` are the confidences of a drafter without confidence.json; `accepted` says
    which tokens the target accepted, `counted` which of these labels count: those of tokens
    that were verified and whose predecessors were all accepted. Penalised maximum
    likelihood; the penalty pulls scale to 1 and offset to 0.
    """
    assert top_probs.shape == accepted.shape == counted.shape
    p = np.clip(top_probs.astype(np.float64), _CLOSEST_TO_ONE, 1 - _CLOSEST_TO_ONE)
    log_odds = np.log(p) - np.log1p(-p)
    fits = [
        _fit_position(log_odds[counted[:, k], k], accepted[counted[:, k], k])
        for k in range(top_probs.shape[1])
    ]
    return TopProbConfidence(tuple(a for a, _ in fits), tuple(b for _, b in fits))


def _fit_position(
    log_odds: NDArray[np.float64], accepted: NDArray[np.bool_]
) -> tuple[float, float]:
    """Scale and offset by Newton's method; a falling relation becomes a constant."""
    inputs = np.stack((log_odds, np.ones_like(log_odds)), axis=1)
    scale, offset = _newton(inputs, accepted, np.array([1.0, 0.0]))
    if scale < 0:
        (offset,) = _newton(inputs[:, 1:], accepted, np.zeros(1))
        scale = 0.0
    return float(scale), float(offset)


def _newton(
    inputs: NDArray[np.float64], labels: NDArray[np.bool_], prior: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The weights that minimise log-loss plus half the squared distance to `prior`."""

    def loss(weights: NDArray[np.float64]) -> float:
        z = inputs @ weights
        penalty = 0.5 * _PRIOR_WEIGHT * np.square(weights - prior).sum()
        return float(np.logaddexp(0.0, np.where(labels, -z, z)).sum() + penalty)

    weights = prior.copy()
    for _ in range(_NEWTON_STEPS):
        rates = 1 / (1 + np.exp(-np.clip(inputs @ weights, -50, 50)))
        gradient = inputs.T @ (rates - labels) + _PRIOR_WEIGHT * (weights - prior)
        curvature = (inputs.T * (rates * (1 - rates))) @ inputs
        curvature += _PRIOR_WEIGHT * np.eye(len(prior))
        step = np.linalg.solve(curvature, gradient)
        size = 1.0
        while loss(weights - size * step) > loss(weights) and size > 1e-6:
            size /= 2
        weights = weights - size * step
        if np.abs(size * step).max() < 1e-10:
            break
    return weights
