"""Greedy outputs of a bench's arms, kept beside its runs: whether speculation changed them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from loadtest.arms import VLLM, Arm, switch_to
from loadtest.divergence import DivergenceReport, Trace, compare_traces, greedy_traces
from loadtest.prompts import mixed_prompts
from loadtest.servers import Server

_NAME = "outputs.json"
_CONCURRENCY, _CONTROL = 8, 3  # the reference again at another one: what batch shapes change


class Outputs:
    """`outputs.json` of a result's directory: every arm's answers to the same `num_prompts`.

    Asked once each, after an arm's server was measured. `reference`, without speculation, is
    the arm that the others are compared with.
    """

    def __init__(self, directory: Path, reference: str, num_prompts: int, max_tokens: int) -> None:
        """Goes on with what is there, where as much was asked."""
        self._path = directory / _NAME
        self._max_tokens = max_tokens
        self._num_prompts = num_prompts
        found = _read(directory)
        if found.get("num_prompts") != num_prompts:
            found = {"num_prompts": num_prompts, "reference": reference, "arms": {}}
        self._found = found

    def lacks(self, arms: Sequence[Arm]) -> bool:
        """Whether an arm is still to be asked."""
        return next(self._missing(arms), None) is not None

    def ask(self, server: Server) -> None:
        """Ask those arms of a running server that are missing, and write each down.

        Raises `httpx.HTTPError`, ValueError where a server gives no token ids, RuntimeError
        where it does not take up a policy.
        """
        for name, arm, concurrency in list(self._missing(server.arms)):
            switch_to(server.url, arm, server.headers)
            traces = greedy_traces(
                server.url,
                arm.model,
                mixed_prompts(self._num_prompts),
                max_tokens=self._max_tokens,
                concurrency=concurrency,
                with_margins=name == self._found["reference"],
                headers=server.headers,
            )
            self._found["arms"][name] = [asdict(trace) for trace in traces]
            self._path.write_text(json.dumps(self._found) + "\n")

    def _missing(self, arms: Sequence[Arm]) -> Iterator[tuple[str, Arm, int]]:
        if not self._num_prompts:
            return
        for arm in arms:
            wanted = {arm.name: _CONCURRENCY}
            if arm.name == self._found["reference"]:
                wanted[_control(arm.name)] = _CONTROL
            for name, concurrency in wanted.items():
                if arm.dialect == VLLM and name not in self._found["arms"]:
                    yield name, arm, concurrency


def divergences(directory: Path) -> list[DivergenceReport]:
    """Every arm's outputs against the reference's, its control first; empty where none were
    asked."""
    found = _read(directory)
    arms = {name: list(map(_trace, traces)) for name, traces in found.get("arms", {}).items()}
    reference = arms.pop(found.get("reference", ""), None)
    if reference is None:
        return []
    control = _control(found["reference"])
    names = sorted(arms, key=lambda name: name != control)  # the others as they were asked
    return [compare_traces(name, reference, arms[name]) for name in names]


def _control(reference: str) -> str:
    return f"{reference} at {_CONTROL} (control)"


def _read(directory: Path) -> dict[str, Any]:
    path = directory / _NAME
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def _trace(plain: dict[str, list[Any]]) -> Trace:
    return Trace(tuple(plain["tokens"]), tuple(plain["margins"]))
