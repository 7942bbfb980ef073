"""The report: one HTML page that needs nothing else, and its pictures as files beside it."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from loadtest.divergence import DivergenceReport
from loadtest.report.calibration import calibration_table, survivals
from loadtest.report.charts import DARK, LIGHT, THEMES, Chart, charts
from loadtest.report.comparison import compare
from loadtest.report.tables import (
    WIDEST,
    Table,
    divergence_table,
    matched_table,
    metrics_table,
    reference_arms,
    speed_table,
    speeds,
    unsteady,
)
from profiles.frontier import Point, Slo, by_arm, points
from profiles.load_records import LoadRecords

_STYLE = Path(__file__).with_name("style.css")

_WORDS = (
    ("tokens/s/user", "tokens after a request's first chunk over the time they took"),
    ("tokens/s/replica", "all tokens that arrived while the load was full, over that time"),
    ("TTFT, TPOT, ITL", "to the first token; a token after it on average; gaps between chunks"),
    ("goodput", "answered requests per second that kept both promises of the SLO"),
    ("acceptance length", "tokens committed per verified draft, the bonus token included"),
    ("budget", "draft tokens verified per draft; wasted are those rejected"),
    ("GPU s", "seconds of a run times the GPUs that the arm held, busy or not"),
    ("errors", "requests without a whole answer, by reason in requests.parquet"),
    ("±", "half of the 95 % interval over runs, Student's t"),
    (
        "ratio",
        "over rounds in which both took turns on one server; unpaired where they were served one "
        "after the other: then all runs of either side, by Welch; at matched throughput over "
        "rounds, each with its own curves",
    ),
)

_COMPARED_SETTINGS = (
    *("hardware", "python", "versions", "served", "prompts", "mix"),
    *("max_tokens", "temperature", "seed", "duration_s"),
)


def write_page(
    directory: Path,
    records: LoadRecords,
    slo: Slo,
    before: LoadRecords | None = None,
    divergences: Sequence[DivergenceReport] = (),
    references: Sequence[str] = (),
) -> Path:
    """Write `report.html` and `figures/*.png` into `directory`; the page's path.

    With `before`, an earlier result of the same arms, the page names what became worse.
    Everything is compared with `references`, see `reference_arms`; throughput with the first.
    """
    references = reference_arms(records, references)
    found = points(records, slo)
    arms = list(by_arm(found))
    pictures = [(c, {t: c.png(t, arms) for t in THEMES}) for c in charts(records, found)]
    (directory / "figures").mkdir(exist_ok=True)
    for chart, pngs in pictures:
        for theme, png in pngs.items():
            (directory / "figures" / f"{chart.name}-{theme}.png").write_bytes(png)
    sections = [
        *_comparison(records, before, slo, references),
        _section("Frontiers", _grid(pictures)),
        _section(
            f"Throughput, and its ratio to {references[0]}",
            _table("Throughput by load", speed_table(speeds(records, slo, references[0]))),
        ),
        _section(
            "At matched throughput",
            "<p>User speed where both replicas give as much, interpolated between measured "
            "points and never beyond them.</p>"
            + "\n".join(
                f"<h3>Over {escape(one)}</h3>"
                + _table(f"At matched throughput, over {one}", matched_table(records, slo, one))
                for one in references
            ),
        ),
        _section("Every metric", _table("Every metric", metrics_table(found))),
        *_calibration(records),
        *_divergences(divergences),
        _section("How steady it is", _steadiness(found)),
        _section("How it was measured", _provenance(records, slo)),
    ]
    path = directory / "report.html"
    path.write_text(_page("\n".join(sections)))
    return path


def _page(body: str) -> str:
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Throughput against latency</title>
<style>
{_STYLE.read_text()}</style>
</head>
<body>
<main>
<h1>Throughput against latency</h1>
{body}
</main>
</body>
</html>
"""


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>\n{body}\n</section>"


