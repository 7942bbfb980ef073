"""What a finished run leaves: the drafter that serving loads, and the record of its training."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file

from drafters.module import DrafterModule
from drafters.training.drafter import trained_state
from drafters.training.kinds import KINDS
from drafters.training.plan import TrainingPlan
from drafters.training.progress import Progress
from drafters.training_record import WEIGHTS, write_record


def write_drafter(
    plan: TrainingPlan,
    model: DrafterModule,
    output: Path,
    *,
    progress: Progress,
    held_out: dict[str, dict[str, float]],
) -> None:
    """Write config.json, model.safetensors and training.json into `output`.

    The weights are bfloat16, without the target's embedding and LM head. The record has
    the plan, the losses on the way and the evaluation by domain; of paths only the names.
    """
    weights = trained_state(model)
    save_file(
        {name: weight.to("cpu", torch.bfloat16).contiguous() for name, weight in weights.items()},
        output / WEIGHTS,
    )
    fields = KINDS[plan.kind].fields(plan)
    config = output / "config.json"
    config.write_text(json.dumps(fields, indent=2) + "\n")
    # safetensors keeps what it writes to the one who wrote it; a server may be somebody else.
    (output / WEIGHTS).chmod(config.stat().st_mode)
    settings = asdict(plan)
    for name in ("target_dir", "data", "start_from"):
        settings[name] = settings[name] and Path(settings[name]).name
    record = {"plan": settings, **asdict(progress), "held_out": held_out}
    for average in ("loss", "acceptance_length"):
        del record[average]
    write_record(output, record)
