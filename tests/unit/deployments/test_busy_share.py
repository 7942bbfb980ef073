from deployments.drafter import BusyShare


def test_a_drafter_was_busy_for_a_share_of_the_time_since_it_was_last_asked():
    now_s = [100.0]
    busy = BusyShare(lambda: now_s[0])
    now_s[0] = 102.0
    assert busy.take(drafted_s=0.5) == 0.25
    now_s[0] = 104.0
    assert busy.take(drafted_s=2.5) == 1.0
    assert busy.take(drafted_s=2.5) == 0.0
