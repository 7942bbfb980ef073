"""Drafters of every kind behind a live target, colocated and split.

The bundled ones are trained, so that what follows an accepted token is exercised too; DFlash is the
bundled DSpark drafter without its heads. Of random weights are the serial heads that no bundled
drafter has: what they draft is worthless, and every path to it is the real one.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from vllm import SamplingParams

from drafters.checkpoint import random_model
from drafters.evaluation.benchmarks import Conversation
from drafters.evaluation.chat import ChatTemplate
from drafters.evaluation.dialogue import Dialogue, Limits
from drafters.evaluation.loop import SpeculativeLoop
from drafters.evaluation.target import EvaluatedTarget
from drafters.messages import StepBatch
from drafters.new_config import dspark_fields
from drafters.server import DraftServer
from drafters.sources import ColocatedDraftSource, RemoteDraftSource
from drafters.tensor_files import TARGET_TENSORS
from loadtest.prompts import PROMPTS
from tests.integration.demo import demo_drafter
from tests.integration.distributions import are_alike, first_three
from tests.integration.engines import draft_engine, make_engine, runner_of, settings

TARGET = "models/demo-target"
MAX_TOKENS = 48
# Past the end of an answer, so that none is too short to draft for.
GREEDY = SamplingParams(temperature=0, max_tokens=MAX_TOKENS, ignore_eos=True)
SAMPLED = SamplingParams(temperature=0.7, max_tokens=MAX_TOKENS, ignore_eos=True)
ASKED = PROMPTS[:8]
CHATS: list[Any] = [[{"role": "user", "content": prompt}] for prompt in ASKED]

TRAINED = ("dflash", "eagle3", "mtp")  # without a confidence head
HEADS = ("gated", "rnn")  # of random weights


def without_heads(directory: Path) -> dict[str, Any]:
    """A DFlash drafter's origin: what `models/demo-drafter` drafts in its parallel pass."""
    bundled = Path("models/demo-drafter")
    config = json.loads((bundled / "config.json").read_text())
    gone = {"markov_rank": 0, "enable_confidence_head": False, "confidence_head_with_markov": False}
    (directory / "config.json").write_text(json.dumps(config | gone))
    weights = load_file(bundled / "model.safetensors")
    backbone = {k: v for k, v in weights.items() if "_head." not in k}
    save_file(backbone, directory / "model.safetensors")
    return {"source": str(directory)}


