"""Training on a device: the losses of the first steps are the processor's."""

from __future__ import annotations

from pathlib import Path

import pytest

from drafters.training.kinds import KINDS
from drafters.training.trainer import Trainer
from tests.gpu.devices import DEVICES
from tests.unit.drafters.training_fixtures import small_plan, write_answers, write_target


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = Path(tmp_path_factory.mktemp("training"))
    return write_target(folder / "target"), write_answers(folder / "answers.jsonl")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_losses_of_the_first_steps_are_the_processors(files, kind, device):
    plan = small_plan(kind, *files)
    here, there = Trainer(plan, device="cpu"), Trainer(plan, device=device)
    for _ in range(3):
        wanted, found = here.train_step().means(), there.train_step().means()
        assert found == pytest.approx(wanted, rel=1e-3)
