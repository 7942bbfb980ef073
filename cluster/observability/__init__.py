"""What is to be seen of a fleet: metrics named once, dashboards and alerts that use them."""

from cluster.observability.metrics import METRICS, Metric, known_series
from cluster.observability.publisher import Publisher
from cluster.observability.samples import Sample

__all__ = ["METRICS", "Metric", "Publisher", "Sample", "known_series"]
