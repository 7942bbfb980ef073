"""Engines that several files share: starting one takes longer than most tests."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.engines import make_engine


@pytest.fixture(scope="session")
def plain() -> Any:
    """vLLM as it is."""
    return make_engine("off")


@pytest.fixture(scope="session")
def speculative() -> Any:
    """vLLM with our worker; prompts longer than 64 tokens are prefilled in chunks."""
    return make_engine("split", enable_chunked_prefill=True, max_num_batched_tokens=64)
