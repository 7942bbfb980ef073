"""Evaluation of a served model, on counts as a fleet reports them."""

from __future__ import annotations

import json
import math
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import httpx
import pytest

from cluster.cli import main
from drafters.evaluation import served
from drafters.evaluation.benchmarks import Conversation
from drafters.evaluation.online import OnlinePlan, evaluate_online, format_served_report
from drafters.evaluation.plan import Mode
from drafters.evaluation.served import (
    Answer,
    Refused,
    ServedCounts,
    ServedModel,
    check_alone,
    messages,
)
from profiles.provenance import ProvenanceError
from profiles.served_acceptance import ServedCell, load_served, save_served

GREEDY = Mode(0.0, "none")
SAMPLED = Mode(1.0, "none")
METADATA = {"model_id": "demo", "policy": "the model's own"}


def target(committed: int, drafts: int, reached: list[int], accepted: list[int]) -> dict:
    return {
        "stats": {
            "committed_tokens": committed,
            "verified_drafts": drafts,
            "reached_by_position": reached,
            "accepted_by_position": accepted,
        }
    }


def cell(benchmark="gsm8k", turn=1, mode=GREEDY, prompts=4, drafts=10, accepted=(6, 3), bucket=0):
    place = (benchmark, mode.temperature, mode.thinking, turn, bucket)
    return ServedCell(*place, prompts, 50, drafts, (drafts, accepted[0]), accepted)


def test_counts_are_summed_over_the_targets_that_draft():
    model = {
        "targets": [
            target(10, 3, [3, 2], [2, 1]),
            target(20, 4, [4, 1], [1, 0]),
            {"stats": {}},
        ]
    }
    assert ServedCounts.of(model) == (30, 7, (7, 3), (3, 1))


def test_counts_of_two_readings():
    before, after = ServedCounts(10, 3, (3, 2), (2, 1)), ServedCounts(25, 5, (5, 4), (4, 1))
    assert after.since(before) == (15, 2, (2, 2), (2, 0))


def test_a_model_without_drafting_targets_is_refused():
    with pytest.raises(ValueError, match="no target of this model drafts"):
        ServedCounts.of({"targets": [{"stats": {}}]})
    with pytest.raises(ValueError, match="reached_by_position"):
        ServedCounts.of({"targets": [{"stats": {"committed_tokens": 1, "verified_drafts": 1}}]})


@pytest.mark.parametrize("committed", [30, 32, 34])
def test_counts_of_these_answers_alone(committed):
    check_alone(ServedCounts(committed, 9, (9, 4), (4, 2)), [Answer("a", 20), Answer("b", 10)])


@pytest.mark.parametrize("committed", [29, 35])
def test_counts_of_other_answers_are_refused(committed):
    counts = ServedCounts(committed, 9, (9, 4), (4, 2))
    with pytest.raises(ValueError, match=f"committed {committed} tokens .* answered with 30"):
        check_alone(counts, [Answer("a", 20), Answer("b", 10)])


def test_a_later_turn_is_asked_after_the_answers_so_far():
    said = messages(("one", "two", "three"), ["first"])
    assert [(m["role"], m["content"]) for m in said] == [
        ("user", "one"),
        ("assistant", "first"),
        ("user", "two"),
    ]


def test_acceptance_of_a_cell():
    found = cell().acceptance
    assert (found.length, found.by_position) == (1.9, (0.6, 0.5))
    assert math.isnan(cell(drafts=0, accepted=(0, 0)).acceptance.length)


def test_the_tables_of_a_report():
    cells = [
        cell(prompts=3),
        cell(prompts=1, bucket=2),
        cell("mt-bench", accepted=(4, 2)),
        cell("mt-bench", turn=2, prompts=3, accepted=(8, 8)),
        cell(mode=SAMPLED, accepted=(2, 0)),
    ]
    lines = format_served_report(cells, METADATA).splitlines()
    for line in (
        "# demo as served",
        "|  | prompts | greedy | temperature 1 |",
        "| gsm8k | 4 | 1.90 | 1.20 |",
        "| mt-bench | 4 | 2.10 |  |",
        "| macro average | 8 | 2.00 |  |",
        "| mt-bench | 0.600 | 0.833 |",
        "| 0-256 | 7 | 2.03 | 1.20 |",
        "| 512-1K | 1 | 1.90 |  |",
        "| first turn | 8 | 1.80 | 1.20 |",
        "| later turns | 3 | 2.60 |  |",
    ):
        assert line in lines


class Service(ServedModel):
    """Answers without a network; every answer is 5 tokens of two drafts, one accepted each."""

    def __init__(self) -> None:
        super().__init__("http://nowhere", "demo", max_output_tokens=5, concurrency=1)
        self.held: list[tuple[Mode, list[str]]] = []

    def context_tokens(self, mode, conversations, answers):
        return [300 if "long" in c.turns[0] else 20 for c in conversations]

    def hold(self, mode, conversations, answers):
        turns = [c.turns[len(a)] for c, a in zip(conversations, answers, strict=True)]
        self.held.append((mode, turns))
        replies = [Refused("no room") if t == "too long" else Answer("yes", 5) for t in turns]
        n = sum(isinstance(reply, Answer) for reply in replies)
        return ServedCounts(5 * n, 2 * n, (2 * n, 2 * n), (2 * n, 0)), replies


