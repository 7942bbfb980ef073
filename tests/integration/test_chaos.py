"""Every kind of process killed, stopped or cut off while 500 greedy requests and more come in.

Run by `make test-long`. It prints two tables of what happened, and writes it as JSON to the path
in `DSPARK_CHAOS_JSON`. HAProxy, beside which there is no other way in, is killed after them. That
a target hears nothing of the controller is brought about by stopping the controller: on one
machine Ray's actors call each other directly, and no relay fits between. Networks between nodes
are cut in `test_partition.py`.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from loadtest.prompts import PROMPTS
from tests.integration.chaos.books import TargetBooks, disagreements, read_log
from tests.integration.chaos.faults import Disk, Faults, small_disk
from tests.integration.chaos.load import (
    BROKEN,
    FAILED,
    REFUSED,
    RIGHT,
    Load,
    Outcome,
    body_of,
    prompt_of,
)
from tests.integration.chaos.report import as_markdown, report
from tests.integration.hooks import hooked, jumping_clock
from tests.integration.served import (
    demo_config,
    engine_of,
    fleet,
    processes,
    serving_process,
    wait_for,
)
from tests.integration.tcp_relay import relaying

pytestmark = [pytest.mark.long, pytest.mark.timeout(2700)]

NUM_REQUESTS = 500
STALL_LIMIT_S = 8
DRAIN_S = 600  # a target that hangs is not to be waited for
AN_HOUR_S = 3600

DRAFTER = "ray::ServeReplica:test:Drafter:split"
INGRESS = "ray::ServeReplica:test:Ingress"
CONTROLLER = "ray::ControllerActor"
SERVE_CONTROLLER = "ray::ServeController"


@dataclass(frozen=True)
class Running:
    """The application that suffers, and what it suffers by."""

    url: str
    server: psutil.Process
    log: Path  # of requests
    captured: Path
    disk: Disk | None
    clock: Path

    def of(self, title: str) -> list[psutil.Process]:
        return processes(self.server, title)

    def kill(self, title: str) -> Callable[[], None]:
        def now() -> None:
            found = self.of(title)
            assert found, title
            for process in found:
                process.kill()

        return now

    def another(self, title: str) -> Callable[[], bool]:
        """Whether one is there that is not there now."""
        before = {process.pid for process in self.of(title)}
        return lambda: bool({process.pid for process in self.of(title)} - before)

    def targets(self) -> list[int]:
        """The process ids of those that report; none while nobody answers."""
        try:
            return [target["pid"] for target in fleet(self.url, "split")["targets"]]
        except (httpx.HTTPError, KeyError):
            return []

    def a_target(self) -> psutil.Process:
        """One of two."""
        return psutil.Process(wait_for(self.both, 120)[0])

    def both(self) -> list[int] | None:
        found = self.targets()
        return found if len(found) == 2 else None

    def two_without(self, target: psutil.Process) -> Callable[[], bool]:
        return lambda: len(set(self.targets()) - {target.pid}) == 2

    def change(self, **changes: Any) -> None:
        url = f"{self.url}/fleet/models/split"
        httpx.patch(url, json=changes, timeout=30).raise_for_status()

    def parts(self) -> set[Path]:
        """Of captured traffic."""
        return set(self.captured.rglob("part-*.parquet"))

    def verified_drafts(self) -> int:
        return int(fleet(self.url, "split")["speculation"]["verified_drafts"])


@pytest.fixture
def running(tmp_path: Path) -> Any:
    clock = tmp_path / "clock"
    jumping_clock.make(clock)
    with ExitStack() as stack:
        disk = stack.enter_context(small_disk(tmp_path / "disk"))
        state, captured = tmp_path / "disk" / "state", tmp_path / "disk" / "captured"
        log = tmp_path / "requests"
        config = demo_config(
            tmp_path / "serve.yaml",
            models={"split": "split"},
            replicas=2,
            stall_limit_s=STALL_LIMIT_S,
            drain_s=DRAIN_S,
            capture={"directory": str(captured), "max_mib": 1},
        )
        document = yaml.safe_load(config.read_text())
        args = document["applications"][0]["args"]
        args |= {"state_dir": str(state), "request_log": str(log)}
        config.write_text(yaml.safe_dump(document))
        env = hooked("jumping_clock") | {jumping_clock.PATH: str(clock)}
        url, server = stack.enter_context(serving_process(config, tmp_path / "log", **env))
        yield Running(url, server, log, captured, disk, clock)


def decoded_plainly(run: Running) -> dict[str, str]:
    """Every prompt's answer while nobody drafts."""

    def stats() -> list[dict[str, Any]]:
        return [target["stats"] for target in fleet(run.url, "split")["targets"]]

    def answer(i: int) -> tuple[str, str]:
        body = body_of(i) | {"stream": False}
        reply = httpx.post(f"{run.url}/v1/chat/completions", json=body, timeout=200)
        return prompt_of(i), reply.raise_for_status().json()["choices"][0]["message"]["content"]

    wait_for(run.both, 60)
    run.change(speculation=False)
    wait_for(lambda: all(one["controls"].get("speculation") is False for one in stats()))
    before = run.verified_drafts()
    with ThreadPoolExecutor(8) as pool:
        found = dict(pool.map(answer, range(0, 2 * len(PROMPTS), 2)))
    wait_for(lambda: all(one["requests"] == 0 for one in stats()))
    assert run.verified_drafts() == before
    assert found.keys() == set(PROMPTS)
    run.change(speculation=None)
    return found


