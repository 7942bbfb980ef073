"""`dspark canary`: start a new drafter's trial and follow it to its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx

from cluster.text_table import table

_POLL_S = 5.0
_START_S = 300.0  # until the new drafter has answered a first time


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
) -> bool:
    """Whether the new drafter was promoted, or begun where nobody is to `wait`.

    One that is rolled back is taken away. Raises CanaryError, httpx.HTTPError.
    """
    model_id = model_id or _only_model(client)
    name = _ask(client.post(f"/fleet/models/{model_id}/canary", json=asked))["canary"]["name"]
    say(f"{name} is starting beside the drafter of {model_id}, for {asked['share']:.1%} of it")
    if not wait:
        say("dspark status shows how it does")
        return True
    said = None
    began = time.monotonic()
    while True:
        sleep(_POLL_S)
        state = _ask(client.get("/fleet"))["models"].get(model_id, {}).get("canary")
        if state is None or state["name"] != name:
            raise CanaryError(f"the trial of {name} is lost: its controller restarted; begin again")
        if "canary" not in state and time.monotonic() - began > _START_S:
            stop_canary(client, model_id)
            raise CanaryError(f"{name} did not come up in {_START_S:.0f} s; see its replicas' logs")
        line = f"{state['decision']}: {state['why'] or 'the new drafter is starting'}"
        if line != said:
            say(line)
            said = line
        if state["decision"] != "wait":
            say("\n".join(canary_lines(state)))
            break
    if state["decision"] == "promote":
        say(f"{name} drafts for all new sessions; put it into the Serve file to keep it")
        return True
    stop_canary(client, model_id)
    return False


def stop_canary(client: httpx.Client, model_id: str | None) -> str:
    """Raises CanaryError where there is none."""
    model_id = model_id or _only_model(client)
    _ask(client.delete(f"/fleet/models/{model_id}/canary"))
    return f"the drafters of {model_id} draft for all of its sessions"


def canary_lines(state: Mapping[str, Any]) -> list[str]:
    """Both drafters side by side, intervals in brackets."""
    if "canary" not in state:
        return [f"canary {state['name']}: {state['decision']}, nothing counted yet"]
    rows = [("", "requests", "acceptance length", "wait ms", "answered", "ECE of survival")]
    for arm in ("serving", "canary"):
        one = state[arm]
        rows.append(
            (
                arm,
                str(one["requests"]),
                _interval(one["acceptance_length"]),
                _interval(one["wait_ms"]),
                "-" if one["answered"] is None else f"{one['answered']:.1%}",
                "-" if one["ece"] is None else f"{one['ece']:.1%}",
            )
        )
    return [
        f"canary {state['name']}: {state['decision']}, speed "
        f"{_interval(state['speed'])} of the serving one",
        *table(rows),
    ]


def _interval(values: list[float | None]) -> str:
    value, low, high = ("?" if one is None else f"{one:.2f}" for one in values)
    return f"{value} [{low}, {high}]"


def _only_model(client: httpx.Client) -> str:
    models = list(_ask(client.get("/fleet"))["models"])
    if len(models) != 1:
        raise CanaryError(f"say --model: there are {', '.join(sorted(models)) or 'none'}")
    return str(models[0])


def _ask(reply: httpx.Response) -> dict[str, Any]:
    body: dict[str, Any] = reply.json()
    if not reply.is_success:
        raise CanaryError(body["error"]["message"])
    return body