def test_an_evaluation_goes_on_where_it_stopped(tmp_path):
    benchmarks = {
        "one": [Conversation("a", "one", "chat", ("q",))],
        "two": [
            Conversation("b", "two", "chat", ("first", "second")),
            Conversation("c", "two", "chat", ("too long", "never asked")),
        ],
    }
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    plan = OnlinePlan(benchmarks, (GREEDY, SAMPLED), None)
    service = Service()
    report = evaluate_online(service, plan, tmp_path, METADATA, lambda line: None)
    asked = (["q"], ["first"], ["too long"], ["second"])
    once = [(m, turns) for m in (GREEDY, SAMPLED) for turns in asked]
    assert service.held == once
    cells = load_served(tmp_path / "served.parquet")
    assert [(c.benchmark, c.turn, c.context_bucket, c.num_prompts) for c in cells[:4]] == [
        ("one", 1, 0, 1),
        ("two", 1, 0, 1),
        ("two", 1, 1, 0),
        ("two", 2, 0, 1),
    ]
    for name in ("acceptance_length.png", "acceptance_by_position.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    (tmp_path / "cells" / "two at 1, thinking none.parquet").unlink()
    again = Service()
    assert evaluate_online(again, plan, tmp_path, METADATA, lambda line: None) == report
    assert again.held == once[5:]
    with pytest.raises(ProvenanceError, match="policy"):
        evaluate_online(again, plan, tmp_path, {**METADATA, "policy": "other"}, lambda line: None)


def test_a_service_that_refuses_every_prompt_is_not_evaluated(tmp_path):
    benchmarks = {"two": [Conversation("c", "two", "chat", ("too long", "never asked"))]}
    plan = OnlinePlan(benchmarks, (GREEDY,), None)
    with pytest.raises(ValueError, match="two: the service refuses every prompt: no room"):
        evaluate_online(Service(), plan, tmp_path, METADATA, lambda line: None)
    assert not (tmp_path / "report.md").exists()


class _Busy(BaseHTTPRequestHandler):
    """A service that has no seat for the first request, and no room for long ones."""

    num_asked: ClassVar[int] = 0

    def do_GET(self) -> None:
        targets = [target(5 if self.num_asked else 0, 2, [2, 1], [1, 1])]
        self._answer(200, {"models": {"demo": {"targets": targets}}})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/tokenize":
            self._answer(200, {"count": len(body["messages"][-1]["content"])})
            return
        type(self).num_asked += 1
        if self.num_asked == 1:
            self._answer(429, {})
        elif body["messages"][-1]["content"] == "long":
            self._answer(400, {"error": {"message": "maximum context length"}})
        else:
            choice = {"message": {"content": "yes"}}
            self._answer(200, {"choices": [choice], "usage": {"completion_tokens": 5}})

    def _answer(self, status: int, body: object) -> None:
        self.send_response(status)
        self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *args: object) -> None:
        pass


def test_a_busy_service_is_asked_again_and_a_refusal_says_why(monkeypatch):
    monkeypatch.setattr(served, "_SETTLED_S", 0.0)
    asked = [Conversation(turn, "one", "chat", (turn,)) for turn in ("short", "long")]
    with ThreadingHTTPServer(("127.0.0.1", 0), _Busy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        model = ServedModel(url, "demo", max_output_tokens=5, concurrency=1)
        assert model.context_tokens(GREEDY, asked, [[], []]) == [5, 4]
        counts, (answer, refused) = model.hold(GREEDY, asked, [[], []])
        server.shutdown()
    assert (answer, counts.committed_tokens) == (Answer("yes", 5), 5)
    assert "maximum context length" in refused.reason
    assert _Busy.num_asked == 3


class _Guarded(BaseHTTPRequestHandler):
    """A service that changes its policy for the holder of one key."""

    policies: ClassVar[list[object]] = []

    def do_GET(self) -> None:
        self._answer({"models": {"demo": {"controls": {"policy": None}, "targets": []}}})

    def do_PATCH(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.policies.append(body["policy"])
        self._answer({})

    def _answer(self, body: object) -> None:
        is_known = self.headers["Authorization"] == "Bearer k-admin"
        self.send_response(200 if is_known else 401)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *args: object) -> None:
        pass


def test_the_weights_that_serve_are_part_of_what_is_evaluated(monkeypatch):
    pairs = [{"model_revision": "a", "drafter_version": v} for v in ("old", "new")]
    targets = [{"pair": pair} for pair in pairs] + [{"pair": None}]
    service = Service()
    monkeypatch.setattr(service, "_fleet", lambda: {"targets": targets})
    assert service.versions() == {"model_revision": "a", "drafter_version": "new, old"}
    targets[:] = [{"pair": None}]
    with pytest.raises(ValueError, match="no target of this model drafts"):
        service.versions()


def test_a_service_with_keys_is_asked_with_one(monkeypatch):
    monkeypatch.setattr(served, "_SETTLED_S", 0.0)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Guarded) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        limits = {"max_output_tokens": 5, "concurrency": 1}
        url = f"http://127.0.0.1:{server.server_port}"
        with ServedModel(url, "demo", api_key="k-admin", **limits).verifying_by({"kind": "off"}):
            assert _Guarded.policies == [{"kind": "off"}]
        assert _Guarded.policies == [{"kind": "off"}, None]
        with (
            pytest.raises(httpx.HTTPStatusError, match="401"),
            ServedModel(url, "demo", **limits).verifying_by({"kind": "off"}),
        ):
            pass
        server.shutdown()


def test_cells_on_disk(tmp_path):
    save_served(tmp_path / "cells.parquet", [cell(), cell(turn=2)], METADATA)
    assert load_served(tmp_path / "cells.parquet", METADATA) == [cell(), cell(turn=2)]


def test_what_a_service_decides_for_itself_is_refused(tmp_path, capsys):
    arguments = ["evaluate", "--url", "http://127.0.0.1:9", "--model", "m"]
    arguments += ["--benchmarks", str(tmp_path), "--output", str(tmp_path / "out")]
    assert main([*arguments, "--candidates", "64", "--drafter-dtype", "float32"]) == 2
    assert "--candidates, --drafter-dtype: not with --url" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
