"""What the fleet learns from served drafts: calibrations, kept on disk, and two alarms.

The plan is read on the controller's event loop while reports are absorbed and refits run in
a thread: what crosses over are plain values, replaced as a whole.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from autoscale.acceptance import AcceptanceAlarm
from autoscale.calibration_messages import calibrations_to_plain, report_from_plain
from autoscale.fleet_calibration import FleetCalibration
from autoscale.learned_profile import calibrations_of, learned_profile
from autoscale.replica_calibration import KeyReport
from profiles.calibration import load_calibration, save_calibration
from profiles.provenance import NGRAM, DraftingPair, ProfileError

log = logging.getLogger(__name__)

_SUFFIX = ".calibration.parquet"
_ALARM_SUFFIX = ".acceptance.json"
_KEEP_EVERY_S = 60.0
Publish = Callable[[DraftingPair, dict[str, Any]], None]
"""Told what is known of a pair after every refit, see `FleetLearning.snapshot`."""


class FleetLearning:
    """Calibrations and acceptance of every drafting pair that is served.

    With a `state_dir`, calibrations are written there whenever they change, one profile for
    each pair, and what acceptance was usual every minute; a new controller goes on from them.
    A damaged file is named in the log and left aside. `promised` are acceptance rates by the
    drafters' cards.
    """

    def __init__(
        self,
        state_dir: Path | None = None,
        promised: Mapping[DraftingPair, float] | None = None,
        publish: Publish = lambda pair, snapshot: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.num_malformed_reports = 0
        self._state_dir = state_dir
        self._promised = dict(promised or {})
        self._publish = publish
        self._calibration = FleetCalibration()
        self._acceptance: dict[DraftingPair, AcceptanceAlarm] = {}
        self._clock = clock
        self._kept_s = clock()
        self._plans: dict[DraftingPair, dict[str, Any]] = {}
        self._snapshots: dict[DraftingPair, dict[str, Any]] = {}
        self._unsaved: set[DraftingPair] = set()  # tried again with every refit
        self._load()

    def plan(self, pair: DraftingPair) -> dict[str, Any]:
        """What replicas of a pair are to use, as `calibrations_to_plain`. From any thread."""
        return self._plans.get(pair, {})

    def snapshot(self, pair: DraftingPair) -> dict[str, Any]:
        """As of the last refit: calibration by key, and acceptance. From any thread."""
        return self._snapshots.get(pair, {})

    def absorb(self, pair: DraftingPair, outcomes: Mapping[str, Any]) -> None:
        """A replica's `report_to_plain`. One that cannot be is counted and dropped.

        Its drafts are dated by their age; here they are as old as they were when they were sent.
        """
        try:
            now_s = self._clock()
            report = {
                key: one._replace(drafts=one.drafts.dated(now_s))
                for key, one in report_from_plain(outcomes).items()
            }
            self._calibration.absorb(pair, report)
        except ValueError as error:
            self.num_malformed_reports += 1
            log.warning("outcomes of a replica are dropped: %s", error)
            return
        if pair not in self._acceptance:
            self._acceptance[pair] = self._alarm(pair)
        for one in report.values():
            self._watch_acceptance(pair, one)
        self._plans[pair] = calibrations_to_plain(self._calibration.serving(pair))

    def refit(self) -> None:
        """Refit what has seen enough, write what changed, and publish how everything is."""
        for pair in {*self._calibration.refit(), *self._unsaved}:
            self._save(pair)
        for pair in dict.fromkeys((*self._calibration.pairs, *self._acceptance)):
            self._plans[pair] = calibrations_to_plain(self._calibration.serving(pair))
            snapshot: dict[str, Any] = {"calibration": self._calibration.snapshot(pair)}
            if pair in self._acceptance:
                snapshot["acceptance"] = self._acceptance[pair].snapshot()
            self._snapshots[pair] = snapshot
            self._publish(pair, snapshot)
        if self._clock() - self._kept_s >= _KEEP_EVERY_S:
            self._kept_s = self._clock()
            self._keep_alarms()

    def _alarm(self, pair: DraftingPair) -> AcceptanceAlarm:
        """That of a pair seen for the first time, with what an earlier controller knew."""
        alarm = AcceptanceAlarm(self._promised.get(pair), is_trained=pair.drafter_id != NGRAM)
        if self._state_dir is None:
            return alarm
        path = self._state_dir / f"{_name(pair)}{_ALARM_SUFFIX}"
        try:
            alarm.remember(json.loads(path.read_text()))
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            log.warning("%s: what acceptance was usual is not used: %s", path, error)
        return alarm

    def _keep_alarms(self) -> None:
        if self._state_dir is None:
            return
        for pair, alarm in self._acceptance.items():
            path = self._state_dir / f"{_name(pair)}{_ALARM_SUFFIX}"
            unfinished = path.with_suffix(".unfinished")
            try:
                self._state_dir.mkdir(parents=True, exist_ok=True)
                unfinished.write_text(json.dumps(alarm.memory()))
                unfinished.replace(path)
            except OSError as error:
                log.warning("what acceptance is usual cannot be kept in %s: %s", path, error)

    def _watch_acceptance(self, pair: DraftingPair, report: KeyReport) -> None:
        alarm = self._acceptance[pair]
        was_active = alarm.active
        alarm.observe(report.drafts)
        if alarm.active and not was_active:
            log.warning("%s", collapse_text(pair, alarm))
        elif was_active and not alarm.active:
            log.warning(
                "%s: %.0f %% of the draft tokens tried are accepted again",
                _described(pair),
                100 * alarm.rate,
            )

    def _load(self) -> None:
        if self._state_dir is None:
            return
        for path in sorted(self._state_dir.glob(f"*{_SUFFIX}")):
            try:
                profile = load_calibration(path)
            except ProfileError as error:
                log.warning("calibrations learned earlier are not used: %s", error)
                continue
            self._calibration.start(profile.pair, calibrations_of(profile))
            self._plans[profile.pair] = calibrations_to_plain(
                self._calibration.serving(profile.pair)
            )

    def _save(self, pair: DraftingPair) -> None:
        if self._state_dir is None:
            return
        learned = self._calibration.learned(pair)
        profile = learned_profile(pair, learned, datetime.now(UTC).date())
        try:
            save_calibration(self._state_dir / f"{_name(pair)}{_SUFFIX}", profile)
        except OSError as error:
            if pair not in self._unsaved:
                log.warning("calibrations learned cannot be kept in %s: %s", self._state_dir, error)
            self._unsaved.add(pair)
        else:
            self._unsaved.discard(pair)


def collapse_text(pair: DraftingPair, alarm: AcceptanceAlarm) -> str:
    """What has happened, and how to mend it."""
    expected = alarm.expected
    return (
        f"{_described(pair)}: {alarm.rate:.0%} of the draft tokens tried are accepted, "
        f"{expected.rate:.0%} are expected by {expected.source}. The target is probably not the "
        "one its drafter was trained for (quantised, fine-tuned, another revision): serve that "
        "one, train a drafter for this one (dspark train), or set placement: off"
    )


def _described(pair: DraftingPair) -> str:
    return (
        f"target {pair.model_id} ({pair.model_revision}) with drafter {pair.drafter_id} "
        f"({pair.drafter_version})"
    )


def _name(pair: DraftingPair) -> str:
    return f"{pair.model_revision}-{pair.drafter_version}"
