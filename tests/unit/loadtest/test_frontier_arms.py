"""`make frontier`: which arms it measures, and that its drafters can draft what they are asked."""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.schema import ModelSpec, parse_settings
from drafters.config import read_config
from drafters.layouts import read_layout
from loadtest.arms import Arm
from loadtest.bench_arguments import add_bench, fill_in
from loadtest.peers import PEERS
from loadtest.policies import PolicyChoice

SERVE_FILE = Path("deployments/configs/frontier.yaml")
SETTINGS = yaml.safe_load(SERVE_FILE.read_text())["applications"][0]["args"]
DRAFTING = [model for model in SETTINGS["models"] if "drafter" in model]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")


def frontier(*variables: str) -> argparse.Namespace:
    """What the target's first round runs."""
    command = ["make", "-n", "frontier", "WHEELS=none", *variables]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    line = said[said.index("dspark bench") :].partition("||")[0].replace("\\\n", " ")
    parser = argparse.ArgumentParser()
    add_bench(parser.add_subparsers(), run=lambda _: 0)
    args = parser.parse_args(shlex.split(line.replace("$round", "1"))[1:])
    fill_in(args)
    return args


def arms(args: argparse.Namespace) -> list[Arm]:
    models: list[dict[str, Any]] = yaml.safe_load(args.config.read_text())["applications"][0][
        "args"
    ]["models"]
    chosen = [model for model in models if model["id"] in args.models]
    return list(Arm.of_models(chosen, PolicyChoice.parse(args.policies)))


def test_it_measures_every_drafter_as_it_schedules():
    args = frontier("MODELS=off colocated split mtp eagle3 dflash")
    names = [arm.name for arm in arms(args)]
    assert names == [
        "off",
        *(f"colocated {how}" for how in ("fixed 3", "fixed 5", "fixed 7", "local", "causal")),
        *("split local", "split causal"),
        "mtp fixed 1",
        *(f"{kind} fixed {k}" for kind in ("eagle3", "dflash") for k in (3, 5, 7)),
    ]
    assert set(args.reference) <= set(names)
    assert set(args.peers) <= set(PEERS)
    assert args.config == SERVE_FILE
    assert args.apart


def test_only_drafters_that_are_there_are_measured():
    named = {model["id"]: model["drafter"]["source"] for model in DRAFTING}
    there = {id_ for id_, source in named.items() if Path(source, "config.json").exists()}
    assert set(frontier().models) == there | {"off"}


def test_it_can_be_done_in_pieces():
    args = frontier("MODELS=mtp", "PEERS=", "POINTS=1 8", "OPEN=", "FRONTIER=there")
    assert [arm.name for arm in arms(args)] == ["mtp fixed 1"]
    assert (args.peers, args.open, args.concurrency) == ([], [], [1, 8])
    assert args.output == Path("there")
    peers = frontier("MODELS=", "DRAFT_MODEL=small")
    assert peers.without_dspark
    assert peers.peers[-1] == "vllm-draft-model"
    assert peers.draft_model == Path("small")


def test_all_models_serve_one_target():
    models = parse_settings(SETTINGS).launched
    assert all(model.target == models[0].target for model in models)
    assert [model.placement for model in models][:3] == ["off", "colocated", "split"]
    assert {model.placement for model in models[3:]} == {"colocated"}


@pytest.mark.parametrize("model", DRAFTING, ids=lambda model: model["id"])
def test_no_drafter_is_asked_for_more_than_its_block(model):
    directory = Path(ModelSpec.model_validate(model).drafter.source)
    if not directory.is_dir():
        pytest.skip(f"{directory} is not there")
    config = read_layout(read_config(directory), str(directory)).config
    asked = [arm.policy["k"] for arm in arms(frontier()) if "k" in (arm.policy or {})
             and arm.model == model["id"]]  # fmt: skip
    assert max(asked, default=1) <= config.block_size
    assert (config.block_size == 1) is (model["id"] == "mtp")
