"""Which tests may share the machine: `make test` runs those side by side, then the others."""

from __future__ import annotations

from pathlib import Path

import pytest

INTEGRATION = Path(__file__).parent / "integration"


@pytest.hookimpl(tryfirst=True)  # before -m chooses among them
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks `alone` what starts engines or uses a GPU."""
    for item in items:
        engine = INTEGRATION in item.path.parents and item.get_closest_marker("light") is None
        if engine or item.get_closest_marker("gpu") is not None:
            item.add_marker("alone")
