"""From a drafter without a confidence head to its calibration, command by command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cluster.cli import main
from drafters.checkpoint import random_model
from drafters.confidence import TopProbConfidence
from drafters.new_config import mtp_fields
from drafters.tensor_files import TARGET_TENSORS
from profiles.calibration import CalibrationProfile, load_calibration
from profiles.fingerprint import checkpoint_fingerprint
from profiles.outcomes import Outcomes, load_outcomes
from tests.unit.drafters.evaluation.tiny import HIDDEN, tiny_target

DEMO_TARGET = Path("models/demo-target")
VOCABULARY = 8192  # of the demo's tokenizer
GAMMA = 3
NUM_PROMPTS = 16


def write_target(directory: Path) -> Path:
    """What it says next depends on the last token alone."""
    model = tiny_target(scale=1.0, vocab_size=VOCABULARY)
    for layer in model.model.layers:
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    model.save_pretrained(directory)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(DEMO_TARGET / name, directory)
    return directory


def write_drafter(directory: Path, target: Path) -> Path:
    """An MTP module that knows the target but for some noise of the token before the last."""
    fields = mtp_fields(target, block_size=GAMMA)
    state = random_model(fields, target, seed=0, dtype=torch.float32, device="cpu").state_dict()
    own = {name: weight for name, weight in state.items() if name not in TARGET_TENSORS}
    own["eh_proj.weight"][:, :HIDDEN] = torch.eye(HIDDEN)
    own["eh_proj.weight"][:, HIDDEN:] *= 2.5
    for name in ("layers.0.self_attn.o_proj.weight", "layers.0.mlp.down_proj.weight"):
        own[name].zero_()
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(fields))
    save_file(own, directory / "model.safetensors")
    return directory


class Steps:
    """The commands, each of which has to end well, in a directory of their own."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.target = write_target(root / "target")
        self.drafter = write_drafter(root / "mtp", self.target)
        prompts = [{"id": f"p{i}", "prompt": f"What is {i}?"} for i in range(NUM_PROMPTS)]
        (root / "prompts").mkdir()
        (root / "prompts" / "few.jsonl").write_text("\n".join(map(json.dumps, prompts)))

    def evaluate(self, name: str) -> Path:
        of: dict[str, Any] = {
            "--target": self.target,
            "--drafter": self.drafter,
            "--benchmarks": self._root / "prompts",
            "--output": self._root / name,
            "--max-output-tokens": 32,
            "--seats": NUM_PROMPTS,
            "--candidates": VOCABULARY,
        }
        assert main(["evaluate", *(str(part) for pair in of.items() for part in pair)]) == 0
        return self._root / name / "evaluation.parquet"

    def fit(self, outcomes: Path) -> TopProbConfidence:
        assert main(["confidence", str(self.drafter), str(outcomes)]) == 0
        return TopProbConfidence.load(self.drafter, GAMMA)

    def calibrate(self, outcomes: Path) -> CalibrationProfile:
        output = outcomes.with_name("calibration.parquet")
        assert main(["calibrate", str(outcomes), "--output", str(output)]) == 0
        return load_calibration(output)


def log_odds(outcomes: Outcomes) -> np.ndarray:
    c = outcomes.confidences
    return np.log(c) - np.log1p(-c)


def overclaimed(outcomes: Outcomes) -> float:
    """How much more the confidences of first tokens promise than is accepted, on average."""
    return float((outcomes.confidences[:, 0] - (outcomes.num_accepted > 0)).mean())


def first_temperatures(profile: CalibrationProfile) -> list[float]:
    """Of the first position, by key."""
    return [first.sts_temperature for first, *_ in profile.entries.values()]


def test_confidences_that_were_fitted_are_evaluated_and_calibrated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drafters.evaluation.command.can_draw", lambda progress: False)
    steps = Steps(tmp_path)
    unfitted = steps.evaluate("unfitted")
    first = steps.calibrate(unfitted)
    model = steps.fit(unfitted)
    fitted = steps.evaluate("fitted")
    before, after = load_outcomes(unfitted).outcomes, load_outcomes(fitted).outcomes
    assert np.array_equal(before.num_accepted, after.num_accepted)  # only confidences change
    assert 0.2 < before.num_accepted.mean() / GAMMA < 0.95
    said = np.array(model.scale) * log_odds(before) + np.array(model.offset)
    np.testing.assert_allclose(log_odds(after), said, rtol=1e-3, atol=1e-3)
    assert abs(overclaimed(before)) > 0.2
    assert abs(overclaimed(after)) < 0.02
    second = steps.calibrate(fitted)
    assert list(map(str, second.entries)) == ["greedy/0", "q/0.8-1.2"]
    assert second.pair.drafter_version == checkpoint_fingerprint(steps.drafter)
    assert second.pair.drafter_version != first.pair.drafter_version
    # A temperature cannot mend an offset: it does what it can, and little is left to do after.
    assert all(temperature > 2 for temperature in first_temperatures(first))
    assert all(0.8 < temperature < 1.25 for temperature in first_temperatures(second))
