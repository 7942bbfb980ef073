"""The settings of `dspark train`: a YAML file, the command line over it, and their defaults."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError

from drafters.precision import multiplies_bfloat16
from drafters.training.kinds import KINDS
from drafters.training.plan import TrainingPlan

CONFIG_DIR = Path(__file__).parent / "configs"


class TrainingSettings(BaseModel):
    """What a training file says. `TrainingPlan` and `RunOptions` explain most of it.

    A run's length is `steps` or `epochs`; `warmup` is in steps, or below 1 a part of all of
    them. `assumed_*` are for `--estimate` only: what is known before there are answers, and
    what cannot be known before there is a drafter.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    target: str
    revision: str | None = None
    start_from: str | None = None
    kind: Literal["dspark", "dflash", "eagle3", "mtp"] = "dspark"
    steps: PositiveInt | None = None
    epochs: PositiveFloat | None = None
    num_layers: PositiveInt = 2
    block_size: PositiveInt | None = None
    markov_rank: int = 64
    markov_head_type: Literal["vanilla", "gated", "rnn"] = "vanilla"
    target_layers: tuple[int, ...] = ()
    batch_size: PositiveInt = 8
    micro_batch: PositiveInt | None = None
    num_anchors: PositiveInt = 32
    anchor_span: PositiveInt | None = None
    context_tokens: PositiveInt | None = None
    max_tokens: PositiveInt = 512
    position_decay: PositiveFloat | None = None
    cross_entropy_share: float = Field(default=0.1, ge=0, le=1)
    learning_rate: PositiveFloat = 2e-3
    warmup: float = 50
    weight_decay: float = 0.01
    max_grad_norm: PositiveFloat = 1.0
    held_out: PositiveInt = 192
    evaluate_every: PositiveInt | None = None
    patience: PositiveInt | None = None
    precision: Literal["auto", "bf16", "float32"] = "bf16"
    seed: int = 0
    assumed_rows: PositiveInt | None = None
    assumed_tokens_per_row: PositiveFloat | None = None
    assumed_tflops: PositiveFloat | None = None
    assumed_utilisation: PositiveFloat = 0.35
    assumed_acceptance_length: PositiveFloat = 3.0
    assumed_memory_gb: PositiveFloat | None = None

    def plan(self, target_dir: str, data: str, num_rows: int) -> TrainingPlan:
        """The plan over `num_rows` usable rows of data. Raises ValueError, CheckpointError."""
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("a run needs either steps or epochs")
        kind = KINDS[self.kind]
        per_epoch = max(1, (num_rows - self.held_out) // self.batch_size)
        steps = self.steps or max(1, round((self.epochs or 0) * per_epoch))
        return TrainingPlan(
            target_dir=target_dir,
            data=data,
            steps=steps,
            kind=self.kind,
            start_from=self.start_from,
            num_layers=self.num_layers,
            block_size=self.block_size or kind.default_block_size,
            markov_rank=self.markov_rank,
            markov_head_type=self.markov_head_type,
            target_layer_ids=kind.target_layer_ids(target_dir, self.target_layers),
            batch_size=self.batch_size,
            num_anchors=self.num_anchors,
            anchor_span=self.anchor_span,
            context_tokens=self.context_tokens,
            max_tokens=self.max_tokens,
            position_decay=self.position_decay,
            cross_entropy_share=self.cross_entropy_share,
            learning_rate=self.learning_rate,
            warmup_steps=round(self.warmup if self.warmup >= 1 else self.warmup * steps),
            weight_decay=self.weight_decay,
            max_grad_norm=self.max_grad_norm,
            held_out=self.held_out,
            evaluate_every=self.evaluate_every,
            patience=self.patience,
            seed=self.seed,
            autocast=self.precision == "bf16"
            or (self.precision == "auto" and multiplies_bfloat16("cpu")),
        )


def read_settings(config: str | Path | None, changes: Mapping[str, Any]) -> TrainingSettings:
    """The settings of a file, or of the bundled one of that name, with `changes` over them.

    Changes that are None are none. Raises ValueError naming the file and the field.
    """
    path = None if config is None else _config_path(config)
    found: Any = {}
    if path is not None:
        try:
            found = yaml.safe_load(path.read_text("utf-8")) or {}
        except (OSError, yaml.YAMLError) as error:
            raise ValueError(f"{path}: not readable as YAML: {error}") from None
        if not isinstance(found, dict):
            raise ValueError(f"{path}: holds a {type(found).__name__}; needed are settings")
    given = {name: value for name, value in changes.items() if value is not None}
    for one, other in (("steps", "epochs"), ("epochs", "steps")):
        if one in given:
            found.pop(other, None)
    try:
        return TrainingSettings.model_validate({**found, **given})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise ValueError(f"{path or 'command line'}: {field}: {first['msg']}") from None


def _config_path(config: str | Path) -> Path:
    bundled = CONFIG_DIR / f"{config}.yaml"
    return bundled if bundled.is_file() else Path(config)
