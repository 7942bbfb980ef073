"""Results as pictures, each on light and on dark ground; drawn as narrow as a phone is."""

from __future__ import annotations

import io
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loadtest.report.calibration import Survival, survivals
from profiles.acceptance import bucket_name, context_buckets
from profiles.frontier import Point, curves, latency, pareto
from profiles.load_records import OK, LoadRecords, RequestRow, RunRow

mpl.use("Agg")  # files only, also where there is a display

LIGHT, DARK = THEMES = ("light", "dark")
_GROUND = {LIGHT: ("#ffffff", "#1b1b1b", "#d0d0d0"), DARK: ("#16181c", "#e8e8e8", "#3a3d43")}
# Told apart by people with any colour vision, on either ground (after Okabe and Ito).
_COLOURS = {
    LIGHT: ("#0072b2", "#d55e00", "#00794f", "#a6497f", "#7a5c00", "#2f7fb5", "#444444"),
    DARK: ("#56b4e9", "#ff9455", "#3ddbab", "#eba3cc", "#f0e442", "#9ad0f0", "#cccccc"),
}
_MARKERS = "os^DvPX*<>"
_DASHES = ("-", "--", ":", "-.")  # by length of prompts
_WIDTH_IN, _HEIGHT_IN, _DPI = 5.0, 4.0, 150


@dataclass(frozen=True, slots=True)
class Chart:
    """One picture: its file's name, title and description in words, and who draws it."""

    name: str
    title: str
    description: str
    draw: Callable[[Axes, Mapping[str, Mapping[str, Any]]], None]

    def png(self, theme: str, arms: Sequence[str]) -> bytes:
        """The picture on one of `THEMES`; `arms` in their order give colours and markers."""
        ground, ink, line = _GROUND[theme]
        style = {
            "figure.facecolor": ground,
            "axes.facecolor": ground,
            "savefig.facecolor": ground,
            **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), ink),
            "axes.edgecolor": line,
            "grid.color": line,
            "axes.grid": True,
            "grid.linewidth": 0.5,
            "legend.framealpha": 0.6,
            "font.size": 9,
        }
        pairs = zip(arms, cycle(_COLOURS[theme]), cycle(_MARKERS), strict=False)
        looks = {arm: {"color": c, "marker": m, "label": arm} for arm, c, m in pairs}
        with mpl.rc_context(style):
            figure = Figure(figsize=(_WIDTH_IN, _HEIGHT_IN), layout="constrained")
            axes = figure.subplots()
            self.draw(axes, looks)
            if axes.get_legend_handles_labels()[1]:
                axes.legend(fontsize=7)
            file = io.BytesIO()
            figure.savefig(file, format="png", dpi=_DPI)
        return file.getvalue()


def charts(records: LoadRecords, points: Sequence[Point]) -> list[Chart]:
    """The pictures that these results have something for."""
    closed = [point for point in points if point.load == "closed"]
    drafted = [point for point in closed if not math.isnan(point.of("budget_tokens").mean)]
    found = [frontiers(points)]
    if closed:
        found.append(
            _against_clients(
                closed,
                "throughput",
                "Throughput against concurrency",
                "tokens_per_s_per_replica",
                "tokens/s/replica",
            )
        )
    if drafted:
        found += [
            _against_clients(
                drafted,
                "budget",
                "Verify budget against concurrency",
                "budget_tokens",
                "draft tokens verified per draft",
            ),
            _against_clients(
                drafted,
                "acceptance",
                "Acceptance length against concurrency",
                "acceptance_length",
                "tokens committed per verified draft",
            ),
        ]
    found += [
        _tokens_per_chunk(records, "domain", "by domain", lambda row: row.domain),
        _tokens_per_chunk(
            records, "context", "by prompt length in tokens", lambda row: _bucket(row.prompt_tokens)
        ),
        *_distributions(records),
    ]
    if survived := survivals(records):
        found.append(_calibration(survived))
    return found


def frontiers(points: Sequence[Point]) -> Chart:
    """Tokens per second per user over tokens per second per replica, a frontier per arm."""

    def draw(axes: Axes, looks: Mapping[str, Mapping[str, Any]]) -> None:
        lengths = sorted({p.context_tokens for p in points})
        for key, own in curves(points).items():
            best = pareto(own)
            dashes = _DASHES[lengths.index(key.context_tokens) % len(_DASHES)]
            look = {**looks[key.arm], "label": str(key)}
            axes.plot(
                [p.replica for p in best], [p.user for p in best], dashes, **look, markersize=5
            )
            beaten = [p for p in own if p not in best]
            unlabelled = {**look, "label": None, "alpha": 0.35, "linestyle": ""}
            axes.plot([p.replica for p in beaten], [p.user for p in beaten], **unlabelled)
            for point in own:
                axes.annotate(
                    f"{point.load_value:g}" if point.load == "closed" else point.label,
                    (point.replica, point.user),
                    xytext=(4, 3),
                    textcoords="offset points",
                    fontsize=6,
                    color=look["color"],
                )
        axes.set(xlabel="tokens/s/replica", ylabel="tokens/s/user", ylim=(0, None), xlim=(0, None))

    return Chart(
        "frontier",
        "User speed against throughput",
        "One curve per arm and length of prompts: up is faster for a user, right is more from a "
        "replica. Numbers at points are clients of a closed loop, or the open load. Faint points "
        "are beaten by another of the same curve.",
        draw,
    )


