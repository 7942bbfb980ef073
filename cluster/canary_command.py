"""`dspark canary`: start a new drafter's trial and follow it to its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import httpx

from cluster.text_table import table

_POLL_S = 5.0
_UNREACHED_S = 60.0  # until it is given up: a controller or an ingress restarts in less
_LATE_S = 120.0  # beyond its patience, within which the controller decides


class CanaryError(Exception):
    """Refused by the server, or lost by it, with the reason."""


def run_canary(
    client: httpx.Client,
    model_id: str | None,
    asked: Mapping[str, Any],
    say: Callable[[str], None],
    *,
    wait: bool = True,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> bool:
    """Whether the new drafter was promoted, or begun where nobody is to `wait`.

    It takes no longer than its patience and two minutes. Raises CanaryError, httpx.HTTPError.
    """
    model_id = model_id or _only_model(client)
    name = _ask(client.post(f"/fleet/models/{model_id}/canary", json=asked))["canary"]["name"]
    say(f"{name} is starting beside the drafter of {model_id}, for {asked['share']:.1%} of it")
    if not wait:
        say("dspark status shows how it does")
        return True
    said = ""  # not looked at yet
    until_s = clock() + asked["patience_s"] + _LATE_S
    while True:
        sleep(_POLL_S)
        state = _state(client, model_id, sleep, clock)
        if state is None or state["name"] != name:
            raise CanaryError(f"the trial of {name} is lost: its controller restarted; begin again")
        if state["decision"] != "wait":
            say("\n".join(canary_lines(state)))
            break
        if clock() > until_s:
            raise CanaryError(
                f"{name} is still undecided; see dspark status, or end it with --stop"
            )
        if state["why"] != said:
            said = state["why"]
            say(f"{state['decision']}: {said}")
    is_kept = bool(state["decision"] == "promote")
    if is_kept:
        say(f"{name} drafts for all new sessions; put it into the Serve file to keep it")
    return is_kept


def _state(
    client: httpx.Client,
    model_id: str,
    sleep: Callable[[float], None],
    clock: Callable[[], float],
) -> dict[str, Any] | None:
    """A model's canary, asked for again while nobody answers for the model. Raises CanaryError,
    httpx.HTTPError."""
    until_s = clock() + _UNREACHED_S
    while True:
        try:
            models = _ask(client.get("/fleet"))["models"]
            if model_id not in models:
                raise CanaryError(f"no replica of {model_id} reports")
        except (CanaryError, httpx.HTTPError):
            if clock() > until_s:
                raise
            sleep(_POLL_S)
        else:
            state: dict[str, Any] | None = models[model_id].get("canary")
            return state


def stop_canary(client: httpx.Client, model_id: str | None) -> str:
    """Raises CanaryError where there is none."""
    model_id = model_id or _only_model(client)
    _ask(client.delete(f"/fleet/models/{model_id}/canary"))
    return f"the drafters of {model_id} draft for all of its sessions"


def canary_lines(state: Mapping[str, Any]) -> list[str]:
    """The verdict, and both drafters side by side, intervals in brackets."""
    verdict = f"canary {state['name']}: {state['decision']}"
    verdict += f": {state['why']}" if state["why"] else ""
    if "canary" not in state:
        return [verdict, "nothing counted"]
    rows = [("", "requests", "acceptance length", "wait ms", "answered", "ECE beyond noise, %")]
    for arm in ("serving", "canary"):
        one = state[arm]
        rows.append(
            (
                arm,
                str(one["requests"]),
                _interval(one["acceptance_length"]),
                _interval(one["wait_ms"]),
                "-" if one["answered"] is None else f"{one['answered']:.1%}",
                "-" if one["ece"] is None else _interval([100 * ece for ece in one["ece"]]),
            )
        )
    return [verdict, f"speed {_interval(state['speed'])} of the serving one", *table(rows)]


def _interval(values: Sequence[float | None]) -> str:
    value, low, high = ("?" if one is None else f"{one:.2f}" for one in values)
    return f"{value} [{low}, {high}]"


def _only_model(client: httpx.Client) -> str:
    models = list(_ask(client.get("/fleet"))["models"])
    if len(models) != 1:
        raise CanaryError(f"say --model: there are {', '.join(sorted(models)) or 'none'}")
    return str(models[0])


def _ask(reply: httpx.Response) -> dict[str, Any]:
    try:
        body: dict[str, Any] = reply.json()
        if reply.is_success:
            return body
        said = body["error"]["message"]
    except (ValueError, LookupError, TypeError):  # of a proxy, perhaps
        said = f"{reply.request.url} answers {reply.status_code}"
    raise CanaryError(said)
