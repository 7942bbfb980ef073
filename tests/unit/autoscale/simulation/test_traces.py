import numpy as np
import pytest

from autoscale.simulation.traces import Arrival, TraceShape, draw_trace, load_trace, save_trace
from profiles.provenance import ProfileError


def test_a_trace_comes_back_in_order(tmp_path):
    trace = [Arrival(2.0, 10, 20, "batch", 3), Arrival(1.0, 5, 6, "latency", 4)]
    save_trace(tmp_path / "trace.parquet", trace)
    assert load_trace(tmp_path / "trace.parquet") == trace[::-1]


def test_a_request_that_cannot_be_is_refused(tmp_path):
    save_trace(tmp_path / "trace.parquet", [Arrival(1.0, 0, 20, "batch")])
    with pytest.raises(ProfileError, match="prompt_tokens=0"):
        load_trace(tmp_path / "trace.parquet")


def test_arrivals_follow_the_rate():
    rng = np.random.default_rng(0)
    trace = draw_trace(
        rng,
        TraceShape(),
        rate_per_s=50.0,
        duration_s=100.0,
        classes=("a", "b"),
        rate=lambda at_s: 0.5 if at_s < 50 else 1.5,
        peak=1.5,
    )
    early = sum(one.arrival_s < 50 for one in trace)
    assert early == pytest.approx(1250, rel=0.1)
    assert len(trace) - early == pytest.approx(3750, rel=0.1)
    assert {one.service_class for one in trace} == {"a", "b"}
    shape = TraceShape()
    assert np.mean([one.prompt_tokens for one in trace]) == pytest.approx(
        shape.mean_prompt_tokens, rel=0.05
    )
