"""What the runner tells the adapter: of a request when it arrives, of every step when it ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

_UNBOUNDED = 1 << 30
_MEAN = 0.05  # weight of a new step


@dataclass(frozen=True, slots=True)
class RequestTerms:
    """What drafting has to respect of a request.

    With an `ineligible` reason it is never drafted for. `temperature` is 0 where it is
    greedy. It ends with `max_positions` tokens, prompt included, at the latest, and its
    prompt has `prompt_tokens`. Its `service_class` may have a weight in the plan. `trace` is
    the `traceparent` of one that is traced.
    """

    ineligible: str | None = None
    temperature: float = 0.0
    max_positions: int = _UNBOUNDED
    prompt_tokens: int = 0
    service_class: str = ""
    trace: str = ""


@dataclass(frozen=True, slots=True)
class EngineStep:
    """One finished target step, as the engine's batch lists it.

    Per request i of `request_ids`: it had `num_computed[i]` tokens computed before the
    step, `num_scheduled[id]` were computed in it, `drafts[id]` of them (missing: none)
    draft tokens, and `sampled[i]` were committed. `token_ids[i]` are all its tokens.
    `features` holds one tensor `[>= sum(num_scheduled), hidden_size]` per auxiliary layer,
    rows in request order. All of it may change once the step is answered.
    """

    request_ids: Sequence[str]
    num_scheduled: Mapping[str, int]
    drafts: Mapping[str, Sequence[int]]
    num_computed: NDArray[np.int32]
    sampled: Sequence[Sequence[int]]
    token_ids: NDArray[np.int32]
    features: Sequence[torch.Tensor]


@dataclass(slots=True)
class AdapterStats:
    """Totals since the worker started; means are of recent steps that decode alone.

    Of `steps`, `forward_s` was spent in the target's forward passes (on GPUs: to launch them),
    `sample_s` to sample and keep books, `adapter_s` in the adapter and `draft_s` waiting for
    drafts.

    `drafts[n][a]` counts those of which `n` tokens were verified and `a` accepted; everything
    said of draft tokens follows from it. Of draft tokens k, `admitted_by_position[k]` counts
    those verified, `reached_by_position[k]` those of them behind an accepted prefix and
    `accepted_by_position[k]` those of them that were accepted.
    """

    drafts: list[list[int]]
    steps: int = 0
    committed_tokens: int = 0
    steps_without_reply: int = 0
    malformed_replies: int = 0
    feature_rows: int = 0
    gaps: int = 0
    refused_plan_parts: int = 0
    refused_advice: int = 0
    mean_step_s: float = 0.0
    mean_draft_wait_s: float = 0.0
    mean_plan_s: float = 0.0  # to take up a plan
    forward_s: float = 0.0
    sample_s: float = 0.0
    adapter_s: float = 0.0
    draft_s: float = 0.0
    ineligible: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of_blocks(cls, block_size: int) -> AdapterStats:
        """Nothing counted yet, of drafts of up to `block_size` tokens."""
        return cls(drafts=[[0] * (block_size + 1) for _ in range(block_size + 1)])

    @property
    def verified_drafts(self) -> int:
        return int(self._by_length.sum())

    @property
    def draft_tokens(self) -> int:
        return sum(self.admitted_by_position)

    @property
    def accepted_tokens(self) -> int:
        return sum(self.accepted_by_position)

    @property
    def admitted_by_position(self) -> list[int]:
        return _longer_than(self._by_length.sum(axis=1))

    @property
    def accepted_by_position(self) -> list[int]:
        return _longer_than(self._by_length.sum(axis=0))

    @property
    def reached_by_position(self) -> list[int]:
        counts = self._by_length
        reached = [counts[k + 1 :, k:].sum() for k in range(len(counts) - 1)]
        return [int(one) for one in reached]

    @property
    def _by_length(self) -> NDArray[np.int64]:
        return np.array(self.drafts, dtype=np.int64)

    @property
    def drafting_s(self) -> float:
        """All that speculation took beside what the target computed for it."""
        return self.adapter_s + self.draft_s

    def time_plan(self, plan_s: float) -> None:
        """A plan was taken up."""
        self.mean_plan_s += _MEAN * (plan_s - self.mean_plan_s) if self.mean_plan_s else plan_s

    def time_step(self, step_s: float) -> None:
        """A step that decoded alone, drafting aside."""
        self.mean_step_s += _MEAN * (step_s - self.mean_step_s) if self.mean_step_s else step_s

    def time_draft(self, wait_s: float) -> None:
        """What a step waited for drafts."""
        mean_s = self.mean_draft_wait_s
        self.mean_draft_wait_s += _MEAN * (wait_s - mean_s) if mean_s else wait_s

    def count_draft(self, num_drafts: int, num_accepted: int) -> None:
        """A draft of which `num_drafts` tokens were verified and `num_accepted` accepted."""
        self.drafts[num_drafts][num_accepted] += 1

    def to_plain(self) -> dict[str, Any]:
        """Every total and mean by its name, as a replica reports them."""
        plain = asdict(self)
        del plain["drafts"]
        return plain | {name: getattr(self, name) for name in _OF_DRAFTS}


_OF_DRAFTS = (
    "verified_drafts",
    "draft_tokens",
    "accepted_tokens",
    "admitted_by_position",
    "reached_by_position",
    "accepted_by_position",
)


def _longer_than(by_length: NDArray[np.int64]) -> list[int]:
    """Per k how many are longer than k; `by_length` [n + 1] counts those of each length."""
    longer: list[int] = by_length[::-1].cumsum()[::-1][1:].tolist()
    return longer
