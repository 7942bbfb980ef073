"""`GET /fleet` as a table for people: one line per replica, what it does and what it goes by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cluster.canary_command import canary_lines
from cluster.text_table import table

_COLUMNS = (
    "target",
    "run/wait/seats",
    "tok/s",
    "step ms",
    "over usual",
    "cost err",
    "plan",
    "expects",
    "budget",
    "accepts (said)",
    "drafter",
)
_UNKNOWN = "-"


def status_text(fleet: Mapping[str, Any]) -> str:
    """Raises KeyError for what is no answer of `GET /fleet`."""
    lines = []
    for model_id, model in sorted(fleet["models"].items()):
        lines += [*_model_lines(model_id, model), ""]
    controller = fleet["controller"]
    lines.append(
        f"controller: {controller['plans']} plans, {controller['dropped_reports']} reports "
        f"dropped, {controller['impossible_loads']} impossible loads"
    )
    return "\n".join(lines)


def _model_lines(model_id: str, model: Mapping[str, Any]) -> list[str]:
    load = model["load"]
    rows = [_COLUMNS, *(_target_row(target) for target in model["targets"])]
    return [
        f"{model_id}: {load['num_replicas']} replicas, {load['running']} running, "
        f"{load['waiting']} waiting, {load['arrivals_per_s']:.1f} requests/s "
        f"({_number(load['expected_arrivals_per_s'], '.1f')} expected), "
        f"{load['tokens_per_s']:.0f} tokens/s, "
        f"{_number(load['accepted_per_draft'], '.2f')} accepted per draft",
        *table(rows),
        *(_engine_line(target) for target in model["targets"] if "engine" in target["stats"]),
        *(_pool_line(load) if model["drafters"] else ()),
        *(_drafter_line(drafter) for drafter in model["drafters"]),
        *(canary_lines(model["canary"]) if model.get("canary") else ()),
        *(_promise_line(name, counts) for name, counts in sorted(load["outcomes"].items())),
        *(line for learned in model["learned"] for line in _learned_lines(learned)),
    ]


def _target_row(target: Mapping[str, Any]) -> tuple[str, ...]:
    load, stats, plan = target["load"] or {}, target["stats"], target["plan"]
    schedule = stats.get("schedule", {})
    cost = schedule.get("drafted_cost" if schedule.get("drafting") else "plain_cost", {})
    seats = [load.get(name, _UNKNOWN) for name in ("running", "waiting", "seats")]
    return (
        target["replica_id"],
        "/".join(map(str, seats)),
        _number(load.get("tokens_per_s"), ".0f"),
        _number(_thousandfold(load.get("step_s")), ".1f"),
        _number(target["relative_step_cost"], ".2f"),
        _number(cost.get("relative_error"), ".1%"),
        _plan(target["held_plan"]),
        f"{_number(plan['expected_requests'], '.1f')} req, "
        f"{_number(plan['expected_prefill_tokens'], '.0f')} tok",
        _budget(schedule),
        _accepts(stats),
        target["drafter"] or target["placement"],
    )


def _accepts(stats: Mapping[str, Any]) -> str:
    """Per draft, and what confidences said; attached engines have none that we see."""
    drafts = stats.get("verified_drafts", 0)
    if not drafts:
        length = stats.get("engine", {}).get("acceptance_length")
        return _UNKNOWN if length is None else f"{length - 1:.2f}"
    said = stats["expected_tokens"] / drafts if "expected_tokens" in stats else None
    return f"{stats['accepted_tokens'] / drafts:.2f} ({_number(said, '.2f')})"


def _plan(held: Mapping[str, Any]) -> str:
    if held.get("seq") is None:
        return "none yet"
    age = f"{held['age_s']:.1f} s"
    refused = sum(held["refused"].values())
    said = f"stale, {age}: local rules" if held["is_stale"] else f"#{held['seq']}, {age}"
    return said + (f", {refused} fields refused" if refused else "")


def _budget(schedule: Mapping[str, Any]) -> str:
    """Draft tokens per request in a step."""
    if not schedule:
        return _UNKNOWN
    if not schedule["drafting"]:
        return "0 (paused)"
    return f"{schedule['verified_per_draft'] * schedule['drafted_share']:.2f}"


def _engine_line(target: Mapping[str, Any]) -> str:
    engine = target["stats"]["engine"]
    said = f"DOWN for {engine['down_s']:.0f} s: {engine['down']}" if engine["down"] else "up"
    metrics = f"; tells no load ({engine['no_metrics']})" if engine["no_metrics"] else ""
    return f"engine {engine['url']} of {target['replica_id']}: {said}{metrics}"


def _pool_line(load: Mapping[str, Any]) -> tuple[str, ...]:
    busy, wait_ms = load["drafter_busy"], 1000 * load["draft_wait_s"]
    return (f"drafters: {_number(busy, '.0%')} busy, a step waits {wait_ms:.1f} ms for drafts",)


def _drafter_line(drafter: Mapping[str, Any]) -> str:
    sessions = drafter["stats"].get("engine", {}).get("sessions", _UNKNOWN)
    return f"drafter {drafter['replica_id']} at {drafter['address']}: {sessions} sessions"


def _promise_line(name: str, counts: Sequence[float]) -> str:
    ended, met = counts
    kept = f"{met / ended:.1%} of {ended:.0f} lately" if ended >= 1 else "nothing ended lately"
    return f"class {name}: kept {kept}"


def _learned_lines(learned: Mapping[str, Any]) -> list[str]:
    lines = []
    name = f"{learned['drafter_id']} ({learned['drafter_version']})"
    for key, one in sorted(learned.get("calibration", {}).items()):
        ece = _number(one.get("recent_ece"), ".1%")
        alarm = ", DRIFT" if one.get("drift_alarm") else ""
        lines.append(f"{name} {key}: calibration v{one['version']}, ECE {ece}{alarm}")
    acceptance = learned.get("acceptance")
    if acceptance and acceptance.get("collapsed"):
        lines.append(f"{name}: ACCEPTANCE COLLAPSED to {_number(acceptance.get('rate'), '.0%')}")
    return lines


def _number(value: float | None, form: str) -> str:
    return _UNKNOWN if value is None else format(value, form)


def _thousandfold(seconds: float | None) -> float | None:
    return None if seconds is None else 1000 * seconds