def _grid(pictures: Iterable[tuple[Chart, dict[str, bytes]]]) -> str:
    figures = [
        '<figure><picture><source media="(prefers-color-scheme: dark)" '
        f'srcset="{_data(pngs[DARK])}"><img src="{_data(pngs[LIGHT])}" '
        f'alt="{escape(f"{chart.title}. {chart.description}")}">'
        f"</picture><figcaption><strong>{escape(chart.title)}.</strong> "
        f"{escape(chart.description)}</figcaption></figure>"
        for chart, pngs in pictures
    ]
    return f'<div class="charts">{"".join(figures)}</div>'


def _data(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _table(name: str, table: Table) -> str:
    """In a frame that scrolls by itself, and by keyboard."""
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in table.header)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in others)
        + "</tr>"
        for first, *others in table.rows
    )
    return (
        f'<div class="wide" role="region" aria-label="{escape(name)}" tabindex="0"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _comparison(
    records: LoadRecords, before: LoadRecords | None, slo: Slo, references: Sequence[str]
) -> list[str]:
    if before is None:
        return []
    reference = reference_arms(before, references)[0]
    compared = compare(points(records, slo), points(before, slo))
    differing = [
        f"{key}: {before.metadata.get(key)} then, {records.metadata.get(key)} now"
        for key in _COMPARED_SETTINGS
        if before.metadata.get(key) != records.metadata.get(key)
    ]
    lists = compared.findings() | ({"Measured differently": differing} if differing else {})
    parts = [
        *(f"<p>{escape(title)}:</p>{_list(lines)}" for title, lines in lists.items()),
        "<p>Judged by the 95 % interval of the difference (Welch): of equal results one metric in "
        "forty looks worse by chance.</p>",
        _table("Before and now", compared.table()),
        "<p>The earlier result:</p>",
        _table("Before", speed_table(speeds(before, slo, reference))),
    ]
    return [_section("Against the earlier result", "\n".join(parts))]


def _calibration(records: LoadRecords) -> list[str]:
    found = survivals(records)
    if not found:
        return []
    return [_section("Calibration", _table("Calibration", calibration_table(found)))]


def _divergences(reports: Sequence[DivergenceReport]) -> list[str]:
    if not reports:
        return []
    words = (
        "<p>Against the first arm's outputs; the control is that arm again at another "
        "concurrency. In float32 on a processor nothing parts; elsewhere a batch's shape turns "
        "near-ties, and a part at a wide margin is a defect.</p>"
    )
    table = _table("Greedy outputs", divergence_table(reports))
    return [_section("Greedy outputs", words + table)]


def _steadiness(found: Sequence[Point]) -> str:
    loose = unsteady(found)
    if not loose:
        return f"<p>Every speed is known to within {WIDEST:.0%}.</p>"
    return f"<p>Known less well than to within {WIDEST:.0%}; run more rounds:</p>{_list(loose)}"


def _list(texts: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in texts)}</ul>"


def _provenance(records: LoadRecords, slo: Slo) -> str:
    metadata = records.metadata
    when = sorted(run.started_at for run in records.runs)
    served = dict.fromkeys(f"{run.arm}: {run.served_by}" for run in records.runs)
    entries = {
        "Hardware": metadata.get("hardware", ""),
        "Versions": f"Python {metadata.get('python', '')}, {metadata.get('versions', '')}",
        "When": f"{when[0]} to {when[-1]}" if when else "",
        "Prompts": f"{metadata.get('prompts', '')}, {metadata.get('max_tokens', '')} output "
        f"tokens, temperature {metadata.get('temperature', '')}, seed {metadata.get('seed', '')}",
        "SLO": f"first token in {slo.ttft_s * 1000:g} ms, then {slo.tpot_s * 1000:g} ms a token",
    }
    definitions = "".join(
        f"<dt>{escape(key)}</dt><dd>{escape(text)}</dd>"
        for key, text in (*entries.items(), *_WORDS)
    )
    commands = escape(metadata.get("commands", ""))
    return f"<pre><code>{commands}</code></pre><dl>{definitions}</dl>{_list(served)}"
