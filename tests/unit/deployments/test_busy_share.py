from deployments.drafter import SinceLast
from drafters.server import ServerStats


def test_a_drafter_was_busy_for_a_share_of_the_time_since_it_was_last_asked():
    now_s = [100.0]
    since = SinceLast(ServerStats(), lambda: now_s[0])

    def busy(drafted_s: float) -> float:
        return since.take(ServerStats(batches=1, merged_steps=1, total_step_s=drafted_s))["busy"]

    now_s[0] = 102.0
    assert busy(0.5) == 0.25
    now_s[0] = 104.0
    assert busy(2.5) == 1.0
    assert busy(2.5) == 0.0
