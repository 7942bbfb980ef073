"""Drafters whose confidences drift, at once and for all that run: a factor on their log-odds.

It stands in a file that is read at every step; above 1 a drafter is surer of everything than it
should be, for and against, below 1 of nothing.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.integration.hooks.when_imported import when_imported

PATH = "DSPARK_TEST_DRIFT"  # in the environment: the file


def drift_to(path: Path, factor: float) -> None:
    """From now on it is so much. Nobody ever reads half of it."""
    new = path.with_suffix(".new")
    new.write_text(str(factor))
    new.replace(path)


def install() -> None:
    when_imported("drafters.engine", _distort)


def _drifted(draft: Any, factor: float) -> Any:
    confidences = draft.confidences.logit(eps=1e-6).mul(factor).sigmoid()
    return replace(draft, confidences=confidences)


def _distort(module: ModuleType) -> None:
    engine: Any = module.DraftEngine
    step = engine.step

    def drifting(self: Any, batches: list[Any]) -> list[Any]:
        factor = float(Path(os.environ[PATH]).read_text())
        return [_drifted(draft, factor) for draft in step(self, batches)]

    engine.step = drifting
