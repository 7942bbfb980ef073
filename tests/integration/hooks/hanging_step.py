"""An engine whose next step never ends. The engine is named by its process id in a file, and is
alive in all else: it keeps its connections, and its process runs."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.integration.hooks.when_imported import when_imported

PATH = "DSPARK_TEST_HANG"  # in the environment: the file, which need not be there


def hang(path: Path, engine_pid: int) -> None:
    """From its next step on. Nobody ever reads half of it."""
    new = path.with_suffix(".new")
    new.write_text(str(engine_pid))
    new.replace(path)


def install() -> None:
    when_imported("deployments.engine.drafting_worker", _hang_where_told)


def _hang_where_told(module: ModuleType) -> None:
    worker: Any = module.DraftingWorker

    def execute_model(self: Any, *args: Any, **kwargs: Any) -> Any:
        while _is_told():
            time.sleep(1)
        return super(worker, self).execute_model(*args, **kwargs)

    worker.execute_model = execute_model


def _is_told() -> bool:
    """Workers run in the engine's process, or each in a child of it."""
    path = Path(os.environ[PATH])
    return path.exists() and int(path.read_text()) in (os.getpid(), os.getppid())
