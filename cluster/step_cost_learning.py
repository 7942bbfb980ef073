"""What the fleet learns of step costs: merged over replicas, kept on disk, handed to new ones.

As with `cluster.fleet_learning`, reports are absorbed and merged in a thread while the event
loop reads plain values that are replaced as a whole.
"""

from __future__ import annotations

import logging
from collections.abc import Container, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from autoscale.fleet_step_cost import FleetStepCost, Merged, StepCostReport, learned_profile
from autoscale.step_cost_fit import costs_of
from profiles.fingerprint import settings_fingerprint
from profiles.provenance import ProfileError
from profiles.step_cost import EngineProvenance, load_step_cost, save_step_cost

log = logging.getLogger(__name__)

_SUFFIX = ".step-cost.parquet"


class StepCostLearning:
    """Step costs of every kind of engine that serves.

    With a `state_dir`, tables are written there whenever their version rises, one profile for
    each engine, and a new controller goes on from them; a damaged file is named in the log
    and left aside.
    """

    def __init__(self, state_dir: Path | None = None) -> None:
        self.num_malformed_reports = 0
        self._state_dir = state_dir
        self._fleet = FleetStepCost()
        self._engine_of: dict[str, EngineProvenance] = {}  # by replica
        self._merged: dict[EngineProvenance, Merged] = {}
        self._unsaved: set[EngineProvenance] = set()  # tried again with every refit
        self._relative: dict[str, float] = {}  # by replica
        self._load()

    def plan(self, engine: EngineProvenance) -> dict[str, Any] | None:
        """What a new replica on such an engine is to start from; None while nothing is learned
        that it could not measure itself. From any thread."""
        merged = self._merged.get(engine)
        return merged.to_plain() if merged is not None and merged.is_learned else None

    def relative(self, replica_id: str) -> float:
        """What a replica's steps take over the usual cost: 1 where little is known of it."""
        return self._relative.get(replica_id, 1.0)

    def snapshot(self) -> list[dict[str, Any]]:
        """Per engine where it comes from, version, and the learned costs. From any thread."""
        return [
            engine.as_metadata()
            | {
                "version": merged.version,
                "n_tokens": list(merged.table.n_tokens),
                "step_cost_s": [round(cost, 6) for cost in merged.table.step_cost_s],
                "num_steps": [round(steps) for steps in merged.num_steps],
            }
            for engine, merged in self._merged.items()
        ]

    def absorb(self, engine: EngineProvenance, replica_id: str, report: Mapping[str, Any]) -> None:
        """A replica's `StepCostReport.to_plain`. One that cannot be is counted and dropped."""
        try:
            self._fleet.absorb(engine, replica_id, StepCostReport.from_plain(report))
        except ValueError as error:
            self.num_malformed_reports += 1
            log.warning("step costs of a replica are dropped: %s", error)
            return
        self._engine_of[replica_id] = engine

    def refit(self, living: Container[str]) -> None:
        """Merge what `living` replicas have reported, and write down what changed."""
        for replica_id in [id_ for id_ in self._engine_of if id_ not in living]:
            self._fleet.forget(self._engine_of.pop(replica_id), replica_id)
        before = self._merged
        self._merge()
        for engine, merged in self._merged.items():
            known = before.get(engine)
            is_written = known is not None and known.is_learned and known.version == merged.version
            if merged.is_learned and (engine in self._unsaved or not is_written):
                self._save(engine, merged)

    def _merge(self) -> None:
        merged: dict[EngineProvenance, Merged] = {}
        relative: dict[str, float] = {}
        for engine in self._fleet.engines():
            found = self._fleet.merge(engine)
            assert found is not None
            merged[engine] = found
            relative |= self._fleet.relative(engine)
        self._merged, self._relative = merged, relative

    def _load(self) -> None:
        if self._state_dir is None:
            return
        for path in sorted(self._state_dir.glob(f"*{_SUFFIX}")):
            try:
                profile = load_step_cost(path)
                table, _ = costs_of(profile)
            except (ProfileError, ValueError) as error:
                log.warning("step costs learned earlier are not used: %s", error)
                continue
            self._fleet.learn(profile, table)
        self._merge()

    def _save(self, engine: EngineProvenance, merged: Merged) -> None:
        if self._state_dir is None:
            return
        profile = learned_profile(
            engine,
            merged.table,
            merged.num_steps,
            version=merged.version,
            learned_on=datetime.now(UTC).date(),
        )
        path = self._state_dir / f"{settings_fingerprint(engine.as_metadata())}{_SUFFIX}"
        try:
            save_step_cost(path, profile)
        except OSError as error:
            if engine not in self._unsaved:
                log.warning("step costs learned cannot be kept in %s: %s", self._state_dir, error)
            self._unsaved.add(engine)
        else:
            self._unsaved.discard(engine)
