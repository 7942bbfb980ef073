"""`dspark simulate`: run, write, judge."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from autoscale.simulation.experiment import Experiment, Settings, ablations, arms_of
from autoscale.simulation.regimes import REGIMES, Regime
from autoscale.simulation.report import guardrail_holds, report, save_results, verdicts
from autoscale.simulation.results import BATCH, LATENCY
from autoscale.simulation.traces import load_trace
from autoscale.simulation.weight_search import PRESSURE, arms_of_laws, search_report
from profiles.roofline import MACHINES, QWEN3_14B, modelled_profile
from profiles.step_cost import load_step_cost


def simulate(args: argparse.Namespace) -> int:
    """0 where the guardrail holds, else 1. Raises ValueError for an unknown regime."""
    profile = (
        modelled_profile(MACHINES[args.machine], QWEN3_14B)
        if args.profile is None
        else load_step_cost(args.profile, may_be_modelled=True)
    )
    settings = Settings(args.replicas, args.seats, args.steps, args.seeds, args.workers)
    experiment = Experiment(profile, settings)
    if args.search_weights:
        return _search_weights(experiment)
    regimes = regimes_named(args.regimes) if args.trace is None else [_replayed(args.trace)]
    arms = arms_of() + ([] if args.no_ablation else ablations())
    results = experiment.run(regimes, arms, _say)
    text = report(results, profile)
    print(text)
    if args.output is not None:
        args.output.mkdir(parents=True, exist_ok=True)
        save_results(args.output / "runs.parquet", results, profile)
        (args.output / "report.md").write_text(text + "\n")
    return 0 if guardrail_holds(verdicts(results)) else 1


def _search_weights(experiment: Experiment) -> int:
    print(search_report(experiment.run(regimes_named(PRESSURE), arms_of_laws(), _say)))
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def regimes_named(names: Sequence[str] | None) -> list[Regime]:
    """All, or those of these names. Raises ValueError listing what there is."""
    known = {regime.name: regime for regime in REGIMES}
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise ValueError(f"no regime {unknown[0]!r}; there are {', '.join(known)}")
    return list(REGIMES) if names is None else [known[name] for name in names]


def _replayed(path: Path) -> Regime:
    trace = tuple(load_trace(path))
    unknown = {one.service_class for one in trace} - {LATENCY, BATCH}
    if unknown or not trace:
        raise ValueError(f"{path}: service_class has to be {LATENCY} or {BATCH}, not {unknown}")
    return Regime(path.name, 1.0, trace=trace)
