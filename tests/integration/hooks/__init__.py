"""What tests change within the processes of an application that runs: each has an `install`.

A process whose PYTHONPATH begins with this directory runs the one that `DSPARK_TEST_HOOK` names, a
module, before anything else.
"""

from __future__ import annotations

import os
from pathlib import Path

DIRECTORY = Path(__file__).parent
ROOT = DIRECTORY.parents[2]


def hooked(name: str) -> dict[str, str]:
    """The environment in which all Python processes run the hook."""
    paths = [str(DIRECTORY), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths), "DSPARK_TEST_HOOK": f"{__name__}.{name}"}
