"""`dspark deploy` against a scripted cluster: what is sent, said and put back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve._private.common import ReplicaState
from ray.serve.schema import (
    ApplicationDetails,
    ApplicationStatus,
    DeploymentDetails,
    DeploymentStatus,
    ReplicaDetails,
    ServeApplicationSchema,
    ServeDeploySchema,
)

from cluster.cli import main
from deployments.deploy import Outcome, Replica, Seen, deploy
from deployments.deploy_ray import seen_of
from deployments.reasons import reason
from deployments.serve_file import ServeFile, read_serve_file

TARGET = "Target:m"
OLD = Replica(TARGET, is_running=True, started_s=-500.0)
RUNS = Seen("RUNNING", deployments={TARGET: ("HEALTHY", "")}, replicas={"old": OLD})
REPLACED = Seen(
    "RUNNING",
    deployments={TARGET: ("HEALTHY", "")},
    replicas={"new": Replica(TARGET, is_running=True, started_s=1.0)},
)
UPDATING = Seen(
    "DEPLOYING",
    deployments={TARGET: ("UPDATING", "")},
    replicas={"old": OLD, "new": Replica(TARGET, is_running=False, started_s=1.0)},
)
WHY = 'Traceback\n  File "x"\nValueError: no such quantization\n'
FAILED = Seen("DEPLOY_FAILED", "deployments failed", {TARGET: ("DEPLOY_FAILED", WHY)})


class ScriptedCluster:
    """Shows `seen` one after the other, the last one for good; remembers what it was sent."""

    def __init__(
        self, running: ServeApplicationSchema | None, *seen: Seen, cpus: float = 16.0
    ) -> None:
        self.sent: list[ServeDeploySchema] = []
        self._running, self._seen, self._cpus = running, list(seen), cpus

    def running(self, app_name: str) -> ServeApplicationSchema | None:
        return self._running

    def free(self) -> list[dict[str, float]]:
        return [{"CPU": self._cpus}]

    def send(self, schema: ServeDeploySchema) -> None:
        self.sent.append(schema)

    def seen(self, app_name: str) -> Seen:
        return self._seen.pop(0) if len(self._seen) > 1 else self._seen[0]


def serve_file(path: Path, **target: Any) -> ServeFile:
    target = {"source": "models/demo-target", "num_cpus": 1} | target
    models = [{"id": "m", "placement": "off", "target": target}]
    app = {"import_path": "deployments.app:build_app", "args": {"models": models}}
    (path / "serve.yaml").write_text(yaml.safe_dump({"applications": [app]}))
    return read_serve_file(path / "serve.yaml")


@pytest.fixture
def running(tmp_path: Path) -> ServeApplicationSchema:
    (app,) = serve_file(tmp_path, max_num_seqs=4).schema.applications
    return app


def run(file: ServeFile, cluster: ScriptedCluster, **options: Any) -> tuple[Outcome, list[str]]:
    said: list[str] = []
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    options = {"accept_downtime": False} | options
    return deploy(file, cluster, said.append, clock=lambda: now[0], sleep=sleep, **options), said


def surges(schema: ServeDeploySchema) -> dict[str, int]:
    (app,) = schema.applications
    return {one.name: one.max_surge_percent for one in app.deployments}


def test_with_room_the_next_target_starts_first_and_its_start_is_timed(tmp_path, running):
    cluster = ScriptedCluster(running, RUNS, RUNS, UPDATING, UPDATING, UPDATING, REPLACED)
    outcome, said = run(serve_file(tmp_path), cluster)
    assert outcome is Outcome.RUNNING
    assert [surges(schema) for schema in cluster.sent] == [{TARGET: 1}]
    assert said == [
        "m: the next replica starts before an old one goes",
        "    0.0 s  Target:m: updating",
        "    1.5 s  Target:m replica new: running, 0.5 s after its start",
        "    1.5 s  Target:m: healthy",
        "running after 2 s",
    ]


def test_downtime_is_announced_and_nothing_is_sent(tmp_path, running):
    cluster = ScriptedCluster(running, RUNS, cpus=0.5)
    outcome, said = run(serve_file(tmp_path), cluster)
    assert (outcome, cluster.sent) == (Outcome.NOT_ACCEPTED, [])
    assert said[0].startswith("m: DOWN until")


def test_downtime_that_is_accepted_goes_without_surge(tmp_path, running):
    cluster = ScriptedCluster(running, RUNS, RUNS, REPLACED, cpus=0.5)
    outcome, _ = run(serve_file(tmp_path), cluster, accept_downtime=True)
    assert outcome is Outcome.RUNNING
    assert [surges(schema) for schema in cluster.sent] == [{}]


def test_what_does_not_start_is_told_and_what_ran_is_put_back(tmp_path, running):
    cluster = ScriptedCluster(running, RUNS, RUNS, UPDATING, FAILED, UPDATING, RUNS)
    outcome, said = run(serve_file(tmp_path), cluster)
    assert outcome is Outcome.FAILED
    assert cluster.sent[1].applications == [running]
    assert "it does not start: Target:m: ValueError: no such quantization" in said
    assert said[-1] == "it runs as before"


def test_a_first_deployment_that_fails_has_nothing_to_put_back(tmp_path):
    failed = Seen("DEPLOY_FAILED", "it failed with:\ndeployments.errors.ConfigError: no directory")
    cluster = ScriptedCluster(None, Seen("NOT_STARTED"), Seen("NOT_STARTED"), failed)
    outcome, said = run(serve_file(tmp_path), cluster)
    assert (outcome, len(cluster.sent)) == (Outcome.FAILED, 1)
    assert said == [
        "it does not start: deployments.errors.ConfigError: no directory",
        "no configuration ran before that could be put back",
    ]


def test_a_target_that_outlived_a_failed_deployment_counts_as_serving(tmp_path):
    left = Seen("DEPLOY_FAILED", "why", RUNS.deployments, RUNS.replicas)
    outcome, said = run(serve_file(tmp_path), ScriptedCluster(None, left, cpus=0.5))
    assert outcome is Outcome.NOT_ACCEPTED
    assert said[0].startswith("m: DOWN until")


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("Traceback\n  x\nValueError: why\n\n", "ValueError: why"),
        ("1 validation error\n  Value error, why\n    For further information visit http", "Value"),
        ("\n", "Serve does not say why"),
    ],
)
def test_why_is_the_last_line_that_says_something(message, line):
    assert reason(message).startswith(line)


def test_what_is_unhealthy_may_come_up_yet(tmp_path, running):
    cluster = ScriptedCluster(running, RUNS, RUNS, Seen("UNHEALTHY"), REPLACED)
    assert run(serve_file(tmp_path), cluster)[0] is Outcome.RUNNING


def test_a_broken_file_is_refused_before_a_cluster_is_asked(tmp_path, capsys):
    document = {
        "applications": [
            {
                "import_path": "deployments.app:build_app",
                "args": {
                    "models": [
                        {"id": "m", "placement": "off", "target": {"source": "models/nowhere"}}
                    ]
                },
            }
        ]
    }
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump(document))
    assert main(["deploy", "--config", str(tmp_path / "serve.yaml")]) == 2
    assert "no directory 'models/nowhere'" in capsys.readouterr().err


def details(**replica: Any) -> ApplicationDetails:
    one = ReplicaDetails.model_construct(replica_id="r", start_time_s=7.0, **replica)
    deployment = DeploymentDetails.model_construct(
        name=TARGET, status=DeploymentStatus.UPDATING, message="", replicas=[one]
    )
    return ApplicationDetails.model_construct(
        status=ApplicationStatus.DEPLOYING, message="", deployments={TARGET: deployment}
    )


@pytest.mark.parametrize("state", [ReplicaState.STARTING, ReplicaState.RUNNING])
def test_what_serve_says_is_read(state):
    assert seen_of(details(state=state)) == Seen(
        "DEPLOYING",
        "",
        {TARGET: ("UPDATING", "")},
        {"r": Replica(TARGET, state is ReplicaState.RUNNING, 7.0)},
    )


def test_an_application_that_is_not_there_has_not_started():
    assert seen_of(None) == Seen("NOT_STARTED")