def while_targets_and_ingress_live(run: Running, faults: Faults) -> None:
    """Of drafter, network, controller, disk and clock: every answer has to come."""
    if run.disk is not None:
        faults.last("disk full", run.disk.fill, 5)  # and stays so
    (drafter,) = run.of(DRAFTER)
    faults.cause("drafter kill -9", drafter.kill, run.another(DRAFTER))
    faults.stop("drafter", wait_for(lambda: run.of(DRAFTER)), 8)
    wait_for(lambda: fleet(run.url, "split")["drafters"])
    with relaying(fleet(run.url, "split")["drafters"][0]["address"]) as network:

        def slow_network() -> None:
            network.delay_s = 0.03
            run.change(drafter_address=network.address)

        faults.cause("network to the drafter 30 ms slow", slow_network, lambda: network.num_bytes)
        faults.last("network to the drafter cut", lambda: setattr(network, "is_cut", True), 8)
        faults.last("network whole", lambda: run.change(drafter_address=None), 5)
    faults.stop("controller", run.of(CONTROLLER), 5)  # longer than plans live
    faults.cause("controller kill -9", run.kill(CONTROLLER), run.both)
    faults.last("clocks an hour back", lambda: jumping_clock.jump_to(run.clock, -AN_HOUR_S), 8)
    faults.last("clocks right again", lambda: jumping_clock.jump_to(run.clock, 0), 8)
    faults.last("clocks an hour ahead", lambda: jumping_clock.jump_to(run.clock, AN_HOUR_S), 8)


def whatever_else_there_is(run: Running, faults: Faults) -> None:
    """Targets, engines, ingress and Serve's controller stop and die."""
    faults.stop("target", [run.a_target()], 4)
    faults.stop("engine", [engine_of(run.a_target().pid)], 3)
    faults.stop("Serve controller", run.of(SERVE_CONTROLLER), 5)
    faults.stop("ingress", run.of(INGRESS), 3)
    target = run.a_target()
    faults.cause("target kill -9", target.kill, run.two_without(target))
    faults.cause(
        "Serve controller kill -9", run.kill(SERVE_CONTROLLER), run.another(SERVE_CONTROLLER)
    )
    target = run.a_target()
    faults.cause("engine kill -9", engine_of(target.pid).kill, run.two_without(target))
    target = run.a_target()
    faults.cause("engine stopped for good", engine_of(target.pid).suspend, run.two_without(target))
    target = run.a_target()
    faults.cause("target stopped for good", target.suspend, run.two_without(target))
    if run.disk is not None:
        before = run.parts()
        faults.cause("room on the disk", run.disk.free, lambda: run.parts() - before)


