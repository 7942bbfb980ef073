"""What can be refused of an application's settings before anything starts."""

from __future__ import annotations

from deployments.checkpoints import read_config
from deployments.draft_model import DraftShape, check_drafter
from deployments.drafting_pair import drafter_directory, promised_rate, starting_calibrations
from deployments.engine_args import native_steering, step_cost_file
from deployments.errors import ConfigError
from deployments.key_ring import KeyRing
from deployments.memory import check_memory
from deployments.native import speculative_config
from deployments.placement import logical_cpus
from deployments.schema import DRAFTED_BY_US, AppSpec, ModelSpec
from deployments.tracing.start import check_installed
from drafters.errors import CheckpointError
from drafters.training_record import check_weights


def check_settings(settings: AppSpec) -> None:
    """Raise ConfigError for the first thing that is missing here: a checkpoint, a key file, a
    package that tracing needs."""
    check_models(settings)
    KeyRing(settings.keys, settings.keys_file, settings.promises).read()
    if settings.tracing is not None:
        check_installed()


def check_models(settings: AppSpec) -> None:
    """Raise ConfigError for the first checkpoint that is missing or does not fit.

    Memory comes first: it needs no network, and a model that cannot fit need not be fetched.
    """
    for model in settings.launched:
        check_memory(model)
    for model in settings.launched:
        read_config(model.target.source, f"model {model.id}: target.source", model.target.revision)
        step_cost_file(model)
        if model.placement == "native":
            speculative_config(model)
            native_steering(model)
            continue
        shape = draft_shape(model)
        if shape is not None:
            _check_weights(model)
            starting_calibrations(model, shape.block_size)
            promised_rate(model, shape.block_size)


def _check_weights(model: ModelSpec) -> None:
    """Those of a drafter whose training is recorded, where it lies here."""
    assert model.drafter is not None
    directory = drafter_directory(model.drafter)
    if directory is None:
        return
    try:
        check_weights(directory)
    except CheckpointError as error:
        raise ConfigError(f"model {model.id}: drafter.source: {error}") from None


def draft_shape(model: ModelSpec) -> DraftShape | None:
    """The shape our adapter drafts in; None where it does not draft. Raises ConfigError."""
    return check_drafter(model) if model.placement in DRAFTED_BY_US else None


def check_one_machine(settings: AppSpec, num_gpus: int) -> None:
    """Raise ConfigError for what a Ray of one machine with `num_gpus` would wait for forever."""
    for model in settings.launched:
        parts = [part for part in (model.target, model.drafter) if part is not None]
        if model.target.nodes > 1 or any(part.resources for part in parts):
            raise ConfigError(
                f"model {model.id} is placed on nodes of a cluster; start Ray on them and set "
                "RAY_ADDRESS, or use `serve deploy`"
            )
    needed = sum(gpus_of(model) for model in settings.launched)
    if needed > num_gpus:
        raise ConfigError(
            f"the replicas take {needed:g} GPUs and this machine has {num_gpus}; set "
            "target.device and drafter.device: cpu, lower replicas or tensor_parallel, or set "
            "RAY_ADDRESS for a cluster that has them"
        )


def check_cpus(settings: AppSpec, num_cpus: float) -> None:
    """Raise ConfigError for replicas that a Ray with `num_cpus` logical CPUs never starts."""
    asked = logical_cpus(settings)
    needed = round(sum(asked.values()), 4)  # Ray's own grain
    if needed > num_cpus:
        parts = ", ".join(f"{name} {cpus:g}" for name, cpus in asked.items())
        raise ConfigError(
            f"the replicas take {needed:g} logical CPUs and Ray has {num_cpus:g}: {parts}; lower "
            "replicas, target.num_cpus or drafter.num_cpus (what Ray sets aside, no limit: 0 will "
            "do), start Ray on more nodes, or use `serve deploy` where Ray adds them by itself"
        )


def gpus_of(model: ModelSpec) -> float:
    """GPUs that Ray sets aside for all replicas of a model."""
    target, drafter = model.target, model.drafter
    gpus = 0.0
    if target.device == "cuda":
        gpus += target.replicas * target.tensor_parallel * target.gpus_per_rank
    if model.placement == "split" and drafter is not None:
        gpus += drafter.replicas * drafter.num_gpus
    return gpus
