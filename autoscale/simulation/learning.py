"""What the controller of a simulated fleet learns of its replicas, by the code that serves."""

from __future__ import annotations

from collections.abc import Mapping

from autoscale.calibration import Calibration
from autoscale.causal_policy import Causal
from autoscale.fleet_calibration import FleetCalibration
from autoscale.fleet_step_cost import FleetStepCost, Merged
from autoscale.simulation.replica import SimulatedReplica
from profiles.calibration_key import CalibrationKey
from profiles.provenance import DraftingPair
from profiles.step_cost import EngineProvenance

_PAIR = DraftingPair("simulated", "target", "simulated", "drafter")
_ENGINE = EngineProvenance("simulated", "simulated", "", "", "", "", "", "")


class SimulatedLearning:
    """Calibrations from what became of drafts, and step costs with how drafting is."""

    def __init__(self) -> None:
        self._calibration = FleetCalibration()
        self._step_costs = FleetStepCost()

    @property
    def calibrations(self) -> Mapping[CalibrationKey, Calibration]:
        """What replicas are to use."""
        return self._calibration.serving(_PAIR)

    @property
    def step_cost(self) -> Merged | None:
        """What a new replica is to start from."""
        merged = self._step_costs.merge(_ENGINE)
        return merged if merged is not None and merged.is_learned else None

    def absorb_outcomes(self, replica: SimulatedReplica) -> None:
        """What became of a replica's drafts since the last time."""
        self._calibration.absorb(_PAIR, replica.drafts.replica.take_report())

    def absorb_step_cost(self, name: str, replica: SimulatedReplica) -> None:
        """What a replica's steps take by now, where its policy learns that."""
        if isinstance(replica.policy, Causal):
            self._step_costs.absorb(_ENGINE, name, replica.policy.learned())

    def refit(self) -> None:
        self._calibration.refit()
