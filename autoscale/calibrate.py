"""From the outcomes of an evaluation to a calibration profile, and a table of its errors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import date
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from autoscale.calibration import scaled
from autoscale.sts import fit_temperatures
from profiles.calibration import CalibrationProfile, PositionCalibration
from profiles.calibration_key import CalibrationKey
from profiles.labels import survival_labels
from profiles.outcomes import Outcomes
from profiles.provenance import DraftingPair
from profiles.reliability import Errors, average, errors_by_position


def fit_profile(
    outcomes: Outcomes,
    pair: DraftingPair,
    *,
    held_out: float,
    measured_on: date,
    version: int = 1,
    num_candidates: int | None = None,
) -> CalibrationProfile:
    """Fit every key that occurs, and measure it on held-out prompts.

    About `held_out` of the prompts, 0 to 1, with all their drafts, are not fitted on; which
    ones follows from their ids alone. Raises ValueError for another `held_out`, and
    where no prompt is left to fit on.
    """
    if not 0 <= held_out <= 1:
        raise ValueError(f"held_out {held_out} is not a share of the prompts, 0 to 1")
    is_held_out = held_out_prompts(outcomes.prompt_ids, held_out)
    if is_held_out.all():
        raise ValueError(
            f"with held_out {held_out} none of {len(set(outcomes.prompt_ids))} prompts is left "
            "to fit on; hold out less or evaluate more prompts"
        )
    keys = outcomes.keys()
    entries = {}
    for key in sorted(set(keys)):
        of_key = np.array([one == key for one in keys])
        fitted = outcomes.select(of_key & ~is_held_out)
        entries[key] = _fit_key(fitted, outcomes.select(of_key & is_held_out))
    return CalibrationProfile(pair, version, measured_on, entries, num_candidates)


def held_out_prompts(prompt_ids: Iterable[str], share: float) -> NDArray[np.bool_]:
    """Which drafts are of held-out prompts, by the hash of the prompt's id."""
    hashes = (hashlib.blake2b(id_.encode(), digest_size=8).digest() for id_ in prompt_ids)
    return np.array([int.from_bytes(h, "big") < share * 2**64 for h in hashes], dtype=bool)


def _fit_key(fitted: Outcomes, held_out: Outcomes) -> tuple[PositionCalibration, ...]:
    temperatures = fit_temperatures(fitted.confidences, fitted.num_admitted, fitted.num_accepted)
    num_labels = survival_labels(
        fitted.num_admitted, fitted.num_accepted, fitted.block_size
    ).counts.sum(axis=0)
    before = _held_out_errors(held_out, held_out.confidences)
    after = _held_out_errors(held_out, scaled(held_out.confidences, 1 / temperatures))
    return tuple(
        map(PositionCalibration, temperatures.tolist(), num_labels.tolist(), before, after)
    )


def _held_out_errors(outcomes: Outcomes, confidences: NDArray[np.float64]) -> list[Errors]:
    survival = np.cumprod(confidences, axis=1, dtype=np.float64)
    return errors_by_position(survival, outcomes.num_admitted, outcomes.num_accepted)


def calibration_table(profile: CalibrationProfile) -> str:
    """Markdown: per key and position the errors of survival before and after calibrating."""
    lines = []
    for key, positions in profile.entries.items():
        lines += [_title(key), "", *_HEADER]
        for k, position in enumerate(positions, start=1):
            lines.append(
                f"| {k} | {position.sts_temperature:.3f} | {position.num_labels} | "
                f"{_errors(position.before, position.after, position.after.noise)}"
            )
        before = average([position.before for position in positions])
        after = average([position.after for position in positions])
        noises = [position.after.noise for position in positions if position.after.num_labels]
        noise = fmean(noises) if noises else float("nan")
        lines.append(f"| mean | | | {_errors(before, after, noise)}")
        lines.append("")
    return "\n".join(lines)


_HEADER = (
    "| position | temperature | fit labels | held-out labels "
    "| ECE, % | of it noise | AUC | Brier |",
    "|---|---|---|---|---|---|---|---|",
)


def _title(key: CalibrationKey) -> str:
    return f"{key.verification_mode}, sampling temperature {key.temperature_bin}"


def _errors(before: Errors, after: Errors, noise: float) -> str:
    return (
        f"{after.num_labels} | {100 * before.ece:.2f} -> {100 * after.ece:.2f} | "
        f"{100 * noise:.2f} | "
        f"{before.auc:.3f} -> {after.auc:.3f} | {before.brier:.4f} -> {after.brier:.4f} |"
    )
