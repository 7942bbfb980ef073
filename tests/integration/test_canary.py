"""A new drafter on live traffic: a ruined one is rolled back, an equal one promoted."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest
import torch
from safetensors.torch import load_file, save_file

from cluster.cli import main
from loadtest.prompts import PROMPTS
from tests.integration.served import demo_config, fleet, serving, wait_for


def noisy_drafter(folder: Path, noise: float) -> Path:
    """The bundled drafter with relative noise on its weights."""
    shutil.copytree("models/demo-drafter", folder)
    (folder / "training.json").unlink()  # which knows the weights as they were
    generator = torch.Generator().manual_seed(0)
    for path in folder.glob("*.safetensors"):
        weights = load_file(path)
        for name, weight in weights.items():
            if weight.is_floating_point():
                factor = 1 + noise * torch.randn(weight.shape, generator=generator)
                weights[name] = (weight.float() * factor).to(weight.dtype)
        save_file(weights, path)
    return folder


@contextmanager
def traffic(url: str) -> Iterator[None]:
    """Six clients that never stop."""
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    stop = threading.Event()

    def ask(i: int) -> None:
        while not stop.is_set():
            client.chat.completions.create(
                model="demo",
                messages=[{"role": "user", "content": PROMPTS[i % len(PROMPTS)]}],
                temperature=0,
                max_tokens=32,
            )
            i += 6

    with ThreadPoolExecutor(6) as pool:
        clients = [pool.submit(ask, i) for i in range(6)]
        try:
            yield
        finally:
            stop.set()
        for one in clients:
            one.result()


@pytest.mark.long
def test_a_ruined_drafter_is_rolled_back_and_an_equal_one_promoted(tmp_path: Path) -> None:
    config = demo_config(tmp_path / "serve.yaml", models={"demo": "split"})
    ruined = noisy_drafter(tmp_path / "ruined", 0.6)
    equal = noisy_drafter(tmp_path / "equal", 0.003)

    def canary(url: str, *arguments: str) -> int:
        return main(["canary", *arguments, "--url", url])

    with serving(config, tmp_path / "log") as url, traffic(url):
        (target,) = fleet(url, "demo")["targets"]
        options = ("--share", "50%", "--margin", "20%", "--ece-margin", "20%")
        options += ("--patience", "300")
        assert canary(url, str(ruined), *options) == 3
        wait_for(lambda: len(fleet(url, "demo")["drafters"]) == 1)
        assert canary(url, str(equal), *options) == 0
        assert fleet(url, "demo")["canary"]["share"] == 1.0
        (after,) = fleet(url, "demo")["targets"]
        assert after["pid"] == target["pid"]  # targets are left as they are
        assert canary(url, "--stop") == 0
        wait_for(lambda: fleet(url, "demo")["targets"][0]["stats"]["canary"] is None)
