"""Arms measured side by side: alternating runs against one application, medians, ratios."""

from __future__ import annotations

import json
import secrets
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx

from loadtest.arms import Arm, switch_to
from loadtest.closed_loop import Load, run_closed_loop
from loadtest.prompts import CHAT, CODE, MATH

_START_TIMEOUT_S = 600.0
_STOP_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Cell:
    """An arm at a concurrency: the median of its runs, and that over the first arm's.

    `runs` are all of them, in tokens per second.
    """

    arm: str
    concurrency: int
    tokens_per_s: float
    ratio: float
    runs: tuple[float, ...]


@contextmanager
def serving(config: Path, port: int) -> Iterator[str]:
    """`dspark serve` with `config` in a process of its own; yields its base URL.

    Raises RuntimeError when it does not come up. It is stopped in every case.
    """
    command = [sys.executable, "-m", "cluster.cli", "serve", "--config", str(config)]
    server = subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_up(server, url)
        yield url
    finally:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            server.kill()


def _wait_until_up(server: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise RuntimeError(f"the server ended with status {server.returncode}; see above")
        if _is_up(url):
            return
        time.sleep(1)
    raise RuntimeError(f"nothing serves {url} after {_START_TIMEOUT_S:.0f} s")


def _is_up(url: str) -> bool:
    """Whether every model that the server lists has a target; the list alone comes earlier."""
    try:
        listed = httpx.get(f"{url}/v1/models", timeout=5)
        fleet = httpx.get(f"{url}/fleet", timeout=5)
    except httpx.TransportError:
        return False
    if not (listed.is_success and fleet.is_success):
        return False
    models = fleet.json()["models"]
    ids = [model["id"] for model in listed.json()["data"]]
    return all(models.get(id_, {}).get("targets") for id_ in ids)


def mixed_prompts(count: int) -> list[str]:
    """`count` prompts, the three domains taking turns."""
    mixed = [prompt for trio in zip(MATH, CODE, CHAT, strict=True) for prompt in trio]
    return [mixed[i % len(mixed)] for i in range(count)]


def compare(
    url: str,
    arms: Sequence[Arm],
    concurrencies: Sequence[int],
    *,
    rounds: int,
    max_tokens: int,
    temperature: float,
    progress: Callable[[str], None],
) -> list[Cell]:
    """Every arm at every concurrency, `rounds` times, the arms taking turns."""
    cells: list[Cell] = []
    for concurrency in concurrencies:
        prompts = mixed_prompts(max(6, min(4 * concurrency, 2 * concurrency + 32)))
        runs: dict[str, list[float]] = {arm.name: [] for arm in arms}
        for round_ in range(rounds + 1):
            warms_up = round_ == 0
            some = prompts[:concurrency] if warms_up else prompts
            for arm in arms:
                load = Load(some, max_tokens, temperature, secrets.token_hex(8))
                switch_to(url, arm)
                result = run_closed_loop(url, arm.model, load, concurrency)
                if not warms_up:
                    runs[arm.name].append(result.tokens_per_s)
        medians = {name: statistics.median(values) for name, values in runs.items()}
        for arm in arms:
            median = medians[arm.name]
            ratio = median / medians[arms[0].name]
            cells.append(Cell(arm.name, concurrency, median, ratio, tuple(runs[arm.name])))
        progress(table_row(cells[-len(arms) :]))
    return cells


def table_header(arms: Sequence[Arm]) -> str:
    """Markdown; every cell is tokens per second and the ratio to the first arm."""
    columns = " | ".join(arm.name for arm in arms)
    return f"| concurrency | {columns} |\n|" + "---|" * (1 + len(arms))


def table_row(cells: Sequence[Cell]) -> str:
    columns = " | ".join(f"{cell.tokens_per_s:.0f} ({cell.ratio:.2f}x)" for cell in cells)
    return f"| {cells[0].concurrency} | {columns} |"


def write_json(cells: Sequence[Cell], path: Path) -> None:
    path.write_text(json.dumps([asdict(cell) for cell in cells], indent=2) + "\n")
