"""Arms times load points: interleaved rounds, every run written down as it ends, resumable."""

from __future__ import annotations

import json
import secrets
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from loadtest.arms import LLAMA_CPP, VLLM, Arm, switch_to
from loadtest.arrivals import LoadPoint, arrival_offsets_s
from loadtest.conversations import Conversation, filled, mixed
from loadtest.counters import Pools, pools, read_counts
from loadtest.drive import RunResult, Terms, run_closed, run_open
from loadtest.process_cpu import tree_cpu_s
from loadtest.servers import Running, Server, model_limit
from profiles.load_records import (
    RequestRow,
    RunRow,
    add_load_run,
    load_load_records,
    merge_load_requests,
)
from profiles.provenance import ProfileError, check_provenance

_WARM_UP_ROUND = 0
DRAFT_MODEL = "draft_model"  # in the metadata: may come with a later sitting, and then stays
_LIMITS = "context_limits"  # in the metadata: tokens that a server's models take, by description
_SLACK_TOKENS = 64  # of a chat template, and of the guess at a prompt's length


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured, the same for every arm. `mix` is empty for domains taken evenly."""

    loads: tuple[LoadPoint, ...]
    rounds: int
    max_tokens: int
    temperature: float
    seed: int
    duration_s: float
    stall_s: float
    conversations: tuple[Conversation, ...]
    mix: Mapping[str, int]
    api_key: str | None = None

    def as_metadata(self) -> dict[str, str]:
        """What two runs have to share to stand in one result; `loads` and `rounds` may grow."""
        texts = json.dumps([[c.id, c.turns, c.tools] for c in self.conversations])
        return {
            "max_tokens": str(self.max_tokens),
            "temperature": str(self.temperature),
            "seed": str(self.seed),
            "duration_s": str(self.duration_s),
            "prompts": f"{len(self.conversations)} ({zlib.crc32(texts.encode()):08x})",
            "mix": json.dumps(dict(self.mix), sort_keys=True),
        }

    def conversations_of(self, load: LoadPoint, count: int, round_: int) -> list[Conversation]:
        """The same for every arm: decided by load, round and seed alone."""
        seed = zlib.crc32(f"{self.seed} {load.kind} {load.value} {round_}".encode())
        chosen = mixed(self.conversations, count, mix=self.mix, seed=seed)
        return filled(chosen, load.context_tokens, seed=seed) if load.context_tokens else chosen


@dataclass(frozen=True, slots=True)
class Task:
    """One run that is to be made, with prompts of `context_tokens`: what its load asks for, or
    as many as the server's models take."""

    arm: Arm
    load: LoadPoint
    round: int
    visit: int
    context_tokens: int = 0

    @property
    def run_id(self) -> str:
        load = self.load
        return (
            f"{self.arm.name}|{load.kind}:{load.trace or f'{load.value:g}'}@{load.context_tokens}"
            f"|visit {self.visit}|round {self.round}"
        )


def tasks(plan: Plan, arms: Sequence[Arm], visit: int) -> Iterator[Task]:
    """In the order in which they are run: at a load point the arms take turns, round by round.

    Every other round goes backwards, so that no arm always follows the same one.
    """
    for load in plan.loads:
        for round_ in range(1, plan.rounds + 1):
            for arm in arms if round_ % 2 else reversed(arms):
                yield Task(arm, load, round_, visit)


def prompt_lengths(plan: Plan, limit: int | None) -> dict[LoadPoint, int]:
    """The loads that are measured, with the length in tokens of their prompts where models take
    `limit`: of several that are clipped to one length the first."""
    found: dict[LoadPoint, int] = {}
    for load in plan.loads:
        clipped = replace(load, context_tokens=_clipped(load.context_tokens, plan, limit))
        if all(replace(one, context_tokens=n) != clipped for one, n in found.items()):
            found[load] = clipped.context_tokens
    return found


