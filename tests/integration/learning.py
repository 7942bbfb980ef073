"""A controller that learns from one target in the test process."""

from __future__ import annotations

from itertools import cycle, islice
from typing import Any

from vllm import SamplingParams

from cluster.controller import FleetController
from cluster.fleet_learning import FleetLearning
from cluster.messages import TargetReport
from deployments.drafting_pair import drafting_pair, promised_rate
from loadtest.prompts import PROMPTS
from tests.integration.engines import GAMMA

_REQUESTS = 20  # of an exchange


class LearningFleet:
    """One target and a controller: their exchange is the served one.

    `model` are the settings of `engine`, whose drafter's card is known. What became of drafts
    before is not reported.
    """

    def __init__(self, engine: Any, model: Any, *, temperature: float) -> None:
        self._engine = engine
        self._params = SamplingParams(temperature=temperature, max_tokens=48, ignore_eos=True)
        self._pair = drafting_pair(model)
        promised = promised_rate(model, GAMMA)
        assert promised is not None
        self._learning = FleetLearning(promised={self._pair: promised})
        self._controller = FleetController(learning=self._learning)
        self._prompts = cycle(PROMPTS)
        self._taken()

    def outcomes(self) -> dict[str, Any]:
        """What became of the drafts of twenty requests."""
        prompts = islice(self._prompts, _REQUESTS)
        chats: list[Any] = [[{"role": "user", "content": prompt}] for prompt in prompts]
        self._engine.chat(chats, self._params, use_tqdm=False)
        return self._taken()

    def serve(self) -> dict[str, Any]:
        """Twenty requests, an exchange and a refit; what is known of the pair then."""
        outcomes = self.outcomes()
        report = TargetReport("t", "demo", "split", 1, {}, self._pair, outcomes)
        self._learning.absorb(self._pair, outcomes)
        self._learning.refit()
        plan = self._controller.report_target(report)
        worker_plan = {"calibrations": plan.calibrations}
        self._engine.collective_rpc("dspark_apply_plan", args=(worker_plan,))
        (learned,) = self._controller.snapshot()["models"]["demo"]["learned"]
        return dict(learned)

    def _taken(self) -> dict[str, Any]:
        ((outcomes, _),) = self._engine.collective_rpc("dspark_take_outcomes")
        return dict(outcomes)
