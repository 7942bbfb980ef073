"""Training files, the command line over them, and estimates."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cluster.cli import build_parser
from deployments.catalog import find_checkpoint
from drafters.answers import Answer, AnswerWriter, answer_parts, read_answers
from drafters.checkpoint import empty_model, random_model
from drafters.config import DrafterConfig, text_config
from drafters.new_config import dspark_fields
from drafters.tensor_files import TARGET_TENSORS
from drafters.training.blocks import training_blocks
from drafters.training.command import estimate_of, foreign_answers
from drafters.training.data import TextSequence, make_batch
from drafters.training.drafter import batch_losses, new_drafter
from drafters.training.estimate import Assumptions, TargetSize, estimate, target_size
from drafters.training.kinds import KINDS
from drafters.training.memory_estimate import MemoryEstimate, memory_estimate
from drafters.training.plan import TrainingPlan
from drafters.training.settings import CONFIG_DIR, TrainingSettings, read_settings
from drafters.training.target import FrozenTarget
from profiles.fingerprint import checkpoint_fingerprint
from tests.unit.drafters.drafter_fixtures import TARGET_FIELDS
from tests.unit.drafters.training_fixtures import (
    VOCABULARY,
    small_plan,
    write_answers,
    write_target,
)

BUNDLED = sorted(path.stem for path in CONFIG_DIR.glob("*.yaml"))


def test_the_files_of_the_paper_have_its_settings():
    assert BUNDLED == ["demo", "gemma4-12b", "qwen3-14b", "qwen3-4b", "qwen3-8b"]
    for name in BUNDLED[1:]:
        settings = read_settings(name, {})
        assert (settings.block_size, settings.num_layers, settings.markov_rank) == (7, 5, 256)
        assert len(settings.target_layers) == 5
        assert settings.revision is not None


def test_steps_and_epochs_replace_each_other():
    assert read_settings("demo", {"epochs": 2}).steps is None
    assert read_settings("qwen3-4b", {"steps": 2}).epochs is None


def test_the_command_line_stands_over_the_file():
    settings = read_settings("qwen3-4b", {"steps": 7, "kind": "eagle3", "seed": None})
    assert (settings.steps, settings.epochs, settings.kind, settings.seed) == (7, None, "eagle3", 0)
    assert settings.num_layers == 5


def test_every_setting_but_the_rare_ones_has_an_option():
    args = build_parser().parse_args(["train"])
    rare = {"warmup", "weight_decay", "max_grad_norm"}
    assumed = {name for name in TrainingSettings.model_fields if name.startswith("assumed_")}
    assert {n for n in TrainingSettings.model_fields if not hasattr(args, n)} == rare | assumed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("target: x\nlayers: 3", r"some.yaml: layers: Extra inputs"),
        ("target: x\nsteps: 0", r"some.yaml: steps: Input should be greater than 0"),
        ("steps: 3", r"some.yaml: target: Field required"),
        ("- 3", r"some.yaml: holds a list"),
        ("a: [", r"some.yaml: not readable as YAML"),
    ],
)
def test_a_bad_file_is_refused_with_its_field(text, message, tmp_path):
    path = tmp_path / "some.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_settings(path, {})


def test_a_run_is_so_many_steps_or_epochs():
    both = TrainingSettings(target="t", steps=3, epochs=1, target_layers=(1,))
    with pytest.raises(ValueError, match="either steps or epochs"):
        both.plan("t", "d", 100)
    epochs = TrainingSettings(
        target="t", epochs=2, target_layers=(1,), batch_size=8, held_out=20, warmup=0.1
    )
    plan = epochs.plan("t", "d", 100)
    assert (plan.steps, plan.warmup_steps) == (20, 2)


def hand_sized(tmp_path: Path) -> tuple[TrainingPlan, object]:
    (tmp_path / "config.json").write_text(json.dumps(TARGET_FIELDS))
    plan = TrainingPlan(
        target_dir=str(tmp_path), data="", steps=10, num_layers=1, block_size=5, markov_rank=4,
        target_layer_ids=(0, 1), batch_size=2, num_anchors=3, context_tokens=20, anchor_span=10,
    )  # fmt: skip
    return plan, empty_model(DrafterConfig.from_dict(KINDS["dspark"].fields(plan), "test"))


def test_an_estimate_is_its_formula(tmp_path):
    plan, model = hand_sized(tmp_path)
    target = TargetSize(
        num_parameters=1000, head_parameters=96 * 32, embedding_parameters=0, num_layers=4,
        attention_width=32,
    )  # fmt: skip
    found = estimate(
        plan, model, target, num_rows=50, tokens_per_row=100, rows_at_once=1,
        assumed=Assumptions(tflops=1e-6, utilisation=0.5, acceptance_length=3.0),
    )  # fmt: skip
    assert (found.tokens, found.positions) == (2000, 10 * 2 * 3 * 5)
    assert found.target_flops == 2000 * (2 * 1000 + 2 * 100 * 32 * 4)
    attention = 2 * 32 * 32 + 2 * 32 * 16 + 2 * 8  # q, o; k, v; norms
    layer = attention + 3 * 32 * 48 + 2 * 32
    heads = 4 * 96 + (32 + 4 + 1)  # W2; confidence
    makes_context = 4 * 64 * 32 + 6 * (2 * 32 * 16 + 8)  # fc; k, v and their norm
    keys = 30 + 3 * 5
    head = 96 * 32
    assert found.drafter_flops == (
        300 * 6 * (layer + 64 + heads + head) + 20 * 30 * makes_context + 300 * 12 * keys * 32
    )
    assert found.cache_bytes == 50 * 100 * 3 * 32 * 2
    once = layer + 32 + 64 * 32 + 32 + 37 + head
    assert found.draft_cost == pytest.approx((once + 5 * 4 * 96) / (1000 + head))
    assert found.speed_up == pytest.approx(3 / (1 + found.draft_cost))
    assert found.hours == pytest.approx(found.flops / 0.5e6 / 3600)
    assert "assumed" in str(found)


def test_a_target_is_sized_by_its_config_alone(tmp_path):
    fields = {**TARGET_FIELDS, "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    size = target_size(str(tmp_path))
    layer = 2 * 32 * 32 + 2 * 32 * 16 + 2 * 8 + 3 * 32 * 48 + 2 * 32
    assert size == TargetSize(4 * layer + 32, 96 * 32, 0, 4, 32)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_estimated(kind, tmp_path):
    target = write_target(tmp_path / "target")
    plan = small_plan(kind, target, tmp_path)
    model = empty_model(DrafterConfig.from_dict(KINDS[kind].fields(plan), "test"))
    found = estimate(
        plan, model, target_size(str(target)), num_rows=40, tokens_per_row=15, rows_at_once=3,
        assumed=Assumptions(1.0, 0.3, 2.0),
    )  # fmt: skip
    assert found.draft_cost > 0
    assert found.hours > 0


@pytest.mark.parametrize("kind", KINDS)
def test_an_estimate_charges_what_is_computed(kind, tmp_path):
    target_dir = write_target(tmp_path / "target")
    plan = small_plan(
        kind, target_dir, tmp_path, steps=1, num_anchors=24, context_tokens=16, anchor_span=24
    )
    target = FrozenTarget(target_dir, plan.target_layer_ids, torch.float32)
    model = new_drafter(plan, target)
    rows = [TextSequence(tuple(i % VOCABULARY for i in range(100)), 40, "") for _ in range(3)]
    batch = make_batch(rows, plan.num_anchors, random.Random(0), anchor_span=plan.anchor_span)
    states = target.read(batch.tokens)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        batch_losses(model, target, batch, plan, states, gradients_over=torch.tensor(1.0))
    sized = empty_model(model.config)
    found = estimate(
        plan, sized, target_size(str(target_dir)), num_rows=3, tokens_per_row=100, rows_at_once=3,
        assumed=Assumptions(1.0, 0.3, 2.0),
    )  # fmt: skip
    assert found.drafter_flops == pytest.approx(counter.get_total_flops(), rel=0.05)


LARGE = [name for name in BUNDLED if name != "demo"]


@pytest.mark.parametrize("name", LARGE)
def test_a_drafters_cost_under_the_papers_files_does_not_grow_with_the_text(name):
    settings = read_settings(name, {})
    shapes = set()
    for length in (settings.max_tokens // 2, settings.max_tokens):
        row = TextSequence(range(length), 100, "")
        batch = make_batch(
            [row], settings.num_anchors, random.Random(0), anchor_span=settings.anchor_span
        )
        features = torch.zeros(1, 1, 1).expand(1, length, 1)
        blocks = training_blocks(batch, features, 7, settings.context_tokens)
        assert blocks.features.shape[1] <= 6144
        shapes.add(blocks.tokens.shape)
    assert len(shapes) == 1


@pytest.mark.parametrize("name", LARGE)
def test_the_papers_files_fit_their_device(name, tmp_path):
    known = find_checkpoint(read_settings(name, {}).target)
    assert known is not None
    text = {**text_config(known.config), "eos_token_id": 1}
    nested = {**known.config, "text_config": text} if "text_config" in known.config else text
    (tmp_path / "config.json").write_text(json.dumps(nested))
    settings = read_settings(name, {"target": str(tmp_path), "revision": ""})
    found = estimate_of(settings, None)
    assert found.assumed.memory_gb == 80
    assert found.does_fit, found.memory
    assert "WARNING" not in str(found)
    crowded = settings.model_copy(update={"micro_batch": 16})
    assert "WARNING      does not fit a device of 80 GB" in str(estimate_of(crowded, None))


def test_a_memory_estimate_is_its_formula(tmp_path):
    plan, model = hand_sized(tmp_path)
    trained = sum(p.numel() for n, p in model.named_parameters() if n not in TARGET_TENSORS)
    found = memory_estimate(plan, model, target_weights=1000, rows=2, kept_keys=45)
    positions = 2 * 3 * 5
    assert found == MemoryEstimate(
        target=2000,
        drafter=16 * trained,
        copies=2 * trained,
        logits=4 * 12 * positions * 96,
        layers=positions * (24 * 32 + 20 * 32 + 8 * 48 + 3 * 2 * 45),
        features=2 * 2 * 512 * 3 * 32 + 6 * 2 * 30 * 2 * 32,
        update=4 * trained,
    )
    assert found.peak == 2000 + 16 * trained + max(found.losses, 4 * trained)


def test_what_is_kept_for_the_backward_pass_is_what_the_estimate_has(tmp_path):
    fields = {**TARGET_FIELDS, "hidden_size": 160, "intermediate_size": 544}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    plan = TrainingPlan(
        target_dir=str(tmp_path), data="", steps=1, num_layers=3, block_size=7, markov_rank=4,
        target_layer_ids=(0, 1), num_anchors=64, max_tokens=200,
    )  # fmt: skip
    kind = KINDS["dspark"]
    model = random_model(
        kind.fields(plan), None, seed=0, dtype=torch.float32, device="cpu"
    ).requires_grad_(True)
    row = TextSequence([i % VOCABULARY for i in range(200)], 100, "")
    batch = make_batch([row], 64, random.Random(0))
    blocks = training_blocks(batch, torch.zeros(1, 200, 320), 7, None)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in weights:
            kept[place] = tensor
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16),
        sdpa_kernel(SDPBackend.FLASH_ATTENTION),
    ):
        kind.hidden(model, blocks)
    num_bytes = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    found = memory_estimate(plan, model, target_weights=0, rows=1, kept_keys=200 + 64 * 7)
    of_backbone = found.copies + found.layers
    assert num_bytes == pytest.approx(of_backbone, rel=0.15)


def run_command(*arguments: str) -> int:
    args = build_parser().parse_args(["train", *arguments])
    status: int = args.run(args)
    return status


def test_the_command_trains_and_says_how_fast(tmp_path, capsys):
    target = write_target(tmp_path / "target")
    answers = write_answers(tmp_path / "answers.jsonl")
    common = ["--target", str(target), "--data", str(answers), "--target-layers", "1", "2"]
    small = ["--layers", "1", "--batch", "3", "--held-out", "8", "--markov-rank", "4"]
    output = str(tmp_path / "drafter")
    assert run_command(*common, *small, "--steps", "2", "--output", output) == 0
    said = capsys.readouterr().out
    for words in ("hours", "speed-up", "draft positions per second", "peak memory"):
        assert words in said
    assert run_command(*common, *small, "--steps", "3", "--output", output) == 2
    assert "trained with steps 2, now 3" in capsys.readouterr().err
    assert run_command(*common, *small, "--steps", "3", "--estimate") == 0


def test_traffic_that_changes_is_trained_on_as_a_copy(tmp_path):
    target, live, output = write_target(tmp_path / "target"), tmp_path / "live", tmp_path / "out"
    rows = [row for _, row in read_answers(write_answers(tmp_path / "answers.jsonl"))]
    writer = AnswerWriter(live / "replica", rows_per_part=8)
    for i, row in enumerate(rows):
        writer.add(Answer(str(i), "served", "demo", row["prompt"], row["output"]))
    writer.flush()
    common = ["--target", str(target), "--data", str(live), "--copy-data", "--output", str(output)]
    small = ["--layers", "1", "--batch", "3", "--held-out", "8", "--markov-rank", "4"]
    shape = ["--target-layers", "1", "2", "--steps", "2"]
    assert run_command(*common, *small, *shape) == 0
    for part in answer_parts(live):  # they gave way to others
        part.unlink()
    assert run_command(*common, *small, *shape) == 0  # has ended: the same run


def test_answers_of_other_weights_are_warned_of(tmp_path):
    target = write_target(tmp_path / "target")
    ours = checkpoint_fingerprint(target)
    for name, made_by in (("ours", {"target": ours}), ("theirs", {"target": "b2"}), ("old", None)):
        writer = AnswerWriter(tmp_path / name, made_by=made_by)
        writer.add(Answer("1", "math", "s", (1, 2), (3, 4)))
        writer.flush()
    assert foreign_answers(tmp_path / "ours", target) == []
    assert foreign_answers(tmp_path / "old", target) == []
    (warning,) = foreign_answers(tmp_path / "theirs", target)
    assert f"another target (b2) than {target} ({ours})" in warning


def test_fields_of_a_gemma4_target_make_a_gemma4_drafter(tmp_path):
    fields = {"text_config": {"model_type": "gemma4_text", "num_hidden_layers": 6}}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    found = dspark_fields(
        tmp_path, num_layers=1, block_size=7, markov_rank=4, target_layer_ids=(1,), mask_token_id=4
    )
    assert found["architectures"] == ["Gemma4DSparkModel"]