def random_head(kind: str, directory: Path) -> dict[str, Any]:
    """A DSpark drafter's origin; embedding and LM head are the target's."""
    fields = dspark_fields(
        TARGET,
        num_layers=1,
        block_size=7,
        markov_rank=16,
        target_layer_ids=(1, 4, 6),
        markov_head_type=kind,
    )
    model = random_model(fields, TARGET, seed=0, dtype=torch.float32, device="cpu")
    own = {k: v for k, v in model.state_dict().items() if k not in TARGET_TENSORS}
    save_file(own, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(fields))
    return {"source": str(directory)}


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
    params=[*TRAINED, "ngram", *(pytest.param(kind, marks=pytest.mark.long) for kind in HEADS)],
)
def served(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    kind = request.param
    if kind == "ngram":
        origin: dict[str, Any] = {"source": None, "ngram": {"block_size": 5}}
    elif kind in HEADS:
        origin = random_head(kind, tmp_path_factory.mktemp(kind))
    elif kind == "dflash":
        origin = without_heads(tmp_path_factory.mktemp(kind))
    else:
        origin = {"source": f"models/demo-{kind}"}
    drafter = demo_drafter("split") | origin
    engine = make_engine("split", drafter=drafter)
    yield Served(kind, settings(placement="split", drafter=drafter), engine)
    engine.llm_engine.engine_core.shutdown()
    gc.collect()


def tokens(engine: Any, params: SamplingParams = GREEDY) -> list[list[int]]:
    engine.reset_prefix_cache()
    return [list(r.outputs[0].token_ids) for r in engine.chat(CHATS, params, use_tqdm=False)]


@pytest.fixture(scope="module")
def expected(plain: Any) -> list[list[int]]:
    return tokens(plain)


class Counted(NamedTuple):
    """Draft tokens up to each draft's first rejection, and how many were accepted."""

    tried: int
    accepted: int

    @property
    def rate(self) -> float:
        return self.accepted / self.tried

    def __sub__(self, before: Counted) -> Counted:
        return Counted(self.tried - before.tried, self.accepted - before.accepted)


def counted(served: Served) -> Counted:
    """Since the engine's start."""
    stats = served.adapter.stats
    return Counted(sum(stats.reached_by_position), stats.accepted_tokens)


@pytest.fixture
def colocated(served: Served) -> Iterator[Served]:
    """The same engine with its drafter beside it, and no outcomes of others to report."""
    remote = served.adapter.source
    served.adapter.source = ColocatedDraftSource(draft_engine(model=served.model))
    served.adapter.calibration.replica.take_report()
    yield served
    served.adapter.source = remote


def test_split(served: Served, expected: list[list[int]]) -> None:
    drafter = draft_engine(model=served.model)
    server = DraftServer(drafter, host="127.0.0.1", secret="s", shape=drafter.model.config.shape)
    server.start()
    source = served.adapter.source
    assert isinstance(source, RemoteDraftSource)
    source.set_deadline(5.0)
    source.set_address(server.address, "s")
    served.adapter.calibration.replica.take_report()
    before, drafts_before = counted(served), served.adapter.stats.verified_drafts
    try:
        assert tokens(served.engine) == expected
        greedy = counted(served) - before
        assert served.adapter.stats.verified_drafts > drafts_before + 50
        tokens(served.engine, SAMPLED)
        sampled = counted(served) - before - greedy
        assert served.adapter.stats.malformed_replies == 0
        assert not source.is_refused
    finally:
        source.set_address(None)
        server.stop()
    mode = "one-hot" if served.kind == "ngram" else "q"
    reported = served.adapter.calibration.replica.take_report()
    assert sorted(map(str, reported)) == sorted(["greedy/0", f"{mode}/0.4-0.8"])
    assert served.kind in HEADS or (greedy.accepted > 0 and sampled.accepted > 0)


@pytest.mark.long
def test_colocated(colocated: Served, expected: list[list[int]]) -> None:
    before = counted(colocated)
    assert tokens(colocated.engine) == expected
    assert colocated.adapter.source.stats.failures == 0
    assert colocated.adapter.stats.gaps == 0
    assert colocated.kind in HEADS or (counted(colocated) - before).accepted > 0
    (report,) = colocated.adapter.calibration.replica.take_report().values()
    assert report.drafts.confidences.std() > 0  # also without a confidence head


def offline(model: Any) -> Counted:
    """The same drafter and prompts in the loop of `dspark evaluate`, greedy."""
    drafter = draft_engine(model=model)
    config = drafter.model.config
    target = EvaluatedTarget.load(
        TARGET, config.target_layer_ids, num_rows=len(ASKED), dtype=torch.float32, device="cpu"
    )
    loop = SpeculativeLoop(
        target,
        drafter,
        config.shape,
        temperature=0.0,
        num_seats=len(ASKED),
        generator=torch.Generator(),
    )
    chat = ChatTemplate.load(TARGET)
    encode, limits = partial(chat.encode, thinking="none"), Limits(MAX_TOKENS, 1024)
    dialogues = [
        Dialogue(Conversation(str(i), "kinds", "any", (prompt,)), encode, chat.decode, limits)
        for i, prompt in enumerate(ASKED)
    ]
    accepted = [draft.num_accepted for draft in loop.run(dialogues)]
    return Counted(sum(min(a + 1, config.block_size) for a in accepted), sum(accepted))


@pytest.mark.long
@pytest.mark.parametrize("served", [*TRAINED, "ngram"], indirect=True)
def test_as_much_is_accepted_as_in_an_evaluation(colocated: Served) -> None:
    """Context or pairs that are wrong after an acceptance cost acceptance, and nothing else."""
    before = counted(colocated)
    tokens(colocated.engine)
    live = counted(colocated) - before
    assert live.tried > 100
    assert live.rate == pytest.approx(offline(colocated.model).rate, abs=0.04)


DRAWS = 600
ASKED_OFTEN = "What is the capital of France?"


@pytest.fixture(scope="module")
def plain_draws(plain: Any) -> list[tuple[int, ...]]:
    """Plain decoding, twice as often as under test."""
    return first_three(plain, ASKED_OFTEN, 2 * DRAWS, temperature=1.0)


@pytest.mark.long
@pytest.mark.parametrize("served", [*TRAINED, "ngram"], indirect=True)
def test_the_first_three_tokens_have_the_targets_distribution(
    colocated: Served, plain_draws: list[tuple[int, ...]]
) -> None:
    before = counted(colocated)
    draws = first_three(colocated.engine, ASKED_OFTEN, DRAWS, temperature=1.0)
    assert len(draws) == DRAWS
    assert (counted(colocated) - before).accepted > (0 if colocated.kind == "ngram" else DRAWS // 8)
    assert are_alike([(draws, plain_draws)])


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
