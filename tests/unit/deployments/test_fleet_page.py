"""`/fleet/ui` in a real browser, against what the controller says: as text, with tables to read."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from autoscale.canary import ArmTotals, Comparison, Estimate
from cluster.controller import FleetController
from cluster.held_plan import HeldPlan
from deployments.callers import Callers, IdentifyCallers
from deployments.class_specs import KeySpec
from deployments.fleet_page import PAGE_PATH, fleet_page
from deployments.key_ring import KeyRing
from deployments.metering import Accounts
from tests.unit.cluster.reports import drafter_report, drafting_report

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium (Debian: chromium)")
PAGE = fleet_page()

Answer = tuple[int, dict[str, Any]]
DOWN: Answer = (503, {"error": {"message": "the fleet controller does not answer: it is gone"}})


def snapshot(*, broken: bool = False, name: str = "t0", steps: int = 100) -> Answer:
    """A target with its drafter; with a `broken` one beside it."""
    looks = iter(range(100))  # at the clock; two reports have to be 50 ms apart
    fleet = FleetController(lambda: 0.03 * next(looks))
    drafter = drafter_report()
    fleet.report_drafter(replace(drafter, secret=fleet.report_drafter(drafter).secret))
    report = drafting_report()
    stats = report.stats | {"steps": steps, "draft_tokens": 5 * steps}
    plan = HeldPlan(lambda: 0.0)
    plan.take(fleet.report_target(replace(report, replica_id=name)))
    fleet.report_target(replace(report, replica_id=name, stats=stats, held_plan=plan.snapshot()))
    if broken:
        held = HeldPlan().snapshot()
        silent = replace(report, replica_id="t1", load=None, held_plan=held)
        fleet.report_target(replace(silent, stats={"ranks_agree": False}))
    return 200, json.loads(json.dumps(fleet.snapshot()))


@contextmanager
def serving(answers: Sequence[Answer]) -> Iterator[str]:
    """The page, and an answer of `GET /fleet` after the other; the last one stays."""
    left = list(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == PAGE_PATH:
                self._answer(200, bytes(PAGE.body), dict(PAGE.headers))
            else:
                assert self.path == "/fleet"
                status, body = left.pop(0) if len(left) > 1 else left[0]
                self._answer(status, json.dumps(body).encode(), {})

        def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in ({"content-length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}{PAGE_PATH}"
        server.shutdown()
        thread.join()


def visit(answers: Sequence[Answer], profile: Path, *, virtual_ms: int = 5000) -> str:
    """The document as it stands after so long; whatever its script throws fails."""
    with serving(answers) as url:
        run = subprocess.run(
            [
                *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu"),
                *(f"--user-data-dir={profile}", "--enable-logging=stderr"),
                *(f"--virtual-time-budget={virtual_ms}", "--dump-dom", url),
            ],
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert run.returncode == 0, run.stderr
    thrown = [line for line in run.stderr.splitlines() if "CONSOLE" in line and "503" not in line]
    assert not thrown
    dom = run.stdout
    assert not re.search(r"undefined|NaN|\[object", said(dom))
    assert dom.count("<table") == dom.count("<caption")
    assert not re.search(r"<th(?![^>]*scope)[ >]", dom)
    return dom


def said(dom: str) -> str:
    """What people read."""
    body = re.sub(r"<(script|style|noscript).*?</\1>", "", dom, flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", body)))


@in_browser
def test_a_fleet_is_shown_as_the_controller_knows_it(tmp_path):
    answers = [snapshot(steps=100), snapshot(steps=200)]
    text = said(visit(answers, tmp_path))
    assert "Live" in text
    assert "Target replicas" in text
    assert "Acceptance by draft position" in text
    # One draft of three tokens, accepted at the first position; 0.75, 0.5 and 0.25 predicted.
    assert "1 1 75.0 % 100.0 % \N{MINUS SIGN}25.0 % 100.0 % 2 1 50.0 % 0.0 % +50.0 % 0.0 %" in text
    assert "0 to 1 5.00 1" in text  # the budget against load: 5 draft tokens per step
    assert "seed 2" in text
    assert "interactive 5 60.0 % 3 0 2 0 0 0" in text
    assert "secret 3" in text  # messages that the drafter dropped


@in_browser
def test_a_broken_replica_is_named_and_the_others_are_shown(tmp_path):
    text = said(visit([snapshot(broken=True)], tmp_path))
    assert "t1 ✕ broken its ranks disagree; it is being replaced" in text
    assert "1 target goes by local rules" in text
    assert re.search(r"t0 \S+ (drafts|drafting paused)", text)


@in_browser
def test_a_canary_is_shown_beside_the_serving_drafter_with_intervals(tmp_path):
    answer = snapshot()
    (model,) = answer[1]["models"].values()
    arms = ArmTotals(100, 1000, 1500, 10_000, 22_500, 15_000, 10, 10, 0.04, 0.00016)
    found = Comparison(arms, ArmTotals(), 0.02, Estimate(0.02, 0.01), None).to_plain()
    trial = {"name": "new:v2", "decision": "wait", "share": 0.05, "why": "0 of 50"}
    model["canary"] = json.loads(json.dumps(trial | found))
    text = said(visit([answer], tmp_path))
    assert "Canary new:v2: wait, 5 % of new sessions. 0 of 50" in text
    assert (
        "serving 100 2.50 2.50 to 2.50 4.0 ms 4.0 ms to 4.0 ms 100.0 % 2.0 % 0.0 % to 5.0 %" in text
    )
    assert "new 0 1.00 - to - 0.0 ms - to - - -" in text.replace("\N{EN DASH}", "-")


@in_browser
def test_without_replicas_it_says_what_to_wait_for(tmp_path):
    text = said(visit([(200, FleetController().snapshot())], tmp_path))
    assert "No replica has reported yet." in text


@in_browser
def test_what_was_known_stays_when_the_controller_is_away(tmp_path):
    dom = visit([snapshot(), DOWN], tmp_path)
    text = said(dom)
    assert "The controller does not answer · updated" in text
    assert "The fleet controller does not answer: it is gone. Serving goes on" in text
    assert "Below is what was known before." in text
    assert "Target replicas" in text
    assert 'role="alert"' in dom


@in_browser
def test_names_are_text_whatever_they_hold(tmp_path):
    dom = visit([snapshot(name="<img src=x onerror=alert(1)>")], tmp_path)
    assert "&lt;img src=x onerror=alert(1)&gt;" in dom
    assert "<img" not in dom


@in_browser
def test_a_key_is_asked_for_where_one_is_needed(tmp_path):
    dom = visit([(401, {"error": {"message": "no API key"}})], tmp_path, virtual_ms=3000)
    assert "This service asks for an API key." in said(dom)
    assert '<label for="key">' in dom


def test_the_page_loads_nothing_from_anywhere():
    page = bytes(PAGE.body).decode()
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", page)
    assert "default-src 'none'" in PAGE.headers["content-security-policy"]
    assert "connect-src 'self'" in PAGE.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("path", "is_let_through"), [(PAGE_PATH, True), ("/fleet", False), ("/fleet/ui/", False)]
)
def test_the_page_needs_no_key_and_the_fleet_does(path, is_let_through):
    passed = []

    async def app(scope, receive, send) -> None:
        passed.append(scope["path"])

    async def send(message) -> None:
        passed.append(message.get("status"))

    key = KeySpec(sha256="0" * 64, tenant="acme")
    guard = IdentifyCallers(app, Callers(["default"], KeyRing([key])), Accounts)
    scope = {"type": "http", "method": "GET", "path": path, "headers": []}
    step: Callable[..., Any] = guard(scope, None, send).send
    with pytest.raises(StopIteration):
        step(None)
    assert passed[0] == (path if is_let_through else 401)
