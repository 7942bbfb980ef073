"""What the chaos suite concludes from what it saw: outcomes, books, tables, the full disk."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.integration.chaos.books import TargetBooks, disagreements, read_log
from tests.integration.chaos.faults import Fault, small_disk
from tests.integration.chaos.load import (
    BROKEN,
    FAILED,
    HUNG,
    OTHER,
    REFUSED,
    RIGHT,
    UNREACHED,
    WRONG,
    Outcome,
    prompt_of,
    send,
)
from tests.integration.chaos.report import as_markdown, report

pytestmark = pytest.mark.light

STREAMED, WHOLE = 0, 1  # requests
DONE = "data: [DONE]"


def event(text: str) -> str:
    return "data: " + json.dumps({"choices": [{"delta": {"content": text}}]})


class Service(ThreadingHTTPServer):
    """Answers every request with the same status and lines; whole, or broken off after them."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status, self.lines, self.breaks_off = 200, [""], False

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        service: Any = self.server
        self.rfile.read(int(self.headers["content-length"]))
        body = "\n\n".join(service.lines).encode()
        self.send_response(service.status)
        self.send_header("content-length", str(len(body) + service.breaks_off))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made
        made.shutdown()


def answer(text: str) -> str:
    return json.dumps({"choices": [{"message": {"content": text}}]})


ERROR = 'data: {"error": {"message": "given up"}}'


@pytest.mark.parametrize(
    ("i", "status", "lines", "breaks_off", "kind"),
    [
        (WHOLE, 200, [answer("all")], False, RIGHT),
        (WHOLE, 200, [answer("al")], False, WRONG),
        (WHOLE, 200, [answer("all")], True, BROKEN),
        (STREAMED, 200, [event("a"), event("ll"), DONE, ""], False, RIGHT),
        (STREAMED, 200, [event("a"), event("al"), DONE, ""], False, WRONG),
        (STREAMED, 200, [event("a"), event("ll"), ""], False, BROKEN),
        (STREAMED, 200, [event("a"), ""], True, BROKEN),
        (STREAMED, 200, [event("a"), 'data: {"cho'], True, BROKEN),
        (STREAMED, 200, [event("a"), ERROR, DONE, ""], False, FAILED),
        (STREAMED, 429, ["{}"], False, REFUSED),
        (WHOLE, 503, ["{}"], False, FAILED),
        (WHOLE, 400, ["{}"], False, OTHER),
    ],
)
def test_what_became_of_a_request(service, i, status, lines, breaks_off, kind):
    service.status, service.lines, service.breaks_off = status, lines, breaks_off
    outcome = send(f"http://127.0.0.1:{service.server_port}", i, 0.0, {prompt_of(i): "all"})
    assert (outcome.request_id, outcome.kind, outcome.status) == (f"chaos-{i}", kind, status)
    assert outcome.sent_s <= outcome.ended_s


def test_nobody_is_there():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        assert send(url, 0, 0.0, {}).kind == UNREACHED


