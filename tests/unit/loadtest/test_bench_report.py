from dataclasses import replace
from html.parser import HTMLParser

import pytest

from loadtest.report.page import write_page
from loadtest.report.tables import (
    matched_table,
    metrics_table,
    number,
    ratio_text,
    reference_arms,
    speed_table,
    speeds,
    unsteady,
)
from profiles.frontier import Slo, points
from profiles.load_records import LoadRecords
from tests.unit.profiles.load_rows import request_row, run_row

SLO = Slo(1.0, 0.05)
METADATA = {"hardware": "two <cores>", "commands": "dspark bench --quick", "versions": "ray 2"}

UNCOUNTED = {"verified_drafts": -1, "draft_tokens": -1, "accepted_tokens": -1} | dict.fromkeys(
    ("admitted_by_position", "accepted_by_position", "expected_by_position"), ()
)


def records(speed: float = 1.0) -> LoadRecords:
    """Two arms at two loads, twice; `drafted` has three tokens in a chunk and an error."""
    runs, requests = [], []
    for load in (1.0, 8.0):
        for round_ in (1, 2):
            for arm, tokens in (("off", 1), ("drafted", 3)):
                run_id = f"{arm} {load} {round_}"
                counts = {} if arm == "drafted" else UNCOUNTED
                runs.append(run_row(run_id, arm=arm, load_value=load, round=round_, **counts))
                gap_us = round(
                    (40_000 if load == 1 else 80_000) / (speed if arm == "drafted" else 1)
                )
                many = {"gap_us": (gap_us,) * 8, "chunk_tokens": (1, *(tokens,) * 7)}
                requests += [request_row(run_id, number=i, **many) for i in range(int(load))]
                if arm == "drafted":
                    failed = {"status": "refused", "gap_us": (), "chunk_tokens": (), "number": 99}
                    requests.append(request_row(run_id, **failed))
    return LoadRecords(tuple(runs), tuple(requests), METADATA)


def test_a_row_per_load_and_a_column_per_arm_with_errors_in_every_cell():
    table = speed_table(speeds(records(), SLO, "off"))
    assert table.header == ("load", "off", "drafted")
    assert table.rows == (
        ("closed:1", "8 (1.00x ± 0.00; errors 0.0%)", "22 (2.75x ± 0.00; errors 50.0%)"),
        ("closed:8", "64 (1.00x ± 0.00; errors 0.0%)", "176 (2.75x ± 0.00; errors 11.1%)"),
    )


def test_arms_of_servers_that_ran_one_after_the_other_are_not_shown_as_paired():
    together = records()
    apart = [replace(run, sitting=run.arm) for run in together.runs]
    (light, _) = speed_table(speeds(together._replace(runs=tuple(apart)), SLO, "off")).rows
    assert light[1:] == (
        "8 (1.00x ± 0.00; errors 0.0%)",
        "22 (2.75x ± 0.00 unpaired; errors 50.0%)",
    )


def test_speed_at_matched_throughput_has_errors_too():
    table = matched_table(records(), SLO, "off")
    # Drafted: 22 tokens/s at 75 a user, 176 at 37.5; off gives 64 at 12.5.
    row = ("drafted", "closed:8", "64", "64.8", "12.5", "5.18x ± 0.00", "50.0%")
    assert table.rows == (row,)
    assert table.header[1:5] == (
        *("load of off", "tokens/s/replica", "tokens/s/user", "off, tokens/s/user"),
    )


def test_it_is_over_any_arm_and_says_where_the_two_took_no_turns():
    together = records()
    apart = [replace(run, sitting=run.arm) for run in together.runs]
    table = matched_table(together._replace(runs=tuple(apart)), SLO, "drafted")
    # Drafted gives 22 tokens/s at 75 a user; off 8 at 25 and 64 at 12.5.
    ratio = "0.29x ± 0.00 unpaired"
    assert table.rows == (("off", "closed:1", "22", "21.9", "75", ratio, "0.0%"),)


def test_throughput_is_over_the_reference_that_is_asked_for():
    table = speed_table(speeds(records(), SLO, "drafted"))
    assert table.rows[0] == (
        *("closed:1", "8 (0.36x ± 0.00; errors 0.0%)", "22 (1.00x ± 0.00; errors 50.0%)"),
    )


