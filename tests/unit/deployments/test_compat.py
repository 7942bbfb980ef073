import pytest

from cluster.versions import CompatibilityError
from deployments.engine.compat import check_signatures


class Runner:
    def execute_model(self, scheduler_output, intermediate_tensors=None):
        pass


def test_the_expected_signature_passes():
    check_signatures(
        Runner, {"execute_model": ("self", "scheduler_output", "intermediate_tensors")}
    )


def test_another_signature_is_named_with_what_is_needed():
    with pytest.raises(CompatibilityError, match=r"takes \(self, scheduler_output, .*needed"):
        check_signatures(Runner, {"execute_model": ("self", "scheduler_output")})


def test_a_missing_hook_is_named():
    with pytest.raises(CompatibilityError, match=r"has no sample_tokens\(\)"):
        check_signatures(Runner, {"sample_tokens": ("self",)})
