from deployments.progress import ProgressWatch, Verdict

FINE, PROBE, WEDGED = Verdict.FINE, Verdict.PROBE, Verdict.WEDGED


def verdicts(results, limit_s=6):
    watch = ProgressWatch(limit_s)
    return [watch.tick(n) for n in results]


def test_an_engine_that_brings_results_is_fine_and_never_probed():
    assert verdicts(range(1, 30)) == [FINE] * 29


def test_a_silent_engine_is_probed_at_half_the_limit_and_wedged_at_the_whole():
    assert verdicts([0] * 6) == [FINE, FINE, PROBE, FINE, FINE, WEDGED]


def test_any_result_starts_the_limit_again():
    assert verdicts([0, 0, 0, 0, 0, 1, 1, 1, 1]) == [
        *(FINE, FINE, PROBE, FINE, FINE),
        *(FINE, FINE, FINE, PROBE),
    ]


def test_an_idle_engine_is_probed_again_and_again():
    answered = [0, 0, 0, *(1, 1, 1, 1), *(2, 2, 2, 2), 3]
    assert verdicts(answered).count(PROBE) == 3
    assert WEDGED not in verdicts(answered)
