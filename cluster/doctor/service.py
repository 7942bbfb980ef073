"""A served URL: asked from outside, as a client would, and what its answers mean."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx

from cluster.doctor.evidence import ServiceEvidence
from cluster.doctor.findings import Finding, broken, fine, warning
from cluster.pace import SHORTEST_S, lifetime_s

COMPLETION_S = 60.0
_PROMPT = "Once"
_MOST_TOKENS = 8


def ask_service(
    url: str,
    key: str | None = None,
    model: str | None = None,
    client: httpx.Client | None = None,
    completion_s: float = COMPLETION_S,
) -> ServiceEvidence:
    """Ask for the models, one real completion and the fleet, each with a time limit."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with client or httpx.Client(timeout=10) as http:
        models, models_error = _get(http, f"{url}/v1/models", headers)
        ids = tuple(str(one["id"]) for one in (models or {}).get("data", ()))
        fleet, fleet_error = _get(http, f"{url}/fleet", headers)
        open_fleet, _ = _get(http, f"{url}/fleet", {})
        asked = model or _first_generating(ids, fleet)
        tokens, took_s, error = 0, None, None
        if asked is not None:
            tokens, took_s, error = _complete(http, url, headers, asked, completion_s)
        return ServiceEvidence(
            url=url,
            models=ids,
            models_error=models_error,
            asked_model=asked,
            completion_tokens=tokens,
            completion_s=took_s,
            completion_error=error,
            fleet=fleet,
            fleet_error=fleet_error,
            answers_without_key=open_fleet is not None,
        )


def _first_generating(ids: tuple[str, ...], fleet: dict[str, Any] | None) -> str | None:
    """A model that drafts where there is one: that asks the whole path."""
    served = (fleet or {}).get("models", {})
    for id_ in ids:
        targets = served.get(id_, {}).get("targets", ())
        if any(target.get("placement") != "off" for target in targets):
            return id_
    return ids[0] if ids else None


def _get(
    http: httpx.Client, url: str, headers: dict[str, str]
) -> tuple[dict[str, Any] | None, str | None]:
    try:
        reply = http.get(url, headers=headers)
        if not reply.is_success:
            return None, f"{reply.status_code}: {reply.text[:200]}"
        body = reply.json()
    except (httpx.HTTPError, ValueError) as error:
        return None, str(error) or type(error).__name__
    return (body, None) if isinstance(body, dict) else (None, "not an object")


def _complete(
    http: httpx.Client, url: str, headers: dict[str, str], model: str, within_s: float
) -> tuple[int, float | None, str | None]:
    """Streamed, so that no token at all is told from few. Tokens, seconds, error."""
    body = {
        "model": model,
        "prompt": _PROMPT,
        "max_tokens": _MOST_TOKENS,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    began = time.monotonic()
    tokens = 0
    try:
        with http.stream(
            "POST", f"{url}/v1/completions", json=body, headers=headers, timeout=within_s
        ) as reply:
            if not reply.is_success:
                return 0, None, f"{reply.status_code}: {reply.read().decode()[:200]}"
            for line in reply.iter_lines():
                if time.monotonic() - began > within_s:
                    return tokens, None, f"not done within {within_s:g} s"
                if line.startswith("data: {"):
                    event = json.loads(line.removeprefix("data: "))
                    if "error" in event:
                        return tokens, None, str(event["error"].get("message"))
                    tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
    except httpx.TimeoutException:
        return tokens, None, f"nothing came within {within_s:g} s"
    except (httpx.HTTPError, ValueError) as error:
        return tokens, None, str(error) or type(error).__name__
    return tokens, round(time.monotonic() - began, 3), None


def check_service(service: ServiceEvidence) -> Iterator[Finding]:
    url = service.url
    if service.models_error is not None:
        yield broken(
            url,
            "service",
            service.models_error,
            "nobody is served",
            "`serve status` says what the application waits for; for 401 or 403 set "
            "OPENAI_API_KEY to a key of the service",
        )
        return
    if not service.models:
        why = "nothing can be asked"
        yield broken(url, "service", "no model is served", why, "`serve status`")
        return
    yield fine(url, "service", f"serves {', '.join(service.models)}")
    yield from _completion(service)
    yield from _fleet(service)


def _completion(service: ServiceEvidence) -> Iterator[Finding]:
    error = service.completion_error
    if error is None and service.completion_tokens:
        yield fine(
            service.url,
            "completion",
            f"{service.asked_model}: {service.completion_tokens} tokens in "
            f"{service.completion_s:g} s",
        )
        return
    yield broken(
        service.url,
        "completion",
        f"{service.asked_model}: {error or 'no token came'}",
        "the port answers and the engine does not: a health check by /v1/models sees nothing",
        "targets end themselves when their engine stalls (target.stall_limit_s); for one that "
        "does not, read its log and delete the replica",
    )


def _fleet(service: ServiceEvidence) -> Iterator[Finding]:
    if service.fleet is None:
        yield warning(
            service.url,
            "fleet",
            f"GET /fleet: {service.fleet_error}",
            "targets serve by local rules while no controller answers; or this is no such service",
            "look for the Controller deployment in `serve status`",
        )
        return
    if service.answers_without_key:
        yield warning(
            service.url,
            "API keys",
            "answers without a key",
            "whoever reaches the port may ask, and PATCH the fleet",
            "set `keys` in the Serve file, or keep the port on 127.0.0.1",
        )
    for model_id, model in sorted(service.fleet.get("models", {}).items()):
        yield from _model(service.url, model_id, model)


def _silent_s(target: dict[str, Any]) -> float:
    return lifetime_s(target.get("interval_s", SHORTEST_S))


def _model(url: str, model_id: str, model: dict[str, Any]) -> Iterator[Finding]:
    targets = model.get("targets", [])
    if not targets:
        yield broken(url, "targets", f"{model_id} has none", "nobody answers", "`serve status`")
        return
    silent = [t["replica_id"] for t in targets if t.get("age_s", 0) > _silent_s(t)]
    for replica in silent:
        why = "it has not reported for longer than six exchanges: its process may hang"
        yield warning(url, "targets", f"{replica} is silent", why, "read its log")
    alone = [t for t in targets if t.get("placement") == "split" and not t.get("drafter")]
    if alone:
        yield warning(
            url,
            "drafters",
            f"{len(alone)} of {len(targets)} targets of {model_id} have no drafter",
            "they decode without speculation",
            "`serve status`: is there a drafter replica, and is it running?",
        )
    down = [e for t in targets if (e := (t.get("stats") or {}).get("engine")) and e.get("down")]
    for engine in down:
        yield broken(
            url,
            "engine",
            f"{engine['url']} of {model_id}: {engine['down']}",
            "no token comes out of it; others of the model, if there are any, take its part",
            "restart it where it was launched: from here it cannot be",
        )
    for learned in model.get("learned", []):
        if (learned.get("acceptance") or {}).get("collapsed"):
            yield warning(
                url,
                "acceptance",
                f"{model_id}: less than half of what is expected is accepted",
                "the drafter is not this target's any more, or the target was changed",
                "train the drafter on the target's answers, or serve with placement: off",
            )
    if not silent and not alone and not down:
        yield fine(url, "targets", f"{model_id}: {len(targets)} of {len(targets)} report")
