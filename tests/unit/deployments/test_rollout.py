"""Who is replaced, beside whom and who is down, before anything is sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.rollout import Rollout, plan_rollout, take_room, with_surge
from deployments.serve_file import ServeFile, read_serve_file

ROOMY = [{"CPU": 16.0}]
FULL = [{"CPU": 0.5}]


def serve_file(path: Path, *ids: str, deployments: Any = (), **target: Any) -> ServeFile:
    target = {"source": "models/demo-target", "num_cpus": 1} | target
    models = [{"id": id_, "placement": "off", "target": target} for id_ in ids]
    app = {"import_path": "deployments.app:build_app", "args": {"models": models}}
    app["deployments"] = list(deployments)
    file = path / "serve.yaml"
    file.write_text(yaml.safe_dump({"applications": [app]}))
    return read_serve_file(file)


def app_of(file: ServeFile) -> Any:
    (app,) = file.schema.applications
    return app


@pytest.mark.parametrize(
    ("target", "free", "rollout"),
    [
        ({}, ROOMY, Rollout(beside=("m",))),
        ({}, FULL, Rollout(down=("m",))),
        ({"replicas": 2}, FULL, Rollout(in_turn=("m",))),
        ({"replicas": 2}, ROOMY, Rollout(beside=("m",))),
    ],
)
def test_what_becomes_of_a_changed_models_targets(tmp_path, target, free, rollout):
    running = app_of(serve_file(tmp_path, "m", max_num_seqs=4))
    assert plan_rollout(running, "m", serve_file(tmp_path, "m", **target), free) == rollout


def test_models_that_share_the_room_are_down_where_it_is_enough_for_one(tmp_path):
    running = app_of(serve_file(tmp_path, "a", "b", max_num_seqs=4))
    rollout = plan_rollout(running, "ab", serve_file(tmp_path, "a", "b"), [{"CPU": 3.0}])
    assert rollout == Rollout(beside=("a",), down=("b",))


def test_models_come_and_go(tmp_path):
    running = app_of(serve_file(tmp_path, "old", "kept"))
    file = serve_file(tmp_path, "kept", "new")
    rollout = plan_rollout(running, {"old", "kept"}, file, ROOMY)
    assert rollout == Rollout(beside=("kept",), removed=("old",), added=("new",))


def test_nothing_is_replaced_by_the_file_that_runs(tmp_path):
    file = serve_file(tmp_path, "m")
    deployed = app_of(file).model_copy(
        update={"deployments": app_of(with_surge_of(file, "m")).deployments}
    )
    assert plan_rollout(deployed, "m", file, FULL) == Rollout()


def with_surge_of(file: ServeFile, *models: str) -> Any:
    class Changed:
        schema = with_surge(file.schema, models)

    return Changed


def test_where_nothing_runs_nothing_is_down(tmp_path):
    assert plan_rollout(None, "", serve_file(tmp_path, "m"), FULL) == Rollout(added=("m",))


def test_targets_that_outlived_a_failed_deployment_are_not_taken_down_unsaid(tmp_path):
    file = serve_file(tmp_path, "m")
    assert plan_rollout(None, "m", file, FULL) == Rollout(down=("m",))
    assert plan_rollout(None, "m", file, ROOMY) == Rollout(beside=("m",))


def surge(percent: int) -> dict[str, Any]:
    return {"name": "Target:m", "max_surge_percent": percent}


@pytest.mark.parametrize(
    ("percent", "free", "rollout"),
    [(100, FULL, Rollout(beside=("m",))), (0, ROOMY, Rollout(down=("m",)))],
)
def test_what_the_file_says_itself_stands(tmp_path, percent, free, rollout):
    running = app_of(serve_file(tmp_path, "m", max_num_seqs=4))
    file = serve_file(tmp_path, "m", deployments=[surge(percent)])
    assert plan_rollout(running, "m", file, free) == rollout
    (deployment,) = app_of(with_surge_of(file, "m")).deployments
    assert deployment.max_surge_percent == percent


def test_surge_is_added_to_what_the_file_says_of_a_deployment(tmp_path):
    said = [{"name": "Target:m", "health_check_period_s": 3}, {"name": "Ingress"}]
    file = serve_file(tmp_path, "m", "n", deployments=said)
    options = app_of(with_surge_of(file, "m", "n")).deployments
    assert [one.model_dump(exclude_unset=True) for one in options] == [
        {"name": "Target:m", "health_check_period_s": 3, "max_surge_percent": 1},
        {"name": "Ingress"},
        {"name": "Target:n", "max_surge_percent": 1},
    ]


@pytest.mark.parametrize(
    ("strategy", "nodes", "is_there"),
    [
        ("STRICT_PACK", [{"CPU": 4, "GPU": 2}], True),
        ("STRICT_PACK", [{"CPU": 4, "GPU": 1}, {"CPU": 4, "GPU": 1}], False),
        ("STRICT_SPREAD", [{"CPU": 4, "GPU": 1}, {"CPU": 4, "GPU": 1}], True),
        ("STRICT_SPREAD", [{"CPU": 9, "GPU": 2}], False),
        ("PACK", [{"CPU": 4, "GPU": 1}, {"CPU": 4, "GPU": 1}], True),
        ("PACK", [{"CPU": 4, "GPU": 1}, {"CPU": 4}], False),
    ],
)
def test_room_for_two_ranks(strategy, nodes, is_there):
    before = [dict(node) for node in nodes]
    assert take_room([{"CPU": 2, "GPU": 1}, {"CPU": 1, "GPU": 1}], strategy, nodes) is is_there
    left = sum(sum(node.values()) for node in nodes)
    assert left == sum(sum(node.values()) for node in before) - (5 if is_there else 0)


def test_what_is_announced():
    rollout = Rollout(beside=("a", "b"), down=("c",), removed=("d",))
    assert [line.partition(":")[0] for line in rollout.lines()] == ["a, b", "c", "d"]
    assert "DOWN" in rollout.lines()[1]