def test_nothing_comes(monkeypatch):
    monkeypatch.setattr("tests.integration.chaos.load.SILENCE_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert send(f"http://127.0.0.1:{silent.getsockname()[1]}", 0, 0.0, {}).kind == HUNG


def outcome(kind: str, status: int | None = 200, sent_s: float = 0.0, ended_s: float = 5.0):
    return Outcome("r", kind, status, sent_s, ended_s)


def line(status: int, *, is_whole: bool = True) -> dict[str, Any]:
    return {"request_id": "r", "status": status, "is_whole": is_whole}


@pytest.mark.parametrize(
    ("seen", "lines", "agree"),
    [
        (outcome(RIGHT), [line(200)], True),
        (outcome(RIGHT), [], False),
        (outcome(RIGHT), [line(200), line(200)], False),
        (outcome(RIGHT), [line(200, is_whole=False)], False),
        (outcome(REFUSED, 429), [line(429)], True),
        (outcome(REFUSED, 429), [line(503)], False),
        (outcome(FAILED, 503), [line(503)], True),
        (outcome(FAILED, 500), [], True),  # by Serve's proxy
        (outcome(FAILED), [line(200)], True),  # an error event
        (outcome(FAILED), [], False),
        (outcome(BROKEN), [], True),
        (outcome(BROKEN), [line(200, is_whole=False)], True),
        (outcome(BROKEN), [line(200)], False),
        (outcome(HUNG, None), [line(200)], False),
    ],
)
def test_the_request_log_agrees_or_does_not(seen, lines, agree):
    assert (disagreements([seen], lines, []) == []) is agree


def test_who_was_under_way_when_an_ingress_was_killed_may_be_missing():
    assert disagreements([outcome(RIGHT)], [], [5.5]) == []
    assert disagreements([outcome(RIGHT)], [], [60.0]) != []
    assert disagreements([outcome(RIGHT)], [line(503)], [5.5]) != []


def test_the_log_is_of_all_ingresses(tmp_path):
    for pid in (1, 2):
        (tmp_path / f"requests-{pid}.jsonl").write_text(json.dumps({"pid": pid}) + "\n")
    assert read_log(tmp_path) == [{"pid": 1}, {"pid": 2}]


class Books(TargetBooks):
    """Of a fleet that is told."""

    def __init__(self, whole_before: int = 0) -> None:
        self.now = 0.0
        super().__init__("http://127.0.0.1:9", "m", lambda: self.now, whole_before)
        self.close()


def target(name: str, age_s: float = 0.0, **counts: int) -> dict[str, Any]:
    names = ("arrived", "continued", "admitted", "shed_queue_full", "shed_too_late", "gave_up")
    totals = dict.fromkeys((*names, "met", "missed", "broken_off"), 0) | counts
    admission = {"classes": {"default": totals}}
    return {"replica_id": name, "age_s": age_s, "stats": {"admission": admission}}


def test_a_target_that_is_gone_may_have_counted_what_it_said_no_more():
    books = Books()
    books.saw([target("a", met=4, missed=1), target("b", met=2)])
    books.now = 20.0
    books.saw([target("b", met=3)])
    seen = [outcome(RIGHT, ended_s=-5.0)] * 8 + [outcome(RIGHT, ended_s=10.0), outcome(BROKEN)]
    assert books.whole_between(seen) == (8, 8, 10)
    assert books.targets["a"].gone_s == 20.0


def test_answers_from_before_are_not_counted():
    books = Books(whole_before=3)
    books.saw([target("a", met=4, missed=1)])
    assert books.whole_between([outcome(RIGHT)] * 2) == (2, 2, 2)


@pytest.mark.parametrize(
    ("counts", "adds_up"),
    [
        ({"arrived": 5, "admitted": 3, "shed_too_late": 2, "met": 2, "broken_off": 1}, True),
        ({"arrived": 5, "admitted": 3, "gave_up": 1, "shed_queue_full": 1, "missed": 3}, True),
        ({"arrived": 3, "continued": 2, "admitted": 5, "met": 5}, True),
        ({"arrived": 5, "admitted": 3, "met": 3}, False),
        ({"arrived": 3, "admitted": 3, "met": 2}, False),
    ],
)
def test_what_arrived_was_admitted_or_refused_and_ended(counts, adds_up):
    books = Books()
    books.saw([target("a", **counts)])
    assert books.targets["a"].adds_up is adds_up


def test_a_run_is_told_as_tables():
    early, late = outcome(RIGHT, ended_s=9.0), outcome(RIGHT, sent_s=50.0, ended_s=52.0)
    early = replace(early, longest_gap_s=3.25)
    cut = outcome(BROKEN, sent_s=11.0, ended_s=12.0)
    found = report([early, late, cut], [Fault("a kill", 8.0, 15.5), Fault("calm", 30.0, 31.0)])
    assert as_markdown(found).splitlines() == [
        "| requests | right | broken off | right, % | longest, s |",
        "| --- | --- | --- | --- | --- |",
        "| 3 | 2 | 1 | 66.7 | 9.0 |",
        "",
        "| fault | at, s | whole after, s | under way | not right | longest gap, s |",
        "| --- | --- | --- | --- | --- | --- |",
        "| a kill | 8 | 7.5 | 2 | 1 broken off | 3.2 |",
        "| calm | 30 | 1.0 | 0 | 0 | 0.0 |",
    ]
    assert found["ended_badly"] == [["r", BROKEN, 200, 11.0, 12.0]]


def test_a_disk_is_full_and_has_room_again(tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        if disk is None:
            pytest.skip("no file system can be mounted here")
        disk.fill()
        with pytest.raises(OSError, match="No space left"):
            (disk.directory / "file").write_text("x")
        disk.free()
        (disk.directory / "file").write_text("x")
