"""Which metrics a PromQL expression asks for, well enough for expressions of our own."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_LABELS = re.compile(r"\{[^{}]*\}")
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^()]*\)")
_DURATION = re.compile(r"\[[^\[\]]*\]")
_NAME = re.compile(r"(?<![\w:$.])([a-zA-Z_:][\w:]*)(?!\s*\()(?![\w:])")
_WORDS = frozenset(["and", "or", "unless", "bool", "offset", "group_left", "group_right"])


def metric_names(expression: str) -> frozenset[str]:
    """Names in the place of metrics: neither functions, nor labels, nor PromQL's words."""
    text = _STRING.sub('""', expression)
    for pattern in (_LABELS, _GROUPING, _DURATION):
        text = pattern.sub(" ", text)
    return frozenset(name for name in _NAME.findall(text) if name.lower() not in _WORDS)


def without_variables(expression: str) -> str:
    """Grafana's variables filled in as a dashboard of everything would."""
    durations = {"$__rate_interval": "1m", "$__range": "5m"}
    for name, value in durations.items():
        expression = expression.replace(name, value)
    return re.sub(r"\$\w+", ".+", expression)


def promtool(*args: str) -> None:
    """Runs it. Skips where it is not installed."""
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    run = subprocess.run(["promtool", *args], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stdout + run.stderr
