"""What a simulation found: tables, intervals, and whether the guardrail holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa

from autoscale.simulation.experiment import DEFAULT
from autoscale.simulation.results import Result
from profiles.parquet import write_profile
from profiles.step_cost import StepCostProfile

_KIND = "dspark-simulation"
_FORMAT_VERSION = 1
_GUARDRAIL = 0.99
_RIVALS = ("off", "fixed 1", "fixed 3", "fixed 5", "fixed 7", "local")
_MEASURES = {
    "tokens_per_s": f"Tokens per second of {DEFAULT}",
    "goodput_per_s": f"Requests per second whose promise was kept by {DEFAULT}",
}
# 97.5 % quantiles of Student's t for 1, 2, ... degrees of freedom.
_STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14)


@dataclass(frozen=True, slots=True)
class Ratio:
    """A mean of paired ratios over seeds, with its 95 % interval; no interval of one seed."""

    mean: float
    half_width: float

    @property
    def is_below_guardrail(self) -> bool:
        """More than 1 % under, whether by chance or not: chance is for more seeds to tell."""
        return self.mean < _GUARDRAIL

    @property
    def is_surely_within(self) -> bool:
        """Not even the lower end of the interval is more than 1 % under."""
        return self.mean - self.half_width >= _GUARDRAIL

    def __str__(self) -> str:
        interval = "" if np.isnan(self.half_width) else f" ± {self.half_width:.3f}"
        return f"{self.mean:.3f}{interval}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The default policy against the best of its rivals, in one regime and measure."""

    regime: str
    measure: str
    rival: str
    default_value: float
    rival_value: float
    ratio: Ratio


def verdicts(results: Sequence[Result]) -> list[Verdict]:
    """Per regime and measure, in the order of the results; the best rival is that by mean."""
    found = []
    for regime, some in groupby(results, key=lambda one: one.regime):
        of_regime = list(some)
        for measure in _MEASURES:
            values = {arm: by_seed(of_regime, arm, measure) for arm in (DEFAULT, *_RIVALS)}
            rival = max(_RIVALS, key=lambda arm: float(np.mean(values[arm])))
            ours, theirs = values[DEFAULT], values[rival]
            found.append(
                Verdict(
                    regime,
                    measure,
                    rival,
                    float(np.mean(ours)),
                    float(np.mean(theirs)),
                    paired_ratio(ours, theirs),
                )
            )
    return found


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """Of runs on common random numbers; where theirs is 0, equal counts as 1."""
    a, b = np.array(ours, dtype=np.float64), np.array(theirs, dtype=np.float64)
    ratios = np.where(b > 0, a / np.where(b > 0, b, 1.0), np.where(a > 0, np.inf, 1.0))
    n = len(ratios)
    if n < 2:
        return Ratio(float(ratios.mean()), float("nan"))
    quantile = _STUDENT[min(n - 2, len(_STUDENT) - 1)]
    return Ratio(float(ratios.mean()), float(quantile * ratios.std(ddof=1) / np.sqrt(n)))


def guardrail_holds(found: Sequence[Verdict]) -> bool:
    return not any(verdict.ratio.is_below_guardrail for verdict in found)


def report(results: Sequence[Result], profile: StepCostProfile) -> str:
    """Markdown: where the costs are from, the policies side by side, and what they come to."""
    here = profile.provenance
    lines = [
        f"Step costs: {here.hardware}, {here.model_id}, {profile.origin}.",
        *(f"- {assumption}" for assumption in profile.assumptions),
        "",
        *_side_by_side(results),
        *_verdict_table(verdicts(results)),
        "",
        *_class_table(results),
        "",
        *_ablation_table(results),
        "",
        _speed(results),
    ]
    return "\n".join(lines)


def save_results(path: Path, results: Sequence[Result], profile: StepCostProfile) -> None:
    """Every run as a row; the metadata says whose step costs they go by."""
    types = {"str": pa.string(), "int": pa.int64(), "float": pa.float64()}
    schema = pa.schema([(field.name, types[str(field.type)]) for field in fields(Result)])
    table = pa.Table.from_pylist([asdict(result) for result in results], schema=schema)
    metadata = {
        **profile.provenance.as_metadata(),
        "origin": profile.origin,
        "assumptions": "\n".join(profile.assumptions),
    }
    write_profile(path, table, kind=_KIND, format_version=_FORMAT_VERSION, metadata=metadata)


def by_seed(results: Sequence[Result], arm: str, measure: str) -> list[float]:
    """What an arm's runs came to, in the order of their seeds."""
    runs = sorted((one for one in results if one.arm == arm), key=lambda one: one.seed)
    return [float(getattr(run, measure)) for run in runs]