def test_whatever_dies_the_answers_are_right(running: Running) -> None:
    run = running
    plain = decoded_plainly(run)
    load = Load(run.url, plain, NUM_REQUESTS)
    faults = Faults(lambda: load.now_s)
    books = TargetBooks(run.url, "split", lambda: load.now_s, whole_before=len(plain))
    before = run.verified_drafts()
    try:
        while_targets_and_ingress_live(run, faults)
        none_died_until_s = load.now_s
        wait_for(lambda: run.verified_drafts() > before)
        whatever_else_there_is(run, faults)
        before_ingress = run.of(INGRESS)
        assert before_ingress
        ingress_killed_s = load.now_s
        faults.cause("ingress kill -9", run.kill(INGRESS), run.another(INGRESS))
    finally:
        outcomes = load.join()
    wait_for(lambda: all_idle(run), 60)
    wait_for(lambda: all(c.adds_up for c in list(books.targets.values()) if c.gone_s is None), 30)
    books.close()

    lost = httpx.get(f"{run.url}/fleet").json()["lost_targets"]
    wrongly_logged = disagreements(outcomes, read_log(run.log), [ingress_killed_s])
    fewest, counted, most = books.whole_between(outcomes)
    found = report(outcomes, faults.all) | {
        "lost_targets": {name: lost[name] for name in ("continued", "restarted", "given_up")},
        "counted_by_targets": {"fewest": fewest, "counted": counted, "most": most},
        "targets": len(books.targets),
        "logged_otherwise": wrongly_logged,
        "haproxy_kill_back_s": seconds_without_haproxy(run),
    }
    tell(found)

    kinds = Counter(one.kind for one in outcomes)
    assert len(outcomes) == load.num_sent >= NUM_REQUESTS
    assert len({one.request_id for one in outcomes}) == len(outcomes)
    assert max(one.sent_s for one in outcomes) > faults.all[-1].at_s  # under load, all of them
    assert kinds[RIGHT] >= 0.98 * len(outcomes)
    assert set(kinds) <= {RIGHT, REFUSED, FAILED, BROKEN}, found["ended_badly"]
    assert was_cut_by(ingress_killed_s, outcomes)
    assert all(one.kind == RIGHT for one in outcomes if one.ended_s < none_died_until_s)
    assert wrongly_logged == []
    assert fewest <= counted <= most
    assert lost["given_up"] == 0
    assert lost["continued"] > 0
    assert lost["restarted"] > 0


def all_idle(run: Running) -> bool:
    try:
        found = fleet(run.url, "split")["targets"]
    except (httpx.HTTPError, KeyError):
        return False
    admissions = [target["stats"]["admission"] for target in found]
    return not any(one["running"] + one["waiting"] for one in admissions)


def seconds_without_haproxy(run: Running) -> float | None:
    """From its kill until somebody answers again; None where Serve's own proxy is the way in."""
    found = [process for process in run.of("") if process.name() == "haproxy"]
    if not found:
        return None
    for process in found:
        process.kill()
    killed_s = time.monotonic()
    wait_for(lambda: is_answering(run), 60)
    return round(time.monotonic() - killed_s, 1)


def is_answering(run: Running) -> bool:
    try:
        body = body_of(0) | {"stream": False}
        reply = httpx.post(f"{run.url}/v1/chat/completions", json=body, timeout=20)
        return reply.is_success
    except httpx.HTTPError:
        return False


def was_cut_by(ingress_killed_s: float, outcomes: list[Outcome]) -> bool:
    """Whether every answer that broke off ran through the ingress that was killed."""
    broken = (one for one in outcomes if one.kind == BROKEN)
    return all(one.was_under_way(ingress_killed_s - 1, ingress_killed_s + 1) for one in broken)


def tell(found: dict[str, Any]) -> None:
    text = json.dumps(found, indent=1)
    if path := os.environ.get("DSPARK_CHAOS_JSON"):
        Path(path).write_text(text + "\n")
    print(f"\n{as_markdown(found)}\n\n{text}", flush=True)