def test_what_is_compared_with_was_run_and_is_the_first_arm_where_nothing_else_is():
    assert reference_arms(records()) == ["off"]
    assert reference_arms(records(), ["drafted", "failed", "drafted"]) == ["drafted"]
    assert reference_arms(records(), ["failed"]) == ["off"]


def test_the_page_has_a_table_over_every_reference(tmp_path):
    text = write_page(tmp_path, records(), SLO, references=["drafted", "off"]).read_text()
    assert "Throughput, and its ratio to drafted" in text
    assert [text.count(f"<h3>Over {name}</h3>") for name in ("drafted", "off")] == [1, 1]


def test_every_metric_has_a_column():
    table = metrics_table(points(records(), SLO))
    assert len(table.rows) == 4
    assert {len(row) for row in table.rows} == {len(table.header)}
    assert "errors %" in table.header


def test_a_table_is_markdown():
    lines = speed_table(speeds(records(), SLO, "off")).markdown().splitlines()
    assert lines[:2] == ["| load | off | drafted |", "| --- | --- | --- |"]


def test_speeds_that_are_not_known_well_are_named():
    steady = points(records(), SLO)
    assert unsteady(steady) == []
    once = [replace(point, runs=point.runs[:1]) for point in steady[:1]]
    assert unsteady(once) == [
        "off at closed:1: tokens/s/user from one run",
        "off at closed:1: tokens/s/replica from one run",
    ]


@pytest.mark.parametrize(
    ("value", "text"), [(1234.5, "1,234"), (12.345, "12.3"), (0.5, "0.5"), (float("nan"), "-")]
)
def test_numbers_have_three_digits(value: float, text: str):
    assert number(value) == text


def test_a_ratio_of_one_run_has_no_interval():
    assert ratio_text(1.5, None) == "1.50x"
    assert ratio_text(None, None) == "no ratio"


class Page(HTMLParser):
    """What a reader with a screen reader depends on, and what a page may not fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_the_page_needs_nothing_else_and_says_everything_in_words(tmp_path):
    path = write_page(tmp_path, records(), SLO)
    page = Page()
    page.feed(path.read_text())
    assert page.all("html") == [{"lang": "en"}]
    assert all(image["src"].startswith("data:image/png") for image in page.all("img"))
    assert all(len(image["alt"]) > 40 for image in page.all("img"))
    assert not page.all("script")
    assert not page.all("link")
    assert {header["scope"] for header in page.all("th")} == {"col", "row"}
    frames = [div for div in page.all("div") if div.get("class") == "wide"]
    assert all(frame["tabindex"] == "0" and frame["aria-label"] for frame in frames)
    assert "two &lt;cores&gt;" in path.read_text()
    assert "dspark bench --quick" in path.read_text()


def test_every_picture_is_there_light_and_dark(tmp_path):
    write_page(tmp_path, records(), SLO)
    names = sorted(path.name for path in (tmp_path / "figures").iterdir())
    kinds = ("acceptance", "budget", "calibration", "frontier", "itl", "throughput")
    kinds += ("tokens-per-chunk-context", "tokens-per-chunk-domain", "ttft")
    assert names == sorted(f"{kind}-{theme}.png" for kind in kinds for theme in ("light", "dark"))


def test_where_nobody_says_what_was_expected_there_is_no_calibration(tmp_path):
    off = [run for run in records().runs if run.arm == "off"]
    text = write_page(tmp_path, records()._replace(runs=tuple(off)), SLO).read_text()
    assert "Calibration" not in text
    assert not (tmp_path / "figures" / "calibration-light.png").exists()


def test_a_comparison_names_what_differs_and_what_fell(tmp_path):
    before = records(2.0)
    before = before._replace(metadata=METADATA | {"versions": "ray 1"})
    now = records()._replace(metadata=METADATA | {"versions": "ray 2"})
    text = write_page(tmp_path, now, SLO, before, references=["drafted"]).read_text()
    assert "Against the earlier result" in text
    # Off over drafted: two loads in both tables.
    assert text.count("(0.36x ± 0.00; errors 0.0%)") == 4
    assert "versions: ray 1 then, ray 2 now" in text
    assert "<li>drafted at closed:1: tokens/s/user 150 → 75 (0.50x ± 0.00)</li>" in text
    assert "Only one of the two has" not in text
