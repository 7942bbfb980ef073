from types import SimpleNamespace

import pytest

from cluster.hooks import Hook, missing


class Runner:
    def execute(self, scheduler_output, intermediate=None):
        pass


def import_(name):
    if name != "engine":
        raise ImportError(f"No module named {name!r}")
    return SimpleNamespace(Runner=Runner, NAMES={})


@pytest.mark.parametrize(
    "hook",
    [
        Hook("engine", "NAMES"),
        Hook("engine", "Runner.execute"),
        Hook("engine", "Runner.execute", ("self", "scheduler_output", "intermediate")),
        Hook("engine", "Runner.execute", ("self", "scheduler_output"), passes_on=True),
    ],
)
def test_a_hook_that_is_as_needed_is_not_missing(hook):
    assert missing([hook], import_) == []


@pytest.mark.parametrize(
    ("hook", "line"),
    [
        (
            Hook("motor", "Runner"),
            "motor cannot be imported (ImportError: No module named 'motor')",
        ),
        (Hook("engine", "Runner.sample"), "engine has no Runner.sample"),
        (
            Hook("engine", "Runner.execute", ("self", "scheduler_output")),
            "engine.Runner.execute takes (self, scheduler_output, intermediate), needed "
            "(self, scheduler_output)",
        ),
        (
            Hook("engine", "Runner.execute", ("self", "output"), passes_on=True),
            "engine.Runner.execute takes (self, scheduler_output, intermediate), needed "
            "(self, output)",
        ),
    ],
)
def test_a_hook_that_is_not_is_named_with_what_was_found(hook, line):
    assert missing([Hook("engine", "NAMES"), hook], import_) == [line]
