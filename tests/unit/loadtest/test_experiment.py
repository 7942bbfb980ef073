from dataclasses import replace
from pathlib import Path

import pytest

from loadtest.arms import Arm
from loadtest.arrivals import parse_load
from loadtest.conversations import bundled
from loadtest.experiment import Plan, Progress, Results, run_server, tasks
from loadtest.peers import endpoint_server
from loadtest.policies import PolicyChoice
from loadtest.servers import Server, ServerError, check_models, dspark_server, running
from profiles.load_records import load_load_records
from profiles.provenance import ProfileError
from tests.unit.loadtest.scripted_endpoint import CHUNKS, scripted_endpoint

PLAN = Plan(
    loads=(parse_load("closed:2"), parse_load("poisson:20")),
    rounds=2,
    max_tokens=16,
    temperature=0.0,
    seed=0,
    duration_s=0.3,
    stall_s=5.0,
    conversations=tuple(bundled()),
    mix={},
)
METADATA = {"hardware": "here", "commands": "dspark bench"} | PLAN.as_metadata()
MUST_MATCH = ("hardware", *PLAN.as_metadata())


def server_of(url: str, *names: str) -> Server:
    arms = tuple(Arm("demo", label=name) for name in names)
    return Server("a test's", url, arms)


def measure(server: Server, directory, plan: Plan = PLAN, visit: int = 1) -> list[str]:
    said: list[str] = []
    results = Results(directory, METADATA, MUST_MATCH)
    left = len(results.left(plan, server, visit))
    with running(server, directory / "log") as one:
        run_server(plan, one, visit, results, Progress(left, said.append))
    return said


def test_arms_take_turns_and_every_other_round_goes_backwards():
    order = [(t.load.kind, t.round, t.arm.name) for t in tasks(PLAN, [Arm("a"), Arm("b")], 1)]
    assert order == [
        *[("closed", 1, "a"), ("closed", 1, "b"), ("closed", 2, "b"), ("closed", 2, "a")],
        *[("poisson", 1, "a"), ("poisson", 1, "b"), ("poisson", 2, "b"), ("poisson", 2, "a")],
    ]


def test_every_arm_gets_the_same_requests_in_the_same_order(tmp_path):
    with scripted_endpoint() as server:
        said = measure(server_of(server.url, "one", "two"), tmp_path)
    records = load_load_records(tmp_path)
    assert len(records.runs) == len(said) == 2 * 2 * 2
    assert len({run.sitting for run in records.runs}) == 1
    assert {run.num_gpus for run in records.runs} == {0.0}
    asked = {
        (run.arm, run.load, run.round): [row.prompt_id for row in records.requests_of(run)]
        for run in records.runs
    }
    for load in ("closed", "poisson"):
        for round_ in (1, 2):
            assert asked["one", load, round_] == asked["two", load, round_]
        assert asked["one", load, 1] != asked["one", load, 2]
    assert all(row.output_tokens == sum(CHUNKS) for row in records.requests)
    assert said[-1].startswith("[8/8] one|poisson:20@0|visit 1|round 2")
    assert said[-1].endswith("about 0 min left")


def test_every_run_has_a_prefix_cache_of_its_own(tmp_path):
    with scripted_endpoint() as server:
        measure(server_of(server.url, "one"), tmp_path)
    salts = [request["cache_salt"] for request in server.asked]
    assert len(set(salts)) == 2 * (1 + 2)  # a warm-up and two rounds of both loads
    assert all(request["ignore_eos"] and request["return_token_ids"] for request in server.asked)


def test_what_was_measured_is_not_measured_again(tmp_path):
    with scripted_endpoint() as server:
        one = server_of(server.url, "one")
        measure(one, tmp_path, replace(PLAN, rounds=1))
        first = load_load_records(tmp_path)
        server.asked.clear()
        assert measure(one, tmp_path, replace(PLAN, rounds=1)) == []
        assert server.asked == []
        assert len(measure(one, tmp_path)) == 2
    runs = load_load_records(tmp_path).runs
    assert runs[:2] == first.runs
    assert len({run.sitting for run in runs}) == 2


