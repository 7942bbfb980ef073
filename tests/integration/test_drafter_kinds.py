"""Drafters of every kind behind a live target, colocated and split.

Random weights: what is drafted is worthless, and every path to it is the real one.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import save_file
from vllm import SamplingParams

from drafters.checkpoint import random_model
from drafters.messages import StepBatch
from drafters.new_config import dspark_fields
from drafters.server import DraftServer
from drafters.sources import ColocatedDraftSource, RemoteDraftSource
from drafters.tensor_files import TARGET_TENSORS
from loadtest.prompts import PROMPTS
from tests.integration.demo import demo_drafter
from tests.integration.engines import draft_engine, make_engine, runner_of, settings

TARGET = "models/demo-target"
GREEDY = SamplingParams(temperature=0, max_tokens=24)
CHATS: list[Any] = [[{"role": "user", "content": prompt}] for prompt in PROMPTS[:8]]


def dflash() -> dict[str, Any]:
    return dspark_fields(
        TARGET, num_layers=1, block_size=7, markov_rank=0, target_layer_ids=(1, 4, 6)
    )


def of_one_layer(**changes: Any) -> dict[str, Any]:
    target = json.loads(Path(TARGET, "config.json").read_text())
    layers = target["num_hidden_layers"]
    one = {"num_hidden_layers": 1, "num_target_layers": layers, "layer_types": None}
    return target | one | changes


def eagle3() -> dict[str, Any]:
    return of_one_layer(
        architectures=["Qwen3Eagle3Model"], target_layer_ids=[0, 1, 2, 4, 5], ttt_length=4
    )


def mtp() -> dict[str, Any]:
    return of_one_layer(architectures=["Qwen3MTPModel"], target_layer_ids=[7], block_size=2)


def checkpoint(directory: Path, fields: dict[str, Any]) -> str:
    """A drafter's checkpoint of random weights; embedding and LM head are the target's."""
    model = random_model(fields, TARGET, seed=0, dtype=torch.float32, device="cpu")
    own = {k: v for k, v in model.state_dict().items() if k not in TARGET_TENSORS}
    save_file(own, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(fields))
    return str(directory)


KINDS: dict[str, Callable[[], dict[str, Any]] | None] = {
    "dflash": dflash,
    "eagle3": eagle3,
    "mtp": mtp,
    "ngram": None,
}


class Served(NamedTuple):
    """A live target of one kind of drafter; `model` are its settings."""

    kind: str
    model: Any
    engine: Any

    @property
    def adapter(self) -> Any:
        return runner_of(self.engine).adapter


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("dflash", marks=pytest.mark.long),
        pytest.param("eagle3", marks=pytest.mark.long),
        "mtp",
        "ngram",
    ],
)
def served(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    fields = KINDS[request.param]
    origin: dict[str, Any] = {"source": None, "ngram": {"block_size": 5}}
    if fields is not None:
        origin = {"source": checkpoint(tmp_path_factory.mktemp(request.param), fields())}
    drafter = demo_drafter("split") | origin
    engine = make_engine("split", drafter=drafter)
    yield Served(request.param, settings(placement="split", drafter=drafter), engine)
    engine.llm_engine.engine_core.shutdown()
    gc.collect()


def tokens(engine: Any, params: SamplingParams = GREEDY) -> list[list[int]]:
    engine.reset_prefix_cache()
    return [list(r.outputs[0].token_ids) for r in engine.chat(CHATS, params, use_tqdm=False)]


@pytest.fixture(scope="module")
def expected(plain: Any) -> list[list[int]]:
    return tokens(plain)


def test_split(served: Served, expected: list[list[int]]) -> None:
    drafter = draft_engine(model=served.model)
    server = DraftServer(drafter, host="127.0.0.1", secret="s", shape=drafter.model.config.shape)
    server.start()
    source = served.adapter.source
    assert isinstance(source, RemoteDraftSource)
    source.set_deadline(5.0)
    source.set_address(server.address, "s")
    before = served.adapter.stats.verified_drafts
    assert tokens(served.engine) == expected
    assert served.adapter.stats.verified_drafts > before + 50
    assert served.adapter.stats.malformed_replies == 0
    assert not source.is_refused
    source.set_address(None)
    server.stop()


def test_colocated(served: Served, expected: list[list[int]]) -> None:
    remote = served.adapter.source
    served.adapter.source = ColocatedDraftSource(draft_engine(model=served.model))
    served.adapter.calibration.replica.take_report()
    try:
        assert tokens(served.engine) == expected
        assert served.adapter.source.stats.failures == 0
    finally:
        served.adapter.source = remote
    stats = served.adapter.stats
    assert stats.verified_drafts > 50
    assert stats.gaps == 0
    assert stats.accepted_tokens > 0 or served.kind != "ngram"
    (report,) = served.adapter.calibration.replica.take_report().values()
    assert report.drafts.confidences.std() > 0  # without a confidence head, and yet they differ


@pytest.mark.parametrize("served", ["ngram"], indirect=True)
def test_lookup_is_verified_one_hot_at_any_temperature(served: Served) -> None:
    remote = served.adapter.source
    served.adapter.source = ColocatedDraftSource(draft_engine(model=served.model))
    tokens(served.engine, SamplingParams(temperature=0.7, max_tokens=24))
    served.adapter.source = remote
    (key,) = served.adapter.calibration.replica.take_report()
    assert str(key) == "one-hot/0.4-0.8"


class Recorder:
    """Keeps every feature row by position, and drafts nothing."""

    def __init__(self) -> None:
        self.features: dict[int, torch.Tensor] = {}

    def draft(self, batch: StepBatch) -> None:
        first = 0
        for row in batch.rows:
            rows = batch.features[first : first + row.num_rows].clone()
            self.features |= zip(range(row.start, row.end), rows, strict=True)
            first += row.num_rows

    def close(self) -> None:
        pass


@pytest.mark.parametrize("served", ["mtp"], indirect=True)
@torch.inference_mode()
def test_mtp_reads_the_last_layer_before_the_final_norm(served: Served) -> None:
    from transformers import AutoModelForCausalLM

    recorder, remote = Recorder(), served.adapter.source
    served.adapter.source = recorder
    served.engine.reset_prefix_cache()
    prompt = list(range(300, 360))
    (result,) = served.engine.generate({"prompt_token_ids": prompt}, GREEDY, use_tqdm=False)
    served.adapter.source = remote
    text = prompt + list(result.outputs[0].token_ids)
    model = AutoModelForCausalLM.from_pretrained(TARGET, dtype=torch.float32).eval()
    outputs: list[torch.Tensor] = []
    model.model.layers[-1].register_forward_hook(
        lambda module, inputs, output: outputs.append(output)
    )
    model(torch.tensor([text]))
    (states,) = outputs[0] if outputs[0].ndim == 3 else (outputs[0],)
    assert sorted(recorder.features)[: len(prompt)] == list(range(len(prompt)))
    for position, row in recorder.features.items():
        torch.testing.assert_close(row, states[position], rtol=1e-3, atol=1e-3)
