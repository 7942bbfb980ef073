"""Whether what the service counted agrees with what its clients saw.

As far as processes that were killed allow: they take along what they had not said yet.
"""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.integration.chaos.load import BROKEN, FAILED, REFUSED, RIGHT, WRONG, Outcome
from tests.integration.served import fleet

Line = Mapping[str, Any]
LOOK_EVERY_S = 0.25
LATE_S = 2.0  # from the end of a request to the end of what is said and written of it


def read_log(directory: Path) -> list[Line]:
    """The request log of all ingresses that there were."""
    paths = sorted(directory.glob("requests-*.jsonl"))
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def disagreements(
    outcomes: Iterable[Outcome], log: Iterable[Line], ingress_killed_s: Iterable[float]
) -> list[str]:
    """Requests of which an ingress wrote down something else than their client saw.

    Who was under way when an ingress was killed may be missing.
    """
    by_id = defaultdict(list)
    for line in log:
        by_id[line["request_id"]].append(line)
    killed_s = list(ingress_killed_s)
    found = []
    for outcome in outcomes:
        lines = by_id[outcome.request_id]
        excused = any(outcome.was_under_way(at_s - LATE_S, at_s + LATE_S) for at_s in killed_s)
        if not (_agrees(outcome, lines) or (excused and not lines)):
            said = [(line["status"], line["is_whole"]) for line in lines]
            found.append(f"{outcome.request_id}: {outcome.kind} ({outcome.status}), logged {said}")
    return found


def _agrees(outcome: Outcome, lines: list[Line]) -> bool:
    said = [(line["status"], line["is_whole"]) for line in lines]
    if outcome.kind in (RIGHT, WRONG, REFUSED):
        return said == [(outcome.status, True)]
    if outcome.kind == FAILED and said:
        return said == [(outcome.status, True)]
    if outcome.kind == FAILED:
        return outcome.status != 200  # Serve's proxy answers for an ingress that is not there
    if outcome.kind == BROKEN:
        return all(not is_whole for _, is_whole in said)
    return not any(is_whole for _, is_whole in said)


@dataclass(slots=True)
class Counted:
    """What a target had counted by its last report, at `said_s`; `gone_s` is when it was missed.

    See `autoscale.class_counts.ClassTotals`.
    """

    totals: dict[str, int]
    said_s: float
    gone_s: float | None = None

    @property
    def whole(self) -> int:
        return self.totals["met"] + self.totals["missed"]

    @property
    def adds_up(self) -> bool:
        """Where nothing waits or runs."""
        n = self.totals
        refused = n["shed_queue_full"] + n["shed_too_late"]
        came = n["admitted"] + refused + n["gave_up"]
        return (
            n["arrived"] + n["continued"] == came and n["admitted"] == self.whole + n["broken_off"]
        )


class TargetBooks:
    """Looks at the fleet all the time: what every target that there was had counted, beyond the
    `whole_before` answers of all of them together."""

    def __init__(
        self, url: str, model: str, now_s: Callable[[], float], whole_before: int = 0
    ) -> None:
        self.targets: dict[str, Counted] = {}
        self._whole_before = whole_before
        self._url, self._model, self._now_s = url, model, now_s
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._is_over.set()
        self._thread.join()

    def _look_forever(self) -> None:
        while not self._is_over.wait(LOOK_EVERY_S):
            with suppress(httpx.HTTPError, KeyError):  # no ingress or no controller now
                self.saw(fleet(self._url, self._model)["targets"])

    def saw(self, targets: Iterable[Mapping[str, Any]]) -> None:
        now_s, there = self._now_s(), set()
        for target in targets:
            there.add(target["replica_id"])
            classes = target["stats"]["admission"]["classes"].values()
            totals = {name: sum(one[name] for one in classes) for name in next(iter(classes))}
            self.targets[target["replica_id"]] = Counted(totals, now_s - target["age_s"])
        for id_, counted in self.targets.items():
            if id_ not in there and counted.gone_s is None:
                counted.gone_s = now_s

    def whole_between(self, outcomes: Iterable[Outcome]) -> tuple[int, int, int]:
        """The fewest answers that the targets can have counted as whole, what they counted, and
        the most: those that ended while a target that is gone said nothing may be missing, and
        one that did not get through may have been whole."""
        outcomes = list(outcomes)
        silent = [(c.said_s, c.gone_s) for c in self.targets.values() if c.gone_s is not None]
        whole = [o for o in outcomes if o.kind in (RIGHT, WRONG)]
        unsaid = [
            o
            for o in whole
            if any(said_s - LATE_S <= o.ended_s <= gone_s + LATE_S for said_s, gone_s in silent)
        ]
        counted = sum(one.whole for one in self.targets.values()) - self._whole_before
        return len(whole) - len(unsaid), counted, len(outcomes)