class Results:
    """The runs of a directory: what is there already, and what is added, run by run."""

    def __init__(
        self, directory: Path, metadata: Mapping[str, str], must_match: Sequence[str]
    ) -> None:
        """Raises ProfileError where the directory holds results of something else: where a key of
        `must_match` has another value there, or is missing but for `DRAFT_MODEL`."""
        self._directory = directory
        self._runs: list[RunRow] = []
        self._metadata = dict(metadata)
        path = directory / "runs.parquet"
        if path.exists():
            found = load_load_records(directory)
            new = {DRAFT_MODEL} - found.metadata.keys()
            expected = {key: metadata[key] for key in must_match if key not in new}
            try:
                check_provenance(path, found.metadata, expected)
            except ProfileError as error:
                raise ProfileError(f"{error}; or write to another --output") from None
            self._runs = list(found.runs)
            added = {key: metadata[key] for key in new & metadata.keys()}
            commands = _joined(found.metadata, metadata)
            self._metadata = found.metadata | added | {"commands": commands}
            merge_load_requests(directory)
        limits = json.loads(self._metadata.get(_LIMITS, "{}"))
        self._limits: dict[str, int | None] = limits

    def __bool__(self) -> bool:
        return bool(self._runs)

    def has(self, run_id: str) -> bool:
        """Whether a run has been made already."""
        return any(run.run_id == run_id for run in self._runs)

    def arms(self) -> list[str]:
        """Names of the arms that there are runs of."""
        return list(dict.fromkeys(run.arm for run in self._runs))

    def left(self, plan: Plan, server: Server, visit: int) -> list[Task]:
        """What is still to be run, as far as it is known how long prompts its models take: a
        server that was not measured yet may leave out some of it."""
        lengths = prompt_lengths(plan, self._limits.get(server.description))
        found = {
            task.run_id: replace(task, context_tokens=lengths[task.load])
            for task in tasks(plan, server.arms, visit)
            if task.load in lengths and not self.has(task.run_id)
        }
        return list(found.values())

    def learn_limit(self, server: Server) -> None:
        """Ask a server that is up how long prompts its models take, and write it down with the
        next run."""
        self._limits[server.description] = model_limit(server)
        self._metadata[_LIMITS] = json.dumps(self._limits)

    def add(self, run: RunRow, requests: Sequence[RequestRow]) -> None:
        """Write a run down; after that it is not made again."""
        self._runs.append(run)
        add_load_run(self._directory, self._runs, requests, self._metadata)

    def close(self) -> None:
        """Leave the requests in one file."""
        merge_load_requests(self._directory)


def _joined(found: Mapping[str, str], added: Mapping[str, str]) -> str:
    """Commands of all sittings, one a line, each once."""
    lines = [*found.get("commands", "").splitlines(), *added.get("commands", "").splitlines()]
    return "\n".join(dict.fromkeys(lines))


class Progress:
    """Says after every run what came out, and how long the others will take."""

    def __init__(self, num_runs: int, say: Callable[[str], None]) -> None:
        self._left = num_runs
        self._num_runs = num_runs
        self._say = say
        self._spent_s: list[float] = []

    def leave_out(self, num_runs: int) -> None:
        """They turned out not to be needed."""
        self._left -= num_runs
        self._num_runs -= num_runs

    def done(self, task: Task, requests: Sequence[RequestRow], spent_s: float) -> None:
        self._left -= 1
        self._spent_s.append(spent_s)
        failed = [row for row in requests if row.status != "ok"]
        tokens = sum(row.output_tokens for row in requests)
        left_min = self._left * sum(self._spent_s) / len(self._spent_s) / 60
        self._say(
            f"[{self._num_runs - self._left}/{self._num_runs}] {task.run_id}: {tokens} tokens in "
            f"{spent_s:.1f} s, {len(failed)} of {len(requests)} failed"
            + (f" ({failed[0].status}: {failed[0].error[:80]})" if failed else "")
            + f"; about {left_min:.0f} min left"
        )