def test_another_trace_under_the_same_name_is_measured_again(tmp_path):
    path = tmp_path / "trace.jsonl"
    with scripted_endpoint() as server:
        for middle_ms in (100, 120, 100):  # the same rate, and in the end the first one again
            stamps = (0, middle_ms, 200)
            path.write_text("\n".join(f'{{"timestamp": {stamp}}}' for stamp in stamps))
            plan = replace(PLAN, rounds=1, loads=(parse_load(f"trace:{path}"),))
            measure(server_of(server.url, "one"), tmp_path / "bench", plan)
    first, second = load_load_records(tmp_path / "bench").runs
    assert first.load_value == second.load_value
    assert len({first.trace, second.trace, ""}) == 3
    assert f"trace:{second.trace}@0" in second.run_id


def test_results_of_another_machine_are_not_added_to(tmp_path):
    with scripted_endpoint() as server:
        measure(server_of(server.url, "one"), tmp_path, replace(PLAN, rounds=1))
    with pytest.raises(ProfileError, match="hardware is 'here' there and 'there' here"):
        Results(tmp_path, METADATA | {"hardware": "there"}, MUST_MATCH)


def test_a_draft_model_may_come_later_and_is_no_other_one_then(tmp_path):
    with scripted_endpoint() as server:
        one = server_of(server.url, "one")
        measure(one, tmp_path, replace(PLAN, rounds=1))
        keyed, keys = METADATA | {"draft_model": "a1"}, (*MUST_MATCH, "draft_model")
        results = Results(tmp_path, keyed, keys)
        with running(one, tmp_path / "log") as there:
            run_server(PLAN, there, 1, results, Progress(2, print))
    Results(tmp_path, keyed, keys)
    Results(tmp_path, METADATA, MUST_MATCH)  # without that peer, whatever it drafts with
    with pytest.raises(ProfileError, match="draft_model is 'a1' there and 'b2' here"):
        Results(tmp_path, keyed | {"draft_model": "b2"}, keys)


def test_other_prompts_do_not_go_into_the_same_results():
    other = replace(PLAN, conversations=tuple(bundled()[1:]))
    assert other.as_metadata()["prompts"] != PLAN.as_metadata()["prompts"]


def test_failures_are_in_the_progress_and_in_the_rows(tmp_path):
    with scripted_endpoint() as server:
        busy = replace(PLAN, rounds=1, loads=(parse_load("closed:1"),))
        conversations = tuple(replace(c, turns=("busy",)) for c in PLAN.conversations)
        said = measure(
            server_of(server.url, "one"), tmp_path, replace(busy, conversations=conversations)
        )
    assert "6 of 6 failed (refused: HTTP 429" in said[0]
    assert {row.status for row in load_load_records(tmp_path).requests} == {"refused"}


def test_an_endpoint_that_serves_another_model_is_refused():
    with scripted_endpoint() as server:
        check_models(endpoint_server(f"other={server.url}/v1#demo"))
        with pytest.raises(ServerError, match="serves demo, not 'qwen' of the arm 'other'"):
            check_models(endpoint_server(f"other={server.url}#qwen"))


def test_an_endpoint_where_nobody_is_is_refused():
    with pytest.raises(ServerError, match="nothing serves"):
        check_models(endpoint_server("other=http://127.0.0.1:9#demo"))


@pytest.mark.parametrize("text", ["http://a#m", "x=http://a", "x=a#m", "=http://a#m"])
def test_an_endpoint_is_written_with_name_address_and_model(text: str):
    with pytest.raises(ValueError, match="NAME=URL#MODEL"):
        endpoint_server(text)


def test_other_servers_get_no_fields_of_vllms(tmp_path):
    with scripted_endpoint() as server:
        server.token_ids = False
        measure(endpoint_server(f"other={server.url}#demo"), tmp_path, replace(PLAN, rounds=1))
    assert not {"ignore_eos", "return_token_ids", "cache_salt"} & server.asked[0].keys()
    assert {run.num_gpus for run in load_load_records(tmp_path).runs} == {-1.0}  # nobody says
    rows = load_load_records(tmp_path).requests
    assert {(row.counted_by, row.output_tokens) for row in rows} == {("spread", sum(CHUNKS))}


def test_a_server_that_ends_at_once_shows_its_last_words(tmp_path):
    command = ("python3", "-c", "print('no memory'); raise SystemExit(3)")
    server = replace(server_of("http://127.0.0.1:9", "one"), command=command)
    refused = pytest.raises(ServerError, match=r"ended with status 3.*\n.*no memory")
    with refused, running(server, tmp_path / "log"):
        pass


