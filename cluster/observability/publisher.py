"""Samples to Ray's metrics, whatever their kind: the one place that touches `ray.util.metrics`."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from ray.util.metrics import Counter, Gauge, Histogram

from cluster.observability.metrics import Metric, Source, of_source
from cluster.observability.samples import Sample

log = logging.getLogger(__name__)


class Publisher:
    """Publishes what one process has to say. `tags` are those of its source, for all samples.

    A counter's sample is its total; what it grew by since the last one is added. A total that
    fell, as the counting process began anew, counts from zero.
    """

    def __init__(self, source: Source, **tags: str) -> None:
        self._tags = tags
        metrics = of_source(source)
        self._instruments = {name: _instrument(metric) for name, metric in metrics.items()}
        self._has_failed = False
        self._told: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}

    def publish(self, samples: Iterable[Sample]) -> None:
        """Never raises: metrics are not worth a replica. What is wrong is logged the first time."""
        try:
            for sample in samples:
                self._take(sample)
        except Exception:
            if not self._has_failed:
                log.exception("metrics cannot be published")
            self._has_failed = True

    def _take(self, sample: Sample) -> None:
        name, value, own = sample
        instrument = self._instruments[name]
        tags = {**self._tags, **own}
        if isinstance(instrument, Gauge):
            instrument.set(float(value), tags)
        elif isinstance(instrument, Histogram):
            instrument.observe(float(value), tags)
        else:
            self._raise(instrument, name, value, tags)

    def _raise(self, counter: Counter, name: str, total: float, tags: dict[str, str]) -> None:
        key = name, tuple(sorted(tags.items()))
        before = self._told.get(key, 0.0)
        more = total - before if total >= before else total
        if more > 0:
            counter.inc(more, tags)
        self._told[key] = total


def _instrument(metric: Metric) -> Counter | Gauge | Histogram:
    says, tags = f"{metric.meaning} ({metric.unit})", metric.all_tags
    if metric.kind == "histogram":
        return Histogram(metric.name, says, boundaries=list(metric.buckets), tag_keys=tags)
    return {"counter": Counter, "gauge": Gauge}[metric.kind](metric.name, says, tag_keys=tags)
