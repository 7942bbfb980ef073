"""Reading drafters, refusing those that cannot be served, and golden parity."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from drafter_fixtures import (
    FIELDS,
    KINDS,
    TARGET_FIELDS,
    small_drafter,
    small_model,
    write_checkpoint,
)
from safetensors.torch import load_file, save_file

from drafters import CheckpointError, DrafterConfig, load_drafter, random_drafter
from drafters.checkpoint import needs_target_weights, ngram_drafter, random_model
from drafters.commands import register
from drafters.confidence import TopProbConfidence
from drafters.config import check_fit

GOLDEN = Path(__file__).parents[4] / "shared" / "golden"
CPU: Any = {"dtype": torch.float32, "device": "cpu"}


def small_tensors() -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in small_model().state_dict().items()}


@pytest.fixture
def target_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "target"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(TARGET_FIELDS))
    tensors = {"model.embed_tokens.weight": torch.randn(96, 32)}
    save_file(tensors, directory / "model.safetensors")
    return directory


@pytest.mark.parametrize(
    "kind", ["dspark_vanilla", "dspark_gated", "dspark_rnn", "dflash", "eagle3"]
)
def test_parity_with_golden_outputs(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    if not (GOLDEN / kind).is_dir():
        pytest.skip("golden checkpoints are not on this machine")
    assert run_parity(GOLDEN / kind) == 0
    assert "agrees over 6 rounds" in capsys.readouterr().out


def run_parity(directory: Path, *options: str) -> int:
    parser = argparse.ArgumentParser()
    register(parser.add_subparsers())
    args = parser.parse_args(["parity", str(directory), *options])
    return int(args.run(args))


def test_parity_fails_on_wrong_expectations_and_missing_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = write_checkpoint(tmp_path / "d", small_tensors())
    assert run_parity(directory) == 2
    assert "features.safetensors" in capsys.readouterr().err
    save_file({"round0.features": torch.zeros(3, 64)}, directory / "features.safetensors")
    expected = {
        "round0.anchor": torch.tensor([1]),
        "round0.start": torch.tensor([3]),
        "round0.tokens": torch.full((5,), -1),
        "round0.hidden": torch.zeros(5, 32),
    }
    save_file(expected, directory / "expected.safetensors")
    assert run_parity(directory, "--tolerance", "1e9") == 1
    assert "5 differ" in capsys.readouterr().out


def test_load_gives_the_stored_weights(tmp_path: Path) -> None:
    tensors = small_tensors()
    loaded = load_drafter(write_checkpoint(tmp_path / "d", tensors), **CPU).state_dict()
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)


def test_load_reads_shards(tmp_path: Path) -> None:
    tensors = small_tensors()
    directory = write_checkpoint(tmp_path / "d", tensors)
    (directory / "model.safetensors").unlink()
    names = sorted(tensors)
    weight_map = {name: f"part-{i % 2}.safetensors" for i, name in enumerate(names)}
    for file in set(weight_map.values()):
        part = {name: tensors[name] for name in names if weight_map[name] == file}
        save_file(part, directory / file)
    index = json.dumps({"weight_map": weight_map})
    (directory / "model.safetensors.index.json").write_text(index)
    loaded = load_drafter(directory, **CPU).state_dict()
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)


def test_embedding_and_head_come_from_the_target(tmp_path: Path, target_dir: Path) -> None:
    tensors = small_tensors()
    del tensors["embed_tokens.weight"], tensors["lm_head.weight"]
    directory = write_checkpoint(tmp_path / "d", tensors)
    assert needs_target_weights(directory)
    assert not needs_target_weights(write_checkpoint(tmp_path / "whole", small_tensors()))
    with pytest.raises(CheckpointError, match=r"embed_tokens.weight is missing; name the target"):
        load_drafter(directory, **CPU)
    model = load_drafter(directory, **CPU, target_dir=target_dir)
    stored = load_file(target_dir / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(model.embed_tokens.weight, stored)
    assert torch.equal(model.lm_head.weight, stored)


def test_missing_unknown_and_misshapen_tensors_are_named(tmp_path: Path) -> None:
    tensors = small_tensors()
    without = {name: tensor for name, tensor in tensors.items() if name != "fc.weight"}
    with pytest.raises(CheckpointError, match=r"model.safetensors: tensor fc.weight is missing"):
        load_drafter(write_checkpoint(tmp_path / "a", without), **CPU)
    extra = {**tensors, "layers.7.x": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"layers.7.x is not one"):
        load_drafter(write_checkpoint(tmp_path / "b", extra), **CPU)
    wrong = {**tensors, "norm.weight": torch.zeros(31)}
    with pytest.raises(CheckpointError, match=r"norm.weight is \[31\].*\[32\]"):
        load_drafter(write_checkpoint(tmp_path / "c", wrong), **CPU)


def test_random_drafter_is_seeded_and_fits_its_target(target_dir: Path) -> None:
    options: Any = {
        "num_layers": 1, "block_size": 3, "markov_rank": 4, "target_layer_ids": (0, 2), **CPU,
    }  # fmt: skip
    model, same = (random_drafter(target_dir, seed=5, **options) for _ in range(2))
    other = random_drafter(target_dir, seed=6, **options)
    assert torch.equal(model.fc.weight, same.fc.weight)
    assert not torch.equal(model.fc.weight, other.fc.weight)
    assert model.embed_tokens.weight.data_ptr() == model.lm_head.weight.data_ptr()
    assert model.config.mask_token_id == 7
    check_fit(model.config, TARGET_FIELDS)
    tokenizer = {"added_tokens": [{"id": 11, "content": "<|mask|>"}]}
    (target_dir / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert random_drafter(target_dir, seed=5, **options).config.mask_token_id == 11


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 48}, "hidden_size is 32, but the target's hidden_size is 48"),
        ({"num_hidden_layers": 5}, "num_target_layers is 4, but .* num_hidden_layers is 5"),
        ({"vocab_size": 97}, "vocab_size is 96, but the target's vocab_size is 97"),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_wrong_target_is_refused(change: dict[str, int], message: str, nested: bool) -> None:
    config = DrafterConfig.from_dict(FIELDS, "config.json")
    target = {**TARGET_FIELDS, **change}
    check_fit(config, {"text_config": TARGET_FIELDS} if nested else TARGET_FIELDS)
    with pytest.raises(CheckpointError, match=message):
        check_fit(config, {"text_config": target} if nested else target)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": None}, "hidden_size is None; needed: an integer of at least 1"),
        ({"block_size": 0}, "block_size is 0"),
        ({"vocab_size": True}, "vocab_size is True"),
        ({"rms_norm_eps": "x"}, "rms_norm_eps is 'x'"),
        ({"mask_token_id": 96}, "mask_token_id is 96; it must be below vocab_size, 96"),
        ({"num_key_value_heads": 3}, "num_key_value_heads is 3"),
        ({"head_dim": 7}, "head_dim is 7"),
        ({"target_layer_ids": [2, 1]}, r"target_layer_ids is \[2, 1\]"),
        ({"target_layer_ids": [1, 1]}, "strictly increasing"),
        ({"target_layer_ids": [-2]}, "from -1"),
        ({"target_layer_ids": [3]}, r"\[3\].* to 2"),
        ({"target_layer_ids": []}, "target_layer_ids is"),
        ({"markov_head_type": "cubic"}, r"markov_head_type is 'cubic'.*'gated', 'rnn'\]"),
        ({"enable_confidence_head": 1}, "enable_confidence_head is 1; needed: true or false"),
        ({"architectures": ["Qwen9DSparkModel"]}, r"architectures is .*\['Gemma4DSparkModel'\]"),
        ({"architectures": ["Qwen3DSparkModel"] * 2}, "architectures is"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1.0}}, "rope_type 'default'"),
        ({"rope_parameters": None}, "rope_theta is missing"),
    ],
)
def test_bad_config_field_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=f"^some/config.json: {message}|{message}") as error:
        DrafterConfig.from_dict({**FIELDS, **change}, "some/config.json")
    assert str(error.value).startswith("some/config.json")


def test_rope_theta_is_read_from_either_place() -> None:
    plain = {**FIELDS, "rope_theta": 5.0, "rope_parameters": None}
    assert DrafterConfig.from_dict(plain, "c").rope_theta == 5.0
    assert DrafterConfig.from_dict(FIELDS, "c").rope_theta == 10000.0
    assert DrafterConfig.from_dict(FIELDS, "c").feature_size == 64


def test_ngram_lookup_needs_no_files_but_its_config(tmp_path: Path, target_dir: Path) -> None:
    fields = {"architectures": ["NgramDrafter"], "vocab_size": 96, "block_size": 3}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    stored: Any = load_drafter(tmp_path, **CPU, target_dir=target_dir)
    made = ngram_drafter(target_dir, block_size=3, device="cpu")
    assert not needs_target_weights(tmp_path)
    for config in (stored.config, made.config):
        assert (config.min_match, config.max_match, config.vocab_size) == (1, 4, 96)
        assert config.confidence_by_match == (0.3, 0.5, 0.65, 0.75)
    (tmp_path / "config.json").write_text(json.dumps(fields | {"vocab_size": 97}))
    with pytest.raises(CheckpointError, match="vocab_size is 97, but the target's"):
        load_drafter(tmp_path, **CPU, target_dir=target_dir)


def test_confidences_are_read_where_there_is_no_head(tmp_path: Path) -> None:
    fitted = TopProbConfidence((0.5,) * 5, (0.1,) * 5)
    headless = small_model(markov_rank=0, enable_confidence_head=False).state_dict()
    directory = write_checkpoint(
        tmp_path / "d", headless, markov_rank=0, enable_confidence_head=False
    )
    assert load_drafter(directory, **CPU).confidence == TopProbConfidence.identity(5)
    fitted.save(directory)
    assert load_drafter(directory, **CPU).confidence == fitted
    with_head = write_checkpoint(tmp_path / "h", small_tensors())
    fitted.save(with_head)
    with pytest.raises(CheckpointError, match=r"confidence.json: the drafter has a confidence"):
        load_drafter(with_head, **CPU)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "ngram"])
def test_every_kind_is_loaded_as_what_its_config_names(kind: str, tmp_path: Path) -> None:
    model = small_drafter(kind)
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    loaded: Any = load_drafter(write_checkpoint(tmp_path / "d", tensors, **KINDS[kind]), **CPU)
    assert type(loaded) is type(model)
    assert all(torch.equal(loaded.state_dict()[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("file", ["../model.safetensors", "model.bin", "/etc/x.safetensors"])
def test_an_index_names_safetensors_beside_it_only(file: str, tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path / "d", small_tensors())
    index = {"weight_map": {"norm.weight": file}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="weight_map names"):
        load_drafter(directory, **CPU)


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path / "d", small_tensors())
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="other formats are not read"):
        load_drafter(directory, **CPU)


@pytest.mark.parametrize("kind", ["rnn", "eagle3", "mtp"])
def test_random_models_of_any_kind_have_their_targets_sizes(kind: str, target_dir: Path) -> None:
    fields = {**FIELDS, **KINDS[kind]}
    model: Any = random_model(fields, target_dir, seed=3, **CPU)
    assert type(model) is type(small_drafter(kind))
    stored = load_file(target_dir / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(model.embed_tokens.weight, stored)
    same = random_model(fields, target_dir, seed=3, **CPU).state_dict()
    assert all(torch.equal(same[name], tensor) for name, tensor in model.state_dict().items())