def run_server(
    plan: Plan, running: Running, visit: int, results: Results, progress: Progress
) -> None:
    """Make every run of a server's arms that is not in the results yet.

    Each arm is warmed up once per load point. Raises `httpx.HTTPError`, RuntimeError where the
    server refuses a policy; what befalls requests is in their rows.
    """
    warm: set[tuple[str, LoadPoint]] = set()
    sitting = secrets.token_hex(4)
    expected = len(results.left(plan, running.server, visit))
    results.learn_limit(running.server)
    todo = results.left(plan, running.server, visit)
    progress.leave_out(expected - len(todo))
    for task in todo:
        switch_to(running.server.url, task.arm, running.server.headers)
        if (task.arm.name, task.load) not in warm:
            warm.add((task.arm.name, task.load))
            _load(plan, running, replace(task, round=_WARM_UP_ROUND))
        began = time.monotonic()
        run, requests = measure(plan, running, task, sitting)
        results.add(run, requests)
        progress.done(task, requests, time.monotonic() - began)


def measure(
    plan: Plan, running: Running, task: Task, sitting: str
) -> tuple[RunRow, list[RequestRow]]:
    """One run between two readings of the server's counts and processor time."""
    server, load, arm = running.server, task.load, task.arm
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    replicas = pools(server, arm.model)
    counts = read_counts(server, arm.model)
    cpu_s = tree_cpu_s(running.pid) if running.pid else -1.0
    result = _load(plan, running, task)
    if running.pid:
        cpu_s = tree_cpu_s(running.pid) - cpu_s
    counted = read_counts(server, arm.model).since(counts)
    run = RunRow(
        run_id=task.run_id,
        arm=arm.name,
        model=arm.model,
        policy=json.dumps(dict(arm.policy)) if arm.policy else "",
        served_by=server.description,
        num_replicas=replicas.targets,
        load=load.kind,
        load_value=load.value,
        trace=load.trace,
        context_tokens=task.context_tokens,
        round=task.round,
        visit=task.visit,
        sitting=sitting,
        started_at=started_at,
        window_s=result.window_s,
        wall_s=result.wall_s,
        cpu_s=cpu_s,
        client_cpu_s=result.client_cpu_s,
        num_gpus=_num_gpus(arm, replicas),
        **counted._asdict(),
    )
    return run, result.rows(task.run_id)


def _num_gpus(arm: Arm, replicas: Pools) -> float:
    if arm.gpus is None:
        return -1.0
    return replicas.targets * arm.gpus.target + replicas.drafters * arm.gpus.drafter


def _load(plan: Plan, running: Running, task: Task) -> RunResult:
    """Put the load on the arm; a warm-up is one request per client, three of an open loop."""
    url, load = running.server.url, replace(task.load, context_tokens=task.context_tokens)
    warms_up = task.round == _WARM_UP_ROUND
    terms = Terms(
        model=task.arm.model,
        max_tokens=plan.max_tokens,
        temperature=plan.temperature,
        stall_s=plan.stall_s,
        extras=_own_fields(task.arm.dialect, plan.max_tokens),
        api_key=plan.api_key,
    )
    if load.clients is not None:
        count = load.clients if warms_up else load.num_requests
        conversations = plan.conversations_of(load, count, task.round)
        return run_closed(url, terms, conversations, load.clients)
    offsets_s = arrival_offsets_s(load, plan.duration_s, plan.seed + task.round)
    offsets_s = offsets_s[:3] if warms_up else offsets_s
    conversations = plan.conversations_of(load, len(offsets_s), task.round)
    return run_open(url, terms, conversations, offsets_s)


def _own_fields(dialect: str, max_tokens: int) -> dict[str, Any]:
    """Answers of full length; where vLLM answers also token ids, and no hits of earlier runs."""
    if dialect == VLLM:
        return {"ignore_eos": True, "return_token_ids": True, "cache_salt": secrets.token_hex(8)}
    return {"min_tokens": max_tokens} if dialect == LLAMA_CPP else {}


def _clipped(context_tokens: int, plan: Plan, limit: int | None) -> int:
    """Of a conversation's first prompt, so that all its turns' answers, and later prompts of
    `_SLACK_TOKENS` each, have room in the model's context."""
    if not context_tokens or limit is None:
        return context_tokens
    turns = max((len(one.turns) for one in plan.conversations), default=1)
    return max(1, min(context_tokens, limit - turns * (plan.max_tokens + _SLACK_TOKENS)))
