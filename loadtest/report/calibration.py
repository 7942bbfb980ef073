"""How likely draft tokens were said to survive, and how many did: arm by arm, by position."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from loadtest.report.tables import Table
from profiles.frontier import by_run
from profiles.load_records import OK, LoadRecords, RunRow

_Z = 1.96  # standard errors to either side, 95 %


class Survival(NamedTuple):
    """Of the draft tokens verified at a `position` (from 1) over all runs of an arm: the mean
    calibrated survival probability, and the share that was accepted. `error_rate` is of the
    requests of those runs."""

    arm: str
    position: int
    num_verified: int
    predicted: float
    accepted: float
    error_rate: float

    @property
    def half_width(self) -> float:
        """Of Wilson's 95 % interval of `accepted`, as of independent draws: not 0 where all or
        none were accepted."""
        n, z2 = self.num_verified, _Z * _Z
        spread = self.accepted * (1 - self.accepted) / n + z2 / (4 * n * n)
        return _Z / (1 + z2 / n) * math.sqrt(spread)


def survivals(records: LoadRecords) -> list[Survival]:
    """Of every arm whose server says what it expected."""
    runs: dict[str, list[RunRow]] = defaultdict(list)
    for run in records.runs:
        counted = {len(run.admitted_by_position), len(run.accepted_by_position)}
        if run.expected_by_position and counted == {len(run.expected_by_position)}:
            runs[run.arm].append(run)
    requests = by_run(records)
    errors = {
        arm: [row.status != OK for run in own for row in requests[run.run_id]]
        for arm, own in runs.items()
    }
    return [
        Survival(
            arm,
            position,
            int(verified),
            expected / verified,
            accepted / verified,
            sum(errors[arm]) / max(len(errors[arm]), 1),
        )
        for arm, own in runs.items()
        for position, (verified, expected, accepted) in enumerate(
            zip(
                _sums([run.admitted_by_position for run in own]),
                _sums([run.expected_by_position for run in own]),
                _sums([run.accepted_by_position for run in own]),
                strict=True,
            ),
            1,
        )
        if verified
    ]


def _sums(rows: Sequence[Sequence[float]]) -> list[float]:
    return [sum(column) for column in zip(*rows, strict=True)]


def calibration_table(some: Sequence[Survival]) -> Table:
    """A row per arm and position."""
    return Table(
        ("arm, position", "verified", "predicted to survive", "accepted", "errors"),
        tuple(
            (
                f"{one.arm}, {one.position}",
                f"{one.num_verified:,}",
                f"{one.predicted:.3f}",
                f"{one.accepted:.3f} ± {one.half_width:.3f}",
                f"{one.error_rate:.1%}",
            )
            for one in some
        ),
    )
