"""Writes down what the scheduler of an engine core goes by, whenever that changes.

A line of JSON each, in a file per process: the promise that bounds prompt tokens in a step, and
the weights of the fleet's plan that it follows from.
"""

from __future__ import annotations

import json
import os
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

DIRECTORY = "DSPARK_TEST_PREFILL"  # in the environment: where the files go
_MODULE = "deployments.engine.bounded_prefill"


def install() -> None:
    sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds the module where it is, and watches it once it is loaded."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != _MODULE:
            return None
        found = PathFinder.find_spec(name, path, target)
        if found is not None and found.loader is not None:
            found.loader = _Watching(found.loader)
        return found


class _Watching(Loader):
    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _watch(module.BoundedPrefill)


def _watch(scheduler: Any) -> None:
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
