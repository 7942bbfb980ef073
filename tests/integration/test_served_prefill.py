"""Prefill control as it is served: the fleet's plan reaches the scheduler in the engine core."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.integration.hooks import hooked, watched_prefill
from tests.integration.served import demo_config, engine_of, fleet, serving, wait_for

# No token comes in time for the first class: its promise is kept too seldom, and the plan has
# it weigh more. The other one, whose prompts are read meanwhile, is promised nothing.
TPOT_S = 0.001
CLASSES = ({"name": "chat", "tpot_ms": 1000 * TPOT_S}, {"name": "batch"})
PREFILL = {"least": 16, "most": 64}
LONG = [5 + i % 900 for i in range(300)]
NUM_SEQS = 16  # of which an eighth may always run: one of either class


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found: Path = tmp_path_factory.mktemp("prefill")
    (found / "seen").mkdir()
    return found


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    config = demo_config(
        folder / "serve.yaml",
        models={"off": "off", "colocated": "colocated"},
        classes=CLASSES,
        prefill=PREFILL,
        max_num_seqs=NUM_SEQS,
    )
    env = hooked("watched_prefill") | {watched_prefill.DIRECTORY: str(folder / "seen")}
    with serving(config, folder / "log", **env) as base:
        yield base


def ask(url: str, model: str, class_name: str, prompt: str | list[int], max_tokens: int) -> None:
    body = {"model": model, "prompt": prompt, "temperature": 0, "max_tokens": max_tokens}
    httpx.post(
        f"{url}/v1/completions",
        json=body | {"ignore_eos": True},
        headers={"x-dspark-class": class_name},
        timeout=120,
    ).raise_for_status()


def weight(url: str, model: str) -> float:
    """Of the class that falls short, in the plan of the only target."""
    (target,) = fleet(url, model)["targets"]
    return float(target["plan"]["class_weights"].get("chat", 1.0))


def went_by(folder: Path, engine: psutil.Process) -> list[dict[str, Any]]:
    """What the scheduler in the process of an engine core went by, in order."""
    path = folder / "seen" / f"{engine.pid}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.parametrize("model", ["off", "colocated"])
def test_a_plans_tighter_bound_reaches_the_engine_core(url, folder, model):
    (target,) = wait_for(lambda: fleet(url, model)["targets"])
    engine = engine_of(target["pid"])
    assert engine.pid != target["pid"]

    def bounds() -> set[float]:
        """Of steps with requests of the first class alone, or with the other's prompts."""
        return {one["promised_s"] for one in went_by(folder, engine)}

    ask(url, model, "chat", "Hello", 8)
    assert TPOT_S in bounds()  # before anything is known, the promise itself
    assert min(bounds()) == TPOT_S
    with ThreadPoolExecutor(2) as pool:
        while weight(url, model) < 1.5:
            list(pool.map(lambda _: ask(url, model, "chat", "Hello", 4), range(16)))

    def tightened() -> bool:
        """A prompt of the other class comes while the first one decodes."""
        with ThreadPoolExecutor(2) as pool:
            chat = pool.submit(ask, url, model, "chat", "Hello", 200)
            batch = pool.submit(ask, url, model, "batch", LONG, 4)
            chat.result()
            batch.result()
        return min(bounds()) <= TPOT_S / 1.5

    wait_for(tightened, 60)
    tightest = min(went_by(folder, engine), key=lambda one: float(one["promised_s"]))
    assert tightest["promised_s"] == pytest.approx(TPOT_S / tightest["weights"]["chat"])
    assert tightest["weights"]["batch"] == 1.0