def _against_clients(
    points: Sequence[Point], name: str, title: str, metric: str, label: str
) -> Chart:
    def draw(axes: Axes, looks: Mapping[str, Mapping[str, Any]]) -> None:
        lengths = sorted({p.context_tokens for p in points})
        for key, own in curves(points).items():
            rising = sorted(own, key=lambda p: p.load_value)
            values = [p.of(metric) for p in rising]
            bars = [0 if math.isnan(v.half_width) else v.half_width for v in values]
            look = {**looks[key.arm], "label": str(key)}
            dashes = _DASHES[lengths.index(key.context_tokens) % len(_DASHES)]
            axes.errorbar(
                [p.load_value for p in rising],
                [v.mean for v in values],
                bars,
                **look,
                linestyle=dashes,
                capsize=2,
                markersize=4,
            )
        ticks = sorted({p.load_value for p in points})
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set(xlabel="clients", ylabel=label, ylim=(0, None))

    return Chart(name, title, f"{label} by the number of clients; bars are 95 % intervals.", draw)


def _tokens_per_chunk(
    records: LoadRecords, name: str, title: str, group: Callable[[RequestRow], str]
) -> Chart:
    """As the client saw them: with one chunk per target step this is the acceptance length.

    At the lightest load, where a scheduler drafts most.
    """
    lightest = min((run.load_value for run in _closed(records)), default=math.nan)
    arm_of = {run.run_id: run.arm for run in _closed(records) if run.load_value == lightest}
    tokens: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row in records.requests:
        if row.run_id in arm_of:
            tokens[arm_of[row.run_id], group(row)].extend(row.chunk_tokens[1:])
    groups = sorted({one for _, one in tokens}, key=_bucket_order)
    means = {cell: sum(n) / len(n) for cell, n in tokens.items() if n}

    def draw(axes: Axes, looks: Mapping[str, Mapping[str, Any]]) -> None:
        width = 0.8 / len(looks)
        for i, (arm, look) in enumerate(looks.items()):
            x = [g + i * width for g in range(len(groups))]
            heights = [means.get((arm, one), 0) for one in groups]
            axes.bar(x, heights, width, color=look["color"], label=arm)
        axes.set_xticks([g + 0.4 - width / 2 for g in range(len(groups))], groups)
        axes.set_ylabel("tokens per chunk")

    return Chart(
        f"tokens-per-chunk-{name}",
        f"Tokens per chunk {title}",
        f"Mean tokens that arrive together, {title}, at the lightest load: what a target step "
        "committed.",
        draw,
    )


def _calibration(some: Sequence[Survival]) -> Chart:
    def draw(axes: Axes, looks: Mapping[str, Mapping[str, Any]]) -> None:
        axes.plot([0, 1], [0, 1], "--", color=mpl.rcParams["text.color"], linewidth=0.8)
        for arm, look in looks.items():
            own = [one for one in some if one.arm == arm]
            if own:
                axes.errorbar(
                    [one.predicted for one in own],
                    [one.accepted for one in own],
                    [one.half_width for one in own],
                    **look,
                    capsize=2,
                    markersize=4,
                    linewidth=0.8,
                )
            for one in own:
                axes.annotate(
                    str(one.position),
                    (one.predicted, one.accepted),
                    xytext=(4, 3),
                    textcoords="offset points",
                    fontsize=6,
                    color=look["color"],
                )
        axes.set(xlabel="predicted to survive", ylabel="accepted", xlim=(0, 1), ylim=(0, 1))

    return Chart(
        "calibration",
        "Calibration by position",
        "Share of verified draft tokens that was accepted over the mean survival probability that "
        "the scheduler went by, all runs of an arm together. Numbers at points are positions in "
        "the draft, bars 95 % intervals; on the dashed line predictions are right.",
        draw,
    )


def _closed(records: LoadRecords) -> list[RunRow]:
    """Runs of closed loops; of whatever there is without one."""
    return [run for run in records.runs if run.load == "closed"] or list(records.runs)


def _bucket(prompt_tokens: int) -> str:
    return bucket_name(int(context_buckets(np.array([prompt_tokens]))[0]))


def _bucket_order(name: str) -> tuple[float, str]:
    start = name.partition("-")[0].replace("K", "000")
    return (float(start) if start.isdigit() else 0.0, name)


def _distributions(records: LoadRecords) -> list[Chart]:
    """Of the heaviest load."""
    closed = _closed(records)
    if not closed:
        return []
    most = max(run.load_value for run in closed)
    arms: dict[str, set[str]] = defaultdict(set)
    for run in closed:
        if run.load_value == most:
            arms[run.arm].add(run.run_id)
    answered = [row for row in records.requests if row.status == OK and row.gap_us]
    ttft = {
        arm: [latency(row).ttft_s for row in answered if row.run_id in ids]
        for arm, ids in arms.items()
    }
    itl = {
        arm: [gap for row in answered if row.run_id in ids for gap in latency(row).itl_s]
        for arm, ids in arms.items()
    }
    load = _load_words(closed[0], most)
    return [
        _distribution("ttft", f"Time to first token at {load}", "first token, ms", ttft),
        _distribution("itl", f"Gaps between chunks at {load}", "gap between chunks, ms", itl),
    ]


def _load_words(run: RunRow, value: float) -> str:
    return f"{value:g} clients" if run.load == "closed" else f"{run.load} {value:g}/s"


def _distribution(
    name: str, title: str, label: str, values: Mapping[str, Iterable[float]]
) -> Chart:
    def draw(axes: Axes, looks: Mapping[str, Mapping[str, Any]]) -> None:
        for arm, seconds in values.items():
            ordered = sorted(second * 1000 for second in seconds)
            shares = [(i + 1) / len(ordered) for i in range(len(ordered))]
            axes.plot(ordered, shares, color=looks[arm]["color"], label=arm)
        axes.set(xlabel=label, ylabel="share of all", ylim=(0, 1), xscale="log")
        axes.set_xlim(left=1)

    return Chart(
        name, title, "Share that is at most that long, on a logarithmic axis from 1 ms.", draw
    )
