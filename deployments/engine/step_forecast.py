"""What the coming step is expected to hold beside drafts: prompts, joining requests, weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from autoscale.policies import StepTerms
from autoscale.step_terms import request_weights, step_terms
from deployments.engine.engine_step import RequestTerms
from deployments.engine.worker_plan import AdviceInForce


class StepForecast:
    """Knows the prompts that are being read here, and asks the plan for the rest.

    A step computes at most `max_step_tokens` of `max_requests`.
    """

    def __init__(self, max_step_tokens: int, max_requests: int) -> None:
        self.advice = AdviceInForce()
        self._max_step_tokens = max_step_tokens
        self._max_requests = max_requests
        self._last: tuple[list[str], dict[str, float], NDArray[np.float64] | None] | None = None
        self._classes: dict[str, str] = {}  # of open requests that name one
        self._prompts: dict[str, int] = {}  # tokens of prompts that are being read ...
        self._unread: dict[str, int] = {}  # ... and what is left of them

    @property
    def unread_tokens(self) -> int:
        """Of prompts that are being read."""
        return sum(self._unread.values())

    def open(self, request_id: str, terms: RequestTerms) -> None:
        self._prompts[request_id] = self._unread[request_id] = terms.prompt_tokens
        if terms.service_class:
            self._classes[request_id] = terms.service_class

    def close(self, request_id: str) -> None:
        self._last = None
        self._classes.pop(request_id, None)
        self._prompts.pop(request_id, None)
        self._unread.pop(request_id, None)

    def is_reading(self, request_id: str) -> bool:
        """Whether a request's prompt is not finished, as far as this was told."""
        return request_id in self._unread

    def read(self, request_id: str, end: int, *, has_begun: bool) -> None:
        """A step computed a request that `is_reading` up to position `end`; `has_begun`: it has
        a token."""
        if has_begun:
            del self._unread[request_id], self._prompts[request_id]
        else:
            self._unread[request_id] = max(0, self._prompts[request_id] - end)

    def terms(self, request_ids: Sequence[str], drafted_ids: Sequence[str]) -> StepTerms:
        """Of a step of `request_ids`, of which `drafted_ids` have drafts, in their order."""
        plan = self.advice.current()
        weights = self._weights_of(request_ids, plan.class_weights)
        drafted: slice | NDArray[np.int64] = slice(None)
        if weights is not None and drafted_ids != request_ids:
            place = {id_: i for i, id_ in enumerate(request_ids)}
            drafted = np.array([place[id_] for id_ in drafted_ids], dtype=np.int64)
        return step_terms(
            plan,
            len(request_ids),
            unread_tokens=self.unread_tokens,
            max_step_tokens=self._max_step_tokens,
            max_requests=self._max_requests,
            weights=weights,
            drafted=drafted,
        )

    def _weights_of(
        self, request_ids: Sequence[str], class_weights: Mapping[str, float]
    ) -> NDArray[np.float64] | None:
        """Weights [R]; the last answer again where nothing has changed, as in most steps."""
        if not class_weights:
            return None
        if self._last is None or self._last[:2] != (request_ids, class_weights):
            classes = [self._classes.get(id_, "") for id_ in request_ids]
            weights = request_weights(class_weights, classes)
            self._last = list(request_ids), dict(class_weights), weights
        return self._last[2]
