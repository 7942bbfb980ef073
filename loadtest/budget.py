"""Draft tokens that a served model verifies per request and step, by concurrency: the DSpark
paper's figure 8, on a live server."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from loadtest.counters import SETTLE_S, fleet_models
from loadtest.prompts import mixed_prompts
from loadtest.throughput import closed_loop_tokens_per_s


@dataclass(frozen=True, slots=True)
class BudgetPoint:
    """A concurrency: draft tokens verified and accepted per request and step, what calibrated
    confidences said would be accepted, and tokens per second."""

    concurrency: int
    budget_tokens: float
    accepted_tokens: float
    expected_tokens: float
    tokens_per_s: float


def measure_budgets(
    url: str,
    model: str,
    concurrencies: Sequence[int],
    *,
    max_tokens: int,
    rounds: int,
    sleep: Callable[[float], None],
    progress: Callable[[str], None],
) -> list[BudgetPoint]:
    """A closed loop at each concurrency. Raises httpx.HTTPError, ValueError for a model that
    does not draft."""
    points = []
    for concurrency in concurrencies:
        prompts = mixed_prompts(max(6, concurrency * (1 + rounds)))
        _run(url, model, prompts[:concurrency], max_tokens, concurrency)  # warms up
        sleep(SETTLE_S)
        before = totals(url, model)
        speed = _run(url, model, prompts, max_tokens, concurrency)
        sleep(SETTLE_S)
        after = totals(url, model)
        points.append(budget_point(concurrency, before, after, speed))
        progress(table_row(points[-1]))
    return points


def totals(url: str, model: str) -> dict[str, float]:
    """Counts of all targets of a model together."""
    models = fleet_models(url)
    stats = [target["stats"] for target in models.get(model, {"targets": []})["targets"]]
    if not any("draft_tokens" in one for one in stats):
        raise ValueError(f"no target of {model} at {url} drafts; there are {', '.join(models)}")
    names = ("committed_tokens", "draft_tokens", "accepted_tokens", "expected_tokens")
    return {name: sum(one.get(name, 0) for one in stats) for name in names}


def budget_point(
    concurrency: int, before: Mapping[str, float], after: Mapping[str, float], tokens_per_s: float
) -> BudgetPoint:
    """Every step commits one token of a request beside its accepted draft tokens, so what is
    committed without them counts the requests of all steps."""
    grown = {name: after[name] - before[name] for name in after}
    requests = max(grown["committed_tokens"] - grown["accepted_tokens"], 1)
    budget, accepted, expected = (
        grown[name] / requests for name in ("draft_tokens", "accepted_tokens", "expected_tokens")
    )
    return BudgetPoint(concurrency, budget, accepted, expected, tokens_per_s)


def table_header() -> str:
    """Markdown."""
    names = ("concurrency", "draft tokens verified", "accepted", "expected", "tokens/s")
    return f"| {' | '.join(names)} |\n|" + "---|" * len(names)


def table_row(point: BudgetPoint) -> str:
    values = (point.budget_tokens, point.accepted_tokens, point.expected_tokens)
    cells = " | ".join(f"{value:.2f}" for value in values)
    return f"| {point.concurrency} | {cells} | {point.tokens_per_s:.0f} |"


def save_budgets(points: Sequence[BudgetPoint], path: Path) -> None:
    """As a picture where the name ends in `.png` (needs the plots extra), else as JSON."""
    if path.suffix != ".png":
        path.write_text(json.dumps([asdict(point) for point in points], indent=2) + "\n")
        return
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes: Any = figure.subplots()
    concurrency = [point.concurrency for point in points]
    axes.plot(concurrency, [p.budget_tokens for p in points], "o-", label="verified")
    axes.plot(concurrency, [p.accepted_tokens for p in points], "s--", label="accepted")
    axes.set_xscale("log", base=2)
    axes.set_xticks(concurrency, [str(n) for n in concurrency])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("concurrent requests")
    axes.set_ylabel("draft tokens per request and step")
    axes.legend()
    figure.savefig(path, dpi=120)


def _run(url: str, model: str, prompts: Sequence[str], max_tokens: int, concurrency: int) -> float:
    return closed_loop_tokens_per_s(url, model, prompts, max_tokens=max_tokens, clients=concurrency)
