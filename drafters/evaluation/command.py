"""`dspark evaluate`: from checkpoints and benchmarks to an evaluation's files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from drafters.checkpoint import load_drafter, ngram_drafter
from drafters.evaluation.benchmarks import chained, read_benchmarks, spread
from drafters.evaluation.chat import ChatTemplate, Thinking, end_tokens
from drafters.evaluation.offline import OfflineEvaluation
from drafters.evaluation.pictures import can_draw
from drafters.evaluation.plan import EvaluationPlan, Mode
from drafters.evaluation.report import format_report
from drafters.evaluation.seats import free_memory_bytes, seat_bytes, seated
from drafters.evaluation.target import EvaluatedTarget
from drafters.interface import DraftModel
from drafters.ngram_settings import ngram_version
from drafters.precision import AUTO, as_dtype
from profiles.evaluation import save_evaluation
from profiles.fingerprint import checkpoint_fingerprint, checkpoint_name
from profiles.provenance import NGRAM, DraftingPair


@dataclass(frozen=True, slots=True)
class OfflineSettings:
    """The command's arguments, see its help. None is the default that depends on the model."""

    target: Path
    drafter: str
    benchmarks: Path
    only: tuple[str, ...]
    prompts: int
    chains: int | None
    temperatures: tuple[float, ...]
    thinking: tuple[Thinking, ...] | None
    max_output_tokens: int
    max_tokens: int | None
    window: int | None
    num_candidates: int
    num_seats: int
    chunk_size: int
    seed: int
    dtype: str | None
    drafter_dtype: str | None
    device: str
    ngram_block_size: int


def evaluate_offline(
    settings: OfflineSettings, output: Path, progress: Callable[[str], None]
) -> str:
    """Evaluate, or go on with what `output` holds; returns the report.

    Writes `evaluation.parquet` (for `dspark calibrate` too), `report.md` and, with
    matplotlib, three pictures. Raises CheckpointError, ValueError or OSError saying what
    cannot be used, ProvenanceError for an `output` of something else.
    """
    drafter_dtype = as_dtype(settings.drafter_dtype or AUTO, settings.device)
    drafter = _load_drafter(settings, drafter_dtype)
    dtype = settings.dtype or ("float32" if settings.device == "cpu" else "bfloat16")
    target = EvaluatedTarget.load(
        settings.target,
        drafter.config.target_layer_ids,
        num_rows=settings.num_seats,
        dtype=getattr(torch, dtype),
        device=settings.device,
    )
    chat = ChatTemplate.load(settings.target)
    plan = _plan(settings, chat, target.max_tokens)
    per_seat = seat_bytes(plan, chat, drafter, target.kv_bytes_per_token())
    plan = seated(plan, per_seat, free_memory_bytes(target.device), progress)
    target.limit_rows(plan.num_seats)
    metadata = {
        **_pair(settings).as_metadata(),
        "target_dtype": dtype,
        "drafter_dtype": str(drafter_dtype).removeprefix("torch."),
        "device": settings.device,
    }
    output.mkdir(parents=True, exist_ok=True)
    evaluation = OfflineEvaluation(target, drafter, chat, end_tokens(settings.target), plan)
    drafts, seconds = evaluation.run(output / "chunks", metadata, progress)
    described = {**metadata, **plan.as_metadata()}
    save_evaluation(
        output / "evaluation.parquet", drafts, described | {"seconds": f"{seconds:.2f}"}
    )
    report = format_report(drafts, described, seconds)
    (output / "report.md").write_text(report + "\n", encoding="utf-8")
    if can_draw(progress):
        from drafters.evaluation.plots import save_plots

        for path in save_plots(drafts, output):
            progress(f"wrote {path}")
    return report


def _plan(settings: OfflineSettings, chat: ChatTemplate, model_max_tokens: int) -> EvaluationPlan:
    benchmarks = read_benchmarks(settings.benchmarks, settings.only)
    chosen = {name: spread(some, settings.prompts) for name, some in benchmarks.items()}
    if settings.chains is not None:
        chosen = {name: chained(some, settings.chains) for name, some in chosen.items()}
    switches = settings.thinking or chat.thinking_modes
    unknown = set(switches) - set(chat.thinking_modes)
    if unknown:
        raise ValueError(
            f"{settings.target}: its chat template has thinking {'/'.join(chat.thinking_modes)}, "
            f"not {'/'.join(sorted(unknown))}"
        )
    max_tokens = min(settings.max_tokens or model_max_tokens, model_max_tokens)
    return EvaluationPlan(
        benchmarks=chosen,
        modes=tuple(Mode(t, switch) for t in settings.temperatures for switch in switches),
        max_output_tokens=settings.max_output_tokens,
        max_tokens=max_tokens,
        window=min(settings.window or max_tokens, max_tokens),
        num_candidates=settings.num_candidates,
        num_seats=settings.num_seats,
        chunk_size=settings.chunk_size,
        seed=settings.seed,
    )


def _load_drafter(settings: OfflineSettings, dtype: torch.dtype) -> DraftModel:
    if settings.drafter == NGRAM:
        return ngram_drafter(
            settings.target, block_size=settings.ngram_block_size, device=settings.device
        )
    return load_drafter(
        settings.drafter,
        dtype=dtype,
        device=settings.device,
        target_dir=settings.target,
    )


def _pair(settings: OfflineSettings) -> DraftingPair:
    if settings.drafter == NGRAM:
        drafter_id, version = NGRAM, ngram_version(block_size=settings.ngram_block_size)
    else:
        directory = Path(settings.drafter)
        drafter_id, version = checkpoint_name(directory), checkpoint_fingerprint(directory)
    target_id = checkpoint_name(settings.target)
    return DraftingPair(target_id, checkpoint_fingerprint(settings.target), drafter_id, version)
