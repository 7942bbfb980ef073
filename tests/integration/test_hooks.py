"""Hooks reach the processes that they are for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.integration.hooks import hanging_step, hooked, jumping_clock, watched_prefill

pytestmark = pytest.mark.light

TELLS_TIME = """
import pickle, time
print("began", flush=True)
pickle.loads(pickle.dumps(time.time))
while input():
    print(time.time(), time.time_ns(), time.monotonic(), flush=True)
"""


@pytest.mark.parametrize("off_s", [-3600, 3600])
def test_the_clock_of_a_running_process_jumps_and_comes_back(tmp_path, off_s):
    path = tmp_path / "clock"
    jumping_clock.make(path)
    env = hooked("jumping_clock") | {jumping_clock.PATH: str(path)}
    with subprocess.Popen(
        [sys.executable, "-c", TELLS_TIME],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | env,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "began\n"
        steady = []
        for expected_s in (0, off_s, 0):
            jumping_clock.jump_to(path, expected_s)
            process.stdin.write("now\n")
            process.stdin.flush()
            wall_s, wall_ns, steady_s = map(float, process.stdout.readline().split())
            assert wall_s - time.time() == pytest.approx(expected_s, abs=60)
            assert wall_ns / 1e9 - time.time() == pytest.approx(expected_s, abs=60)
            steady.append(steady_s)
        assert steady == sorted(steady)
        process.stdin.write("\n")


def test_what_a_scheduler_goes_by_is_written_down(tmp_path):
    """Of a scheduler that vLLM would have made; the engine's is in test_served_prefill.py."""
    script = """
from types import SimpleNamespace as Some
from deployments.engine.bounded_prefill import BoundedPrefill
made = BoundedPrefill.__new__(BoundedPrefill)
one = Some(is_prefill_chunk=False, sampling_params=Some(extra_args={"dspark_class": "fast"}))
made._tpot_s, made.running, made.waiting = {"fast": 0.03}, [one], []
for weights in ({}, {}, {"fast": 1.5}):
    made._plans = Some(current=lambda: Some(class_weights=weights))
    made._promised_s([one])
"""
    env = hooked("watched_prefill") | {watched_prefill.DIRECTORY: str(tmp_path)}
    env["PYTHONPATH"] += os.pathsep + str(Path(__file__).parents[2])
    subprocess.run([sys.executable, "-c", script], env=os.environ | env, check=True)
    (path,) = tmp_path.iterdir()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"promised_s": 0.03, "weights": {}},
        {"promised_s": pytest.approx(0.02), "weights": {"fast": 1.5}},
    ]


STEPS = """
import os, threading
from deployments.engine.drafting_worker import DraftingWorker
from tests.integration.hooks.hanging_step import hang
from pathlib import Path

class Worker:
    def execute_model(self, batch, *, more):
        print("step", batch, more, flush=True)

class Ours(DraftingWorker, Worker):
    pass

def step(batch):
    thread = threading.Thread(target=Ours().execute_model, args=(batch,), kwargs={"more": 0})
    thread.daemon = True
    thread.start()
    thread.join(2)
    print("hangs" if thread.is_alive() else "ended", flush=True)

path = Path(os.environ["DSPARK_TEST_HANG"])
step(1)
hang(path, 1)
step(2)
hang(path, os.getpid())
step(3)
"""


def test_a_step_hangs_once_its_engine_is_named_and_no_other_one_does(tmp_path):
    """Of a worker without a model; an engine's is in test_lost_targets.py."""
    env = hooked("hanging_step") | {hanging_step.PATH: str(tmp_path / "hang")}
    done = subprocess.run(
        [sys.executable, "-c", STEPS], env=os.environ | env, check=True, capture_output=True
    )
    said = [line for line in done.stdout.decode().splitlines() if not line.startswith("INFO")]
    assert said[-5:] == ["step 1 0", "ended", "step 2 0", "ended", "hangs"]
