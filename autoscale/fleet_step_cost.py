"""Step costs that a fleet learned: merged over replicas, versioned, kept as a profile.

How drafting is goes along with them to new replicas; it depends on the drafter, and is not kept.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoscale.draft_experience import NO_EXPERIENCE, DraftExperience
from autoscale.step_cost import StepCostTable
from profiles.step_cost import LEARNED, VERIFY, EngineProvenance, StepCostProfile, StepCostRow

_MIN_STEPS = 50.0  # at a size, of all replicas together, before it is believed
_MAX_STEPS = 1000.0  # of one replica that count: none outvotes the others by being busy
_WORTH_A_VERSION = 0.01
_LONGEST_STEP_S = 60.0
_CONTEXTS = (0, 1024)  # tokens per request, at which a learned table is written down


@dataclass(frozen=True, slots=True)
class StepCostReport:
    """What a replica learned: costs at the entries of the profile it started from.

    `num_steps` are its recent steps near each entry, `drafts` is how drafting was. Raises
    ValueError where entries and steps do not match.
    """

    table: StepCostTable
    num_steps: tuple[float, ...]
    drafts: DraftExperience = NO_EXPERIENCE

    def __post_init__(self) -> None:
        if len(self.num_steps) != len(self.table.n_tokens) or not min(self.num_steps) >= 0:
            raise ValueError(f"{len(self.table.n_tokens)} costs have {self.num_steps} steps")

    def to_plain(self) -> dict[str, Any]:
        """As plain values, to be sent."""
        return asdict(self.table) | {"num_steps": self.num_steps, "drafts": asdict(self.drafts)}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> StepCostReport:
        """Raises ValueError for what `to_plain` does not make."""
        try:
            lists = [tuple(plain[name]) for name in ("n_tokens", "step_cost_s", "num_steps")]
            slopes = [float(plain[name]) for name in ("request_s", "context_token_s", "pair_s")]
            numbers = [*lists[0], *lists[1], *lists[2], *slopes]
            if not all(map(math.isfinite, numbers)):
                raise ValueError("step costs have to be finite numbers")
            if max(lists[1]) > _LONGEST_STEP_S:
                raise ValueError(f"no step takes {max(lists[1])} s")
            told = dict(plain.get("drafts", {}))  # replicas of before have none
            pairs = tuple((int(n), float(took_s)) for n, took_s in told.pop("draft_s", ()))
            drafts = DraftExperience(pairs, **told)
            return cls(StepCostTable(lists[0], lists[1], *slopes), lists[2], drafts)
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"a report of step costs is malformed: {error!r}") from None


class FleetStepCost:
    """The controller's side: the last report of every replica, by what it was measured on.

    A new controller goes on from a profile, or from what the next reports say. `version` rises
    whenever a merged table differs from the one before by more than a percent somewhere.
    """

    def __init__(self) -> None:
        self._reports: dict[EngineProvenance, dict[str, StepCostReport]] = {}
        self._merged: dict[EngineProvenance, Merged] = {}

    def learn(self, profile: StepCostProfile, table: StepCostTable) -> None:
        """Go on from a profile that was kept, whose fit is `table`."""
        nothing_new = (0.0,) * len(table.n_tokens)
        self._merged[profile.provenance] = Merged(table, nothing_new, profile.version)

    def absorb(self, engine: EngineProvenance, replica_id: str, report: StepCostReport) -> None:
        """What a replica has learned by now."""
        self._reports.setdefault(engine, {})[replica_id] = report
        if engine not in self._merged:
            self._merged[engine] = Merged(report.table, (0.0,) * len(report.num_steps))

    def forget(self, engine: EngineProvenance, replica_id: str) -> None:
        """The replica is gone; what it taught stays until others know better."""
        self._reports.get(engine, {}).pop(replica_id, None)

    def merge(self, engine: EngineProvenance) -> Merged | None:
        """What a new replica is to start from; None where nothing is known."""
        known = self._merged.get(engine)
        if known is None:
            return None
        reports = self._reports.get(engine, {}).values()
        table, num_steps = merge_step_costs(known.table, reports)
        drafts = merge_experience([report.drafts for report in reports])
        if _differs(table, known.table):
            known = Merged(table, num_steps, known.version + 1, drafts)
        else:
            known = replace(known, num_steps=num_steps, drafts=drafts)
        self._merged[engine] = known
        return known

    def engines(self) -> tuple[EngineProvenance, ...]:
        """Those that anything is known of."""
        return tuple(self._merged)

    def relative(self, engine: EngineProvenance) -> dict[str, float]:
        """By replica, what its steps take over what they usually take: 2.0 where it is slow."""
        known = self._merged.get(engine)
        reports = self._reports.get(engine, {})
        if known is None:
            return {}
        return {id_: _relative_cost(known.table, report) for id_, report in reports.items()}


def _differs(table: StepCostTable, before: StepCostTable) -> bool:
    """By more than a percent of any entry, or of what requests and context add."""
    pairs = zip(_numbers(table), _numbers(before), strict=True)
    return not all(math.isclose(a, b, rel_tol=_WORTH_A_VERSION) for a, b in pairs)


def _numbers(table: StepCostTable) -> tuple[float, ...]:
    return (*table.step_cost_s, table.request_s, table.context_token_s, table.pair_s)


def _relative_cost(usual: StepCostTable, report: StepCostReport) -> float:
    """Over the sizes that the replica visits; 1 while those are few, or for another table."""
    steps = np.array(report.num_steps)
    if report.table.n_tokens != usual.n_tokens or steps.max(initial=0.0) < _MIN_STEPS:
        return 1.0
    return weighted_median(np.array(report.table.step_cost_s) / usual.step_cost_s, steps)


@dataclass(frozen=True, slots=True)
class Merged:
    """A table, the recent steps behind each of its entries, its version, and how drafting is."""

    table: StepCostTable
    num_steps: tuple[float, ...]
    version: int = 0
    drafts: DraftExperience = NO_EXPERIENCE

    @property
    def is_learned(self) -> bool:
        """Whether steps in service are behind it, here or before a restart."""
        return self.version > 0 or max(self.num_steps) >= _MIN_STEPS

    def to_plain(self) -> dict[str, Any]:
        """As plain values, to be handed to a new replica (`StepCostReport.from_plain`)."""
        return StepCostReport(self.table, self.num_steps, self.drafts).to_plain()


def merge_step_costs(
    previous: StepCostTable, reports: Collection[StepCostReport]
) -> tuple[StepCostTable, tuple[float, ...]]:
    """What steps take on a usual replica, and the steps behind every entry.

    At every size the weighted median of the replicas, so that a slow node or a broken clock
    among them moves nothing. Sizes that few steps were near keep the previous cost, times
    how far the others have moved. Reports for other entries are left out.
    """
    fitting = [r for r in reports if r.table.n_tokens == previous.n_tokens]
    known = np.array(previous.step_cost_s)
    if not fitting:
        return previous, (0.0,) * len(known)
    costs = np.array([report.table.step_cost_s for report in fitting])
    steps = np.minimum([report.num_steps for report in fitting], _MAX_STEPS)
    total: NDArray[np.float64] = steps.sum(axis=0)
    believed = total >= _MIN_STEPS
    if not believed.any():
        return previous, tuple(total.tolist())
    learned = np.array([weighted_median(costs[:, j], steps[:, j]) for j in range(len(known))])
    moved = float(np.median(learned[believed] / known[believed]))
    merged = np.maximum.accumulate(np.where(believed, learned, known * moved))
    busy = steps.sum(axis=1)

    def slope(name: str) -> float:
        return weighted_median(np.array([getattr(r.table, name) for r in fitting]), busy)

    table = StepCostTable(
        previous.n_tokens,
        tuple(merged.tolist()),
        slope("request_s"),
        slope("context_token_s"),
        slope("pair_s"),
    )
    return table, tuple(total.tolist())


def merge_experience(reports: Collection[DraftExperience]) -> DraftExperience:
    """How drafting usually is: medians over the replicas that drafted."""
    drafted = [one for one in reports if one.num_drafts]
    if not drafted:
        return NO_EXPERIENCE
    by_count: dict[int, list[float]] = {}
    for one in drafted:
        for n, draft_s in one.draft_s:
            by_count.setdefault(n, []).append(draft_s)
    return DraftExperience(
        tuple((n, float(np.median(draft_s))) for n, draft_s in sorted(by_count.items())),
        float(np.median([one.accepted for one in drafted])),
        float(np.median([one.verified for one in drafted])),
        sum(one.num_drafts for one in drafted),
    )


def weighted_median(values: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """The value that half of the weight does not exceed; the plain median without weight."""
    if not weights.sum() > 0:
        return float(np.median(values))
    order = np.argsort(values)
    half = np.cumsum(weights[order]) >= weights.sum() / 2
    return float(values[order[int(half.argmax())]])


def learned_profile(
    provenance: EngineProvenance,
    table: StepCostTable,
    num_steps: Sequence[float],
    *,
    version: int,
    learned_on: date,
) -> StepCostProfile:
    """A profile that loads as `table`: its costs without context and with some."""
    rows = []
    for n_tokens, steps in zip(table.n_tokens, num_steps, strict=True):
        for num_requests in sorted({n_tokens, max(1, n_tokens // 8)}):
            for context in _CONTEXTS:
                beside_s = table.beside_s(n_tokens, num_requests, num_requests * context)
                cost_s = table.at_one(n_tokens) + beside_s
                num = max(1, round(steps))
                row = StepCostRow(VERIFY, n_tokens, num_requests, context, cost_s, 0.0, num, cost_s)
                rows.append(row)
    return StepCostProfile(provenance, LEARNED, learned_on, tuple(rows), version)
