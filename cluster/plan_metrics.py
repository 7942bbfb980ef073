"""Prometheus metrics of the exchange; Ray exports them as `ray_dspark_...`."""

from __future__ import annotations

from ray.util.metrics import Counter, Gauge

from cluster.held_plan import HeldPlan


class ControllerMetrics:
    """Of the controller."""

    def __init__(self) -> None:
        self._num_dropped = 0
        self._dropped = Counter(
            "dspark_controller_dropped_reports", "Reports that came too fast or were too many"
        )

    def dropped(self, num_dropped: int) -> None:
        """How many there are by now."""
        if num_dropped > self._num_dropped:
            self._dropped.inc(num_dropped - self._num_dropped)
            self._num_dropped = num_dropped


class PlanMetrics:
    """Of a target replica and the plan that it holds."""

    def __init__(self, model_id: str) -> None:
        self._tags = {"model": model_id}
        self._told: dict[str, int] = {}
        keys = ("model",)
        self._age = Gauge("dspark_plan_age_seconds", "Age of the plan held", tag_keys=keys)
        self._stale = Gauge("dspark_plan_stale", "1 while local rules decide", tag_keys=keys)
        self._failed = Counter(
            "dspark_exchange_failures", "Exchanges without an answer", tag_keys=keys
        )
        self._outdated = Counter(
            "dspark_plan_outdated", "Plans of a controller that is not the latest", tag_keys=keys
        )
        self._refused = Counter(
            "dspark_plan_refused_fields",
            "Fields of plans that could not be followed",
            tag_keys=(*keys, "field"),
        )

    def failed(self) -> None:
        """An exchange got no plan."""
        self._failed.inc(1, self._tags)

    def show(self, held: HeldPlan) -> None:
        """As the plan is held now."""
        if held.age_s is not None:
            self._age.set(held.age_s, self._tags)
        self._stale.set(float(held.is_stale), self._tags)
        self._raise(self._outdated, "", held.num_outdated, self._tags)
        for field, count in held.refused.items():
            self._raise(self._refused, field, count, self._tags | {"field": field})

    def _raise(self, counter: Counter, name: str, count: int, tags: dict[str, str]) -> None:
        more = count - self._told.get(name, 0)
        if more > 0:
            counter.inc(more, tags)
            self._told[name] = count
