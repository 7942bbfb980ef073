"""Where the time of a round goes: one stream at a time, against what a fleet counts of it.

A round is a target step with the drafting behind it. Of its wall time a target knows its forward
pass, sampling, the adapter and the wait for drafts, and a drafter what it computed. What nobody
counts is vLLM's scheduler and output, the ways between processes, and the stream to the client.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loadtest.counters import SETTLE_S, fleet_models
from loadtest.prompts import mixed_prompts
from loadtest.throughput import closed_loop_tokens_per_s

_COUNTED = {"off", "split", "colocated"}  # placements
_OF_TARGETS = ("steps", "committed_tokens", "forward_s", "sample_s", "adapter_s", "draft_s")


@dataclass(frozen=True, slots=True)
class Round:
    """A model's mean round in a run: tokens it commits, and milliseconds.

    Of `wall_ms`, `forward_ms` is the target's pass, `sample_ms` its sampling, `adapter_ms` ours,
    and `wait_ms` for drafts, of which `draft_ms` the drafter computes: in all of its steps, also
    those that nobody waited for. Steps that read a prompt are rounds too. Without speculation a
    model counts nothing: its rounds are of one token and have only their wall time.
    """

    tokens: float
    wall_ms: float
    forward_ms: float = 0.0
    sample_ms: float = 0.0
    adapter_ms: float = 0.0
    wait_ms: float = 0.0
    draft_ms: float = 0.0

    @property
    def wire_ms(self) -> float:
        """Waited for drafts while nobody computed them."""
        return self.wait_ms - self.draft_ms

    @property
    def rest_ms(self) -> float:
        """Counted by nobody."""
        counted = self.forward_ms + self.sample_ms + self.adapter_ms + self.wait_ms
        return self.wall_ms - counted


def measure_rounds(
    url: str,
    models: Sequence[str],
    *,
    num_prompts: int,
    max_tokens: int,
    runs: int,
    sleep: Callable[[float], None],
    progress: Callable[[str], None],
) -> dict[str, list[Round]]:
    """Rounds of every model, run by run; the models take turns.

    Raises httpx.HTTPError, ValueError for a model that nobody serves here or whose rounds nobody
    counts, and RuntimeError where a request is not answered.
    """
    for model in models:
        _check_placement(url, model)
    found: dict[str, list[Round]] = {model: [] for model in models}
    for run in range(-1, runs):  # the first one warms up
        for model in models:
            prompts = mixed_prompts(num_prompts)
            before = totals(url, model)
            speed = closed_loop_tokens_per_s(url, model, prompts, max_tokens=max_tokens, clients=1)
            sleep(SETTLE_S)
            if run >= 0:
                found[model].append(mean_round(before, totals(url, model), speed))
                progress(f"run {run + 1} of {runs}, {model}: {speed:.1f} tokens/s")
    return found


def totals(url: str, model: str) -> dict[str, float]:
    """What targets and drafters of a model have counted together; empty where none does."""
    return totals_of(fleet_models(url).get(model, {}))


def _check_placement(url: str, model: str) -> None:
    fleet = fleet_models(url)
    placements = {one["placement"] for one in fleet.get(model, {"targets": []})["targets"]}
    if not placements:
        raise ValueError(f"nobody serves {model} at {url}; there are {', '.join(fleet)}")
    if unknown := placements - _COUNTED:
        raise ValueError(f"{model} is {unknown.pop()}: what its rounds take is not ours to count")


def totals_of(model: Mapping[str, Any]) -> dict[str, float]:
    """The same of a model's entry in `GET /fleet`."""
    targets = [one["stats"] for one in model.get("targets", ()) if one["stats"]]
    if not any("forward_s" in one for one in targets):
        return {}
    found = {name: float(sum(one.get(name, 0) for one in targets)) for name in _OF_TARGETS}
    drafters = [one["stats"] for one in model.get("drafters", ())]
    if drafters:
        found["drafter_s"] = float(sum(one["total_step_s"] for one in drafters))
    return found


def mean_round(
    before: Mapping[str, float], after: Mapping[str, float], tokens_per_s: float
) -> Round:
    """The mean of the rounds between two readings, while `tokens_per_s` came."""
    grown = {name: after[name] - before.get(name, 0) for name in after}
    if not grown.get("steps"):
        return Round(1.0, 1000 / tokens_per_s)
    steps = grown["steps"]
    tokens = grown["committed_tokens"] / steps
    drafting = grown.get("drafter_s", grown["draft_s"])  # colocated, all the wait computes
    seconds = (*(grown[name] for name in _OF_TARGETS[2:]), drafting)
    return Round(tokens, 1000 * tokens / tokens_per_s, *(1000 * s / steps for s in seconds))


_ROWS = {
    "tokens per round": "tokens",
    "round, ms": "wall_ms",
    "target's forward pass": "forward_ms",
    "sampling and books": "sample_ms",
    "adapter and schedule": "adapter_ms",
    "draft compute": "draft_ms",
    "wire, and waiting for the drafter": "wire_ms",
    "scheduler, output, stream to the client": "rest_ms",
}


def table(rounds: Mapping[str, Sequence[Round]]) -> str:
    """Markdown: medians over runs, a column per model."""
    lines = [f"| | {' | '.join(rounds)} |", "|---|" + "---|" * len(rounds)]
    for title, name in _ROWS.items():
        cells = [_median(runs, name) for runs in rounds.values()]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    speeds = [
        f"{statistics.median(1000 * one.tokens / one.wall_ms for one in runs):.1f}"
        for runs in rounds.values()
    ]
    return "\n".join([*lines, f"| tokens/s | {' | '.join(speeds)} |"])


def _median(runs: Sequence[Round], name: str) -> str:
    counted = any(one.forward_ms for one in runs) or name in ("tokens", "wall_ms")
    return f"{statistics.median(getattr(one, name) for one in runs):.2f}" if counted else "-"