def _regimes(results: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(one.regime for one in results))


def _side_by_side(results: Sequence[Result]) -> list[str]:
    """Tokens per second and goodput: the default's, and that of every policy over it."""
    others = [
        arm
        for arm in dict.fromkeys(one.arm for one in results)
        if arm != DEFAULT and not arm.startswith("without")
    ]
    lines = []
    for measure, said in _MEASURES.items():
        lines += [f"{said}, and of other policies over it:", ""]
        lines += [
            f"| regime | {DEFAULT} | {' | '.join(others)} |",
            "|---" * (len(others) + 2) + "|",
        ]
        for regime in _regimes(results):
            some = [one for one in results if one.regime == regime]
            ours = by_seed(some, DEFAULT, measure)
            cells = [str(paired_ratio(by_seed(some, arm, measure), ours)) for arm in others]
            lines.append(f"| {regime} | {np.mean(ours):.4g} | {' | '.join(cells)} |")
        lines.append("")
    return lines


def _verdict_table(found: Sequence[Verdict]) -> list[str]:
    surely = sum(one.ratio.is_surely_within for one in found)
    lines = [
        f"The default, {DEFAULT}, over the best of {', '.join(_RIVALS)}. In {surely} of "
        f"{len(found)} comparisons not even the interval reaches more than 1 % below; the others "
        "that hold are marked with ~: more seeds would say.",
        "",
    ]
    lines += [
        "| regime | throughput | best other | goodput | best other |",
        "|---|---|---|---|---|",
    ]
    for regime, some in groupby(found, key=lambda one: one.regime):
        cells = []
        for one in some:
            cells += [f"{one.ratio}{_mark(one.ratio)}", one.rival]
        lines.append(f"| {regime} | {' | '.join(cells)} |")
    return lines


def _mark(ratio: Ratio) -> str:
    if ratio.is_below_guardrail:
        return " **below the guardrail**"
    return "" if ratio.is_surely_within else " ~"


def _class_table(results: Sequence[Result]) -> list[str]:
    """Attainment of both classes with class weights and without."""
    bare = "without class_weights"
    if not any(one.arm == bare for one in results):
        return []
    lines = [
        "Requests whose promise was kept, by class, with the plan's class weights and without:",
        "",
        "| regime | latency class | batch class | throughput |",
        "|---|---|---|---|",
    ]
    for regime in _regimes(results):
        some = [one for one in results if one.regime == regime]
        cells = [
            f"{100 * np.mean(by_seed(some, DEFAULT, m)):.1f} %, "
            f"{100 * np.mean(by_seed(some, bare, m)):.1f} %"
            for m in ("latency_attainment", "batch_attainment")
        ]
        ratio = paired_ratio(*(by_seed(some, arm, "tokens_per_s") for arm in (DEFAULT, bare)))
        lines.append(f"| {regime} | {' | '.join(cells)} | {ratio} |")
    return lines


def _ablation_table(results: Sequence[Result]) -> list[str]:
    """The default over the default without each field of the plan: throughput and goodput."""
    arms = [a for a in dict.fromkeys(r.arm for r in results) if a.startswith("without")]
    if not arms:
        return []
    lines = [f"Throughput, and goodput, of {DEFAULT} over it without a field of the plan:", ""]
    lines += [f"| regime | {' | '.join(a.removeprefix('without ') for a in arms)} |"]
    lines += ["|---" * (len(arms) + 1) + "|"]
    for regime in _regimes(results):
        some = [one for one in results if one.regime == regime]
        cells = [
            ", ".join(
                str(paired_ratio(by_seed(some, DEFAULT, m), by_seed(some, arm, m)))
                for m in _MEASURES
            )
            for arm in arms
        ]
        lines.append(f"| {regime} | {' | '.join(cells)} |")
    return lines


def _speed(results: Sequence[Result]) -> str:
    ours = [one for one in results if one.arm == DEFAULT]
    return (
        f"Simulated time over processor time, per process: {_times_as_fast(ours, 'processor_s')} "
        f"of {DEFAULT}, {_times_as_fast(results, 'processor_s')} over all policies; over wall time "
        f"{_times_as_fast(ours, 'wall_s')} and {_times_as_fast(results, 'wall_s')}."
    )


def _times_as_fast(results: Sequence[Result], took: str) -> str:
    took_s = sum(getattr(one, took) for one in results)
    return f"{sum(one.simulated_s for one in results) / took_s:.0f}"
