"""Imported by Python itself as it starts."""

from __future__ import annotations

import os
from importlib import import_module

if "DSPARK_TEST_HOOK" in os.environ:
    import_module(os.environ["DSPARK_TEST_HOOK"]).install()
