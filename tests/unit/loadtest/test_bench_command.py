import argparse
import json
import sys
from contextlib import contextmanager

import pytest

from loadtest.arms import Arm
from loadtest.commands import register
from loadtest.divergence import Trace
from loadtest.servers import Running, Server
from profiles.load_records import load_load_records
from tests.unit.loadtest.scripted_endpoint import scripted_endpoint


def dspark(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    register(parser.add_subparsers())
    args = parser.parse_args(["bench", *arguments])
    return int(args.run(args))


def measure(directory, *endpoints: str) -> int:
    few = ("--concurrency", "1", "--rounds", "2", "--without-dspark")
    return dspark(*few, "--output", str(directory), "--endpoint", *endpoints)


def test_endpoints_side_by_side_end_in_a_table_and_a_page(tmp_path, capsys):
    with scripted_endpoint(gap_s=0.01) as one, scripted_endpoint(gap_s=0.01) as two:
        assert measure(tmp_path, f"one={one.url}#demo", f"two={two.url}#demo") == 0
    said = capsys.readouterr()
    assert said.out.startswith("| load | one | two |\n")
    assert "| closed:1 |" in said.out
    assert "errors 0.0%" in said.out
    assert "[4/4]" in said.err
    names = {path.name for path in tmp_path.iterdir()}
    tables = {"requests.parquet", "runs.parquet", "speeds.json"}
    assert names == {"figures", "report.html"} | tables
    rows = json.loads((tmp_path / "speeds.json").read_text())
    assert [(row["arm"], row["rounds"], row["error_rate"]) for row in rows] == [
        ("one", 2, 0.0),
        ("two", 2, 0.0),
    ]


def test_quick_changes_nothing_that_is_given(tmp_path):
    few = ("--concurrency", "2", "--rounds", "1", "--without-dspark")
    with scripted_endpoint() as server:
        endpoint = ("--endpoint", f"one={server.url}#demo", "--output", str(tmp_path))
        assert dspark("--quick", *few, *endpoint) == 0
        assert {request["max_tokens"] for request in server.asked} == {64}
    (run,) = load_load_records(tmp_path).runs
    assert (run.load, run.load_value, run.round) == ("closed", 2.0, 1)


QUICK = {
    "models": ["off", "colocated"],
    "policies": ["causal"],
    "concurrency": [1, 4, 16],
    "rounds": 2,
    "max_tokens": 64,
}


@pytest.mark.parametrize(("arguments", "changed"), [
    ([], {}),
    (["--models", "split"], {"models": ["split"]}),
    (["--policies", "fixed:3", "causal"], {"policies": ["fixed:3", "causal"]}),
    (["--policies", "split=fixed:3"], {"policies": ["split=fixed:3", "causal"]}),
    (["--concurrency"], {"concurrency": []}),
    (["--max-tokens", "128"], {"max_tokens": 128}),
    (["--rounds", "3"], {"rounds": 3}),
    (["--config", "deployments/configs/frontier-gpu.yaml"], {"models": []}),
])  # fmt: skip
def test_quick_sets_only_what_is_left_open(monkeypatch, arguments, changed):
    taken = []
    monkeypatch.setattr("loadtest.bench_command.bench", lambda args, _: taken.append(vars(args)))
    assert dspark("--quick", *arguments) == 0
    (args,) = taken
    assert {name: args[name] for name in QUICK} == QUICK | changed


def test_outputs_are_asked_after_an_arm_was_measured_and_once(tmp_path, monkeypatch, capsys):
    """Also of a server whose runs are there already; one that fails there fails alone."""
    arms = (Arm("demo", label="first"),)
    asked = []

    def answer(url, model, prompts, **_):
        asked.append((model, len(prompts), len(load_load_records(tmp_path).runs)))
        return [Trace((1,), (0.5,))] * len(prompts)

    def refuse(*_, **__):
        raise ValueError("no token_ids here")

    flags = (
        "--concurrency",
        "1",
        "--rounds",
        "1",
        "--without-dspark",
        "--endpoint",
        "x=http://x#m",
    )
    flags += ("--output", str(tmp_path))
    with scripted_endpoint() as server:
        ours = Server("ours", server.url, arms)
        monkeypatch.setattr("loadtest.bench_command.endpoint_server", lambda _: ours)
        assert dspark(*flags) == 0
        monkeypatch.setattr("loadtest.outputs.greedy_traces", refuse)
        assert dspark(*flags, "--divergence", "2") == 1
        assert "no token_ids here" in capsys.readouterr().err
        monkeypatch.setattr("loadtest.outputs.greedy_traces", answer)
        for _ in range(2):
            assert dspark(*flags, "--divergence", "2") == 0
    assert asked == [("demo", 2, 1)] * 2  # as it is and as its own control
    assert "Greedy outputs" in (tmp_path / "report.html").read_text()


def test_a_second_call_measures_nothing_and_reports_again(tmp_path, capsys):
    with scripted_endpoint() as server:
        assert measure(tmp_path, f"one={server.url}#demo") == 0
        asked = len(server.asked)
        (tmp_path / "report.html").unlink()
        assert measure(tmp_path, f"one={server.url}#demo") == 0
        assert len(server.asked) == asked
    assert (tmp_path / "report.html").exists()


def test_a_second_call_starts_no_server_for_prompts_that_were_clipped(tmp_path, monkeypatch):
    started = []

    @contextmanager
    def running_there(server, log):
        started.append(server.description)
        yield Running(server, None)

    monkeypatch.setattr("loadtest.bench_command.running", running_there)
    with scripted_endpoint() as server:
        for _ in range(2):
            endpoint = ("--endpoint", f"one={server.url}#demo", "--output", str(tmp_path))
            few = ("--concurrency", "1", "--rounds", "1", "--without-dspark")
            assert dspark(*few, *endpoint, "--context-tokens", "300", "4096", "8192") == 0
    assert started == [server.url]
    assert [run.context_tokens for run in load_load_records(tmp_path).runs] == [300, 512 - 192]


def test_speeds_are_compared_with_an_arm_that_is_named_or_was_run_earlier(tmp_path, capsys):
    with scripted_endpoint(gap_s=0.01) as one, scripted_endpoint(gap_s=0.01) as two:
        endpoints = [f"one={one.url}#demo", f"two={two.url}#demo"]
        assert measure(tmp_path, *endpoints) == 0
        assert "| arm | load of one |" in capsys.readouterr().out
        assert measure(tmp_path, endpoints[0], "--reference", "two", "one") == 0
    said = capsys.readouterr().out
    assert said.index("| arm | load of two |") < said.index("| arm | load of one |")
    ratios = {
        row["arm"]: row["ratio"] for row in json.loads((tmp_path / "speeds.json").read_text())
    }
    assert ratios["two"] == 1.0
    assert ratios["one"] != 1.0
    assert "<h3>Over two</h3>" in (tmp_path / "report.html").read_text()


def test_two_results_are_compared_without_a_server(tmp_path, capsys):
    before, after = tmp_path / "a", tmp_path / "b"
    for directory in (before, after):
        with scripted_endpoint() as server:
            measure(directory, f"one={server.url}#demo")
    capsys.readouterr()
    assert dspark("--compare", str(before), str(after)) == 0
    assert "\nBecame worse:\n- " in capsys.readouterr().out
    assert "Against the earlier result" in (after / "report.html").read_text()
    assert dspark("--compare", str(before), str(after), "--reference", "two") == 1
    assert "there is no arm 'two'; there are 'one'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--open", "flood:3"], "'flood:3' is no load"),
        (["--policies", "fixed:many"], "local, off, fixed:3 or threshold:0.3"),
        (["--policies", "casual"], "policy 'casual': write causal, lookahead,"),
        (["--policies", "split=fixed:3,causal:1"], "policy 'causal:1': write"),
        (["--policies", "off=causal"], "names off; models that go by a policy are split,"),
        (["--mix", "math"], "whole number"),
        (["--prompts", "nowhere"], "nowhere has no *.jsonl file"),
        (["--peers", "nobody"], "no peer 'nobody'"),
        (["--models", "nobody"], "has no model nobody; it has off, control"),
        (["--config", "Makefile"], "Makefile is no Serve file of ours"),
        (["--compare", "nowhere", "nowhere"], "runs.parquet: there is no such file"),
        (["--draft-model", "x"], "--draft-model is for the peer vllm-draft-model; add it"),
        (["--peers", "vllm-draft-model"], "give its directory, --draft-model"),
        (["--reference", "mtp fixed:1"], "no arm 'mtp fixed:1'; there are 'off', 'control',"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(tmp_path, capsys, arguments, message):
    assert dspark("--output", str(tmp_path), *arguments) == 1
    assert message in capsys.readouterr().err


def test_peers_are_given_the_target_of_a_model_that_is_measured(tmp_path, capsys):
    """Not the first of the file, which stands for another checkpoint."""
    config = tmp_path / "serve.yaml"
    config.write_text(
        "applications: [{args: {models: [{id: other, target: {source: x}}, {id: there, attach: {}}"
        "]}}]"
    )
    chosen = ("--config", str(config), "--models", "there", "--peers", "vllm")
    assert dspark("--output", str(tmp_path / "bench"), *chosen) == 1
    assert "--peers are given the target of a chosen model" in capsys.readouterr().err


def test_an_arm_needs_a_name_of_its_own(tmp_path, capsys):
    with scripted_endpoint() as server:
        assert measure(tmp_path, *[f"one={server.url}#demo"] * 2) == 1
    assert "arms need names of their own: one" in capsys.readouterr().err


def test_another_model_than_the_arms_is_refused(tmp_path, capsys):
    with scripted_endpoint() as server:
        assert measure(tmp_path, f"one={server.url}#qwen") == 1
    assert "serves demo, not 'qwen'" in capsys.readouterr().err


def test_what_others_gave_is_reported_where_one_server_fails(tmp_path, capsys):
    with scripted_endpoint() as server:
        gone = "gone=http://127.0.0.1:9#demo"
        assert measure(tmp_path, gone, f"one={server.url}#demo") == 1
    said = capsys.readouterr()
    assert "| closed:1 |" in said.out
    assert "nothing serves http://127.0.0.1:9" in said.err


def test_an_interrupted_run_can_be_gone_on_with(tmp_path, capsys, monkeypatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("loadtest.bench_command.run_server", interrupt)
    monkeypatch.setattr(sys, "argv", ["dspark", "bench"])
    with scripted_endpoint() as server:
        assert measure(tmp_path, f"one={server.url}#demo") == 130
    assert f"goes on in {tmp_path}" in capsys.readouterr().err
