"""A line per request: to find it again, and never what it said."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import time

import httpx
import pytest

from deployments.request_headers import CLASS_HEADER, TENANT_HEADER
from deployments.request_log import LogFile, RequestLog

OURS = {TENANT_HEADER: "acme", CLASS_HEADER: "batch"}
SECRET = "prompt that nobody may read"


class Target:
    """An application that streams two chunks; `breaks` between them."""

    def __init__(self, breaks=False):
        self.breaks = breaks
        self.headers: dict[bytes, bytes] = {}

    async def __call__(self, scope, receive, send):
        self.headers = dict(scope["headers"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"answer", "more_body": True})
        if self.breaks:
            raise ConnectionError
        await send({"type": "http.response.body", "body": b"!"})


def ask(target, path="/v1/completions", **headers):
    """What a client gets, and the lines that were written of it."""
    lines = []

    async def run():
        transport = httpx.ASGITransport(
            app=RequestLog(target, lines.append), raise_app_exceptions=False
        )
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            sent = OURS | {"authorization": "Bearer key"} | headers
            return await http.post(path, content=SECRET, headers=sent)

    return asyncio.run(run()), lines


def test_a_line_says_who_asked_and_what_became_of_it():
    target = Target()
    reply, (line,) = ask(target, **{"x-request-id": "r-7"})
    assert reply.headers["x-request-id"] == "r-7"
    assert target.headers[b"x-request-id"] == b"r-7"
    assert line.pop("time").endswith("+00:00")
    assert 0 <= line.pop("first_byte_ms") <= line.pop("ms")
    assert line == {
        "request_id": "r-7",
        "method": "POST",
        "path": "/v1/completions",
        "tenant": "acme",
        "service_class": "batch",
        "status": 200,
        "is_whole": True,
        "bytes": 7,
    }


@pytest.mark.parametrize("jump_s", [-3600.0, 3600.0])
def test_what_a_request_took_is_not_told_by_a_clock_that_jumps(monkeypatch, jump_s):
    target, now_s = Target(), time.time()

    async def jumping(scope, receive, send):
        monkeypatch.setattr("time.time", lambda: now_s + jump_s)
        await target(scope, receive, send)

    _, (line,) = ask(jumping)
    assert 0 <= line["first_byte_ms"] <= line["ms"] < 60_000


def test_neither_prompt_nor_output_nor_key_is_in_it():
    _, lines = ask(Target())
    text = json.dumps(lines)
    assert not [word for word in (SECRET, "answer", "Bearer", "key") if word in text]


def test_an_answer_that_broke_off_is_no_whole_one():
    _, (line,) = ask(Target(breaks=True))
    assert (line["status"], line["is_whole"], line["bytes"]) == (200, False, 6)


def test_a_request_without_an_id_gets_one_and_a_long_one_is_cut():
    target = Target()
    reply, (line,) = ask(target)
    assert reply.headers["x-request-id"] == line["request_id"]
    assert target.headers[b"x-request-id"].decode() == line["request_id"]
    _, (line,) = ask(Target(), **{"x-request-id": "a" * 1000})
    assert line["request_id"] == "a" * 128


def test_the_fleet_and_its_page_are_no_requests():
    _, lines = ask(Target(), path="/fleet")
    assert lines == []


def test_lines_go_to_a_file_of_the_process(tmp_path):
    log = pickle.loads(pickle.dumps(LogFile(str(tmp_path / "log"))))
    log({"request_id": "a"})
    log({"request_id": "b"})
    (path,) = (tmp_path / "log").iterdir()
    assert [json.loads(line)["request_id"] for line in path.read_text().splitlines()] == ["a", "b"]


def test_a_directory_that_cannot_be_written_costs_the_log_alone(tmp_path, caplog):
    (tmp_path / "taken").touch()
    log = LogFile(str(tmp_path / "taken"))
    log({})
    log({})
    assert [record.getMessage()[:26] for record in caplog.records] == ["requests are not logged: ["]


def test_a_full_disk_costs_lines_and_is_said_once(tmp_path, caplog, capsys):
    path = tmp_path / f"requests-{os.getpid()}.jsonl"
    path.symlink_to("/dev/full")
    log = LogFile(str(tmp_path))
    for _ in range(3):
        log({"request_id": "lost"})
    (said,) = caplog.records
    assert said.getMessage() == "requests are not logged: [Errno 28] No space left on device"
    assert capsys.readouterr().err == ""
    path.unlink()
    log._handler.stream = path.open("w")  # there is room again
    log({"request_id": "kept"})
    assert json.loads(path.read_text().splitlines()[-1])["request_id"] == "kept"
    assert caplog.messages[1:] == ["requests are logged again; lost are at most 3"]
    log._handler.close()


def test_a_log_that_cannot_be_written_costs_no_answer(tmp_path):
    (tmp_path / f"requests-{os.getpid()}.jsonl").symlink_to("/dev/full")

    async def run():
        app = RequestLog(Target(), LogFile(str(tmp_path)))
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app), base_url="http://test"
        ) as http:
            return await http.post("/v1/completions", content=SECRET)

    reply = asyncio.run(run())
    assert (reply.status_code, reply.text) == (200, "answer!")


@pytest.fixture(autouse=True)
def _errors_are_captured(caplog):
    caplog.set_level("ERROR", logger="deployments.request_log")
