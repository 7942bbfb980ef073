"""Writes down what the scheduler of an engine core goes by, whenever that changes.

A line of JSON each, in a file per process: the promise that bounds prompt tokens in a step, and
the weights of the fleet's plan that it follows from.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.integration.hooks.when_imported import when_imported

DIRECTORY = "DSPARK_TEST_PREFILL"  # in the environment: where the files go


def install() -> None:
    when_imported("deployments.engine.bounded_prefill", _watch)


def _watch(module: ModuleType) -> None:
    scheduler: Any = module.BoundedPrefill
    promised_s = scheduler._promised_s
    last: list[Any] = []

    def watched(self: Any, decoding: list[Any]) -> float:
        found: float = promised_s(self, decoding)
        said = [found, dict(self._plans.current().class_weights)]
        if said != last:
            last[:] = said
            path = Path(os.environ[DIRECTORY]) / f"{os.getpid()}.jsonl"
            with path.open("a") as file:
                file.write(json.dumps({"promised_s": found, "weights": said[1]}) + "\n")
        return found

    scheduler._promised_s = watched