def test_an_address_in_use_is_refused_before_anything_starts(tmp_path):
    with scripted_endpoint() as server:
        started = replace(server_of(server.url, "one"), command=("false",))
        with pytest.raises(ServerError, match="already"), running(started, tmp_path / "log"):
            pass


def test_some_models_of_a_serve_file_are_served_alone(tmp_path):
    path = tmp_path / "serve.yaml"
    path.write_text(
        "applications: [{args: {models: [{id: plain, placement: 'off'}, {id: drafted},"
        " {id: other, placement: native}]}}]"
    )
    policies = PolicyChoice.parse(["fixed:3", "causal"])
    with dspark_server(path, ["plain", "drafted"], policies, 8000) as server:
        assert [arm.name for arm in server.arms] == ["plain", "drafted fixed 3", "drafted causal"]
        chosen = Path(server.command[server.command.index("--config") + 1])
        assert "other" not in chosen.read_text()
    assert not chosen.exists()
    with dspark_server(path, ["other"], policies, 8000) as server:
        assert [arm.name for arm in server.arms] == ["other"]
    refused = pytest.raises(ValueError, match="has no model nope; it has plain, drafted, other")
    with refused, dspark_server(path, ["nope"], policies, 8000):
        pass


def test_an_endpoint_with_keys_is_asked_with_one(tmp_path):
    with scripted_endpoint() as server:
        server.api_key = "k"
        closed = server_of(server.url, "one")
        with pytest.raises(ServerError, match="where it has keys, give one"):
            check_models(closed)
        keyed, plan = replace(closed, api_key="k"), replace(PLAN, rounds=1, api_key="k")
        measure(keyed, tmp_path, plan)
    assert {row.status for row in load_load_records(tmp_path).requests} == {"ok"}


RAYS_CARD = {"id": "demo", "metadata": {"max_request_context_length": 300}}


@pytest.mark.parametrize(("card", "asked", "written"), [
    ({"id": "demo", "max_model_len": 512}, 100, 100),
    ({"id": "demo", "max_model_len": 512}, 4096, 512 - 80),
    (RAYS_CARD, 4096, 300 - 80),
    ({"id": "demo"}, 4096, 4096),
])  # fmt: skip
def test_prompts_are_as_long_as_the_model_takes_and_written_down_so(tmp_path, card, asked, written):
    with scripted_endpoint() as server:
        server.card = card
        plan = replace(PLAN, rounds=1, loads=(parse_load("closed:1", asked),))
        measure(server_of(server.url, "one"), tmp_path, plan)
    (run,) = load_load_records(tmp_path).runs
    assert run.context_tokens == written


LONG = replace(
    PLAN,
    rounds=1,
    loads=tuple(parse_load("closed:1", asked) for asked in (100, 512 - 80, 2048, 4096)),
)


def test_lengths_that_are_clipped_to_one_are_measured_once(tmp_path):
    with scripted_endpoint() as server:
        said = measure(server_of(server.url, "one"), tmp_path, LONG)
    runs = load_load_records(tmp_path).runs
    assert [run.context_tokens for run in runs] == [100, 512 - 80]
    assert [line.split()[0] for line in said] == ["[1/2]", "[2/2]"]


def test_a_load_that_is_named_twice_is_measured_once(tmp_path):
    twice = replace(PLAN, rounds=1, loads=(parse_load("closed:1"),) * 2)
    with scripted_endpoint() as server:
        assert len(measure(server_of(server.url, "one"), tmp_path, twice)) == 1


def test_a_server_of_which_only_clipped_lengths_are_left_is_known_to_be_done(tmp_path):
    """Without asking it, as it would have to be started for that."""
    with scripted_endpoint() as server:
        one = server_of(server.url, "one")
        measure(one, tmp_path, LONG)
    again = Results(tmp_path, METADATA, MUST_MATCH)
    assert again.left(LONG, one, 1) == []
    longer = replace(LONG, loads=(*LONG.loads, parse_load("closed:1", 200)))
    assert [task.load.context_tokens for task in again.left(longer, one, 1)] == [200]
    assert [task.round for task in again.left(replace(LONG, rounds=2), one, 1)] == [2, 2]
    other = replace(one, description="another")
    assert len(again.left(LONG, replace(other, arms=(Arm("demo", label="two"),)), 1)) == 4
