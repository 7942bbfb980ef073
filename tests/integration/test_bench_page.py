"""The report in a real browser: on a phone, on a desk, light and dark."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import escape
from pathlib import Path

import pytest

from loadtest.report.page import write_page
from tests.unit.loadtest.test_bench_report import METADATA, SLO, records

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.light,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's package chromium"),
]

COMMAND = f"dspark bench --endpoint other=http://{'a-long-host-name.' * 8}example:8000#model"
HARDWARE = "NVIDIA_H100_" * 12
FIGURES = {
    "User speed against throughput",
    "Throughput against concurrency",
    "Verify budget against concurrency",
    "Acceptance length against concurrency",
    "Tokens per chunk by domain",
    "Tokens per chunk by prompt length in tokens",
    "Time to first token at 8 clients",
    "Gaps between chunks at 8 clients",
    "Calibration by position",
}
TABLES = {"Throughput by load", "At matched throughput, over off", "Every metric", "Calibration"}
OF_COMPARISONS = {"Before and now", "Before"}

# Looks into the page from a frame of the wanted width, as a window is never as narrow as a phone.
# Names and roles are what the browser tells a screen reader (`computedName`).
PROBE = """<!doctype html><title></title>
<iframe style="width:%dpx;height:800px;border:0" srcdoc="%s"></iframe>
<pre></pre>
<script>
const frame = document.querySelector("iframe");
const rgb = text => text.match(/[\\d.]+/g).map(Number);
const luminance = text => rgb(text).slice(0, 3)
  .map(c => (c / 255 <= 0.04045) ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4)
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
frame.onload = () => {
  const page = frame.contentDocument, view = frame.contentWindow;
  const style = element => view.getComputedStyle(element);
  const ground = element => {
    const own = style(element).backgroundColor;
    return rgb(own)[3] === 0 ? ground(element.parentElement) : own;
  };
  const contrast = element => {
    const pair = [style(element).color, ground(element)].map(luminance).sort((a, b) => a - b);
    return (pair[1] + 0.05) / (pair[0] + 0.05);
  };
  const images = [...page.images];
  const spoken = [...page.querySelectorAll("h1,h2,p,li,dt,dd,td,th,figcaption,code")];
  view.scrollTo(500, 0);
  document.querySelector("pre").textContent = JSON.stringify({
    width: page.documentElement.scrollWidth,
    scrolled: view.scrollX,
    sticking: [...page.querySelectorAll("body *")]
      .filter(e => !e.parentElement.closest(".wide"))
      .filter(e => e.getBoundingClientRect().right > view.innerWidth + 1)
      .map(e => e.tagName + " " + e.textContent.slice(0, 40)),
    ground: style(page.body).backgroundColor,
    text: style(page.body).color,
    drawn: images.filter(i => i.naturalWidth > 0).length,
    dark: images.filter(i => i.currentSrc !== i.src).length,
    figures: images.map(i => [i.computedRole, i.computedName]),
    seen: images.map(i => i.getBoundingClientRect()).every(b => b.width > 250 && b.height > 150),
    regions: [...page.querySelectorAll(".wide")].map(f => [f.computedRole, f.computedName]),
    reachable: [...page.querySelectorAll(".wide")].every(f => f.tabIndex === 0),
    headings: [...page.querySelectorAll("h1,h2")].map(h => h.textContent),
    said: page.body.innerText,
    font: Math.min(...spoken.map(e => parseFloat(style(e).fontSize))),
    contrast: Math.min(...spoken.map(contrast)),
  });
};
</script>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """Two arms beside an earlier result of theirs, so that every part of a page is there, and
    with words that no phone has room for in a line."""
    now, before = records(), records(2.0)
    now = now._replace(metadata=METADATA | {"commands": COMMAND, "hardware": HARDWARE})
    return write_page(tmp_path_factory.mktemp("bench"), now, SLO, before)


def look(page: Path, width_px: int, *, dark: bool) -> dict:
    """The page as the browser lays it out."""
    probe = page.with_name("probe.html")
    probe.write_text(PROBE % (width_px, escape(page.read_text())))
    command = [
        *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"),
        "--enable-blink-features=ComputedAccessibilityInfo",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        *("--virtual-time-budget=5000", f"--user-data-dir={page.parent / 'browser'}"),
        probe.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r"<pre>(\{.*?\})</pre>", done.stdout)
    assert found, done.stderr
    seen: dict = json.loads(found[1])
    return seen


@pytest.fixture(scope="module", params=[(360, False), (360, True), (1200, False), (1200, True)])
def seen(request, page: Path) -> dict:
    """On a phone and on a desk, in light and in dark."""
    width_px, dark = request.param
    return look(page, width_px, dark=dark) | {"width_px": width_px, "is_dark": dark}


def test_nothing_sticks_out_and_nothing_scrolls_sideways(seen: dict):
    assert seen["width"] <= seen["width_px"]
    assert seen["scrolled"] == 0
    assert seen["sticking"] == []


def test_every_figure_is_drawn_and_has_a_name(seen: dict):
    names = [name for _, name in seen["figures"]]
    assert {name.partition(". ")[0] for name in names} == FIGURES
    assert len(names) == len(FIGURES) == seen["drawn"]
    assert all(len(name.partition(". ")[2]) > 40 for name in names)  # and says what it shows
    assert {role for role, _ in seen["figures"]} <= {"image", "img"}
    assert seen["seen"]


def test_every_table_is_a_region_with_a_name_that_keys_reach(seen: dict):
    assert {role for role, _ in seen["regions"]} == {"region"}
    assert {name for _, name in seen["regions"]} == TABLES | OF_COMPARISONS
    assert seen["reachable"]


def test_what_was_measured_where_and_how_is_there_to_read(seen: dict):
    assert {"Frontiers", "How steady it is", "How it was measured"} <= set(seen["headings"])
    assert all(text in seen["said"] for text in (COMMAND, HARDWARE, METADATA["versions"]))


def test_text_is_large_and_stands_out(seen: dict):
    assert seen["font"] >= 14
    assert seen["contrast"] >= 4.5  # WCAG 2, AA


def test_dark_readers_get_dark_ground_and_dark_pictures(seen: dict):
    if seen["is_dark"]:
        colours, pictures = ("rgb(22, 24, 28)", "rgb(232, 232, 232)"), len(FIGURES)
    else:
        colours, pictures = ("rgb(255, 255, 255)", "rgb(27, 27, 27)"), 0
    assert (seen["ground"], seen["text"]) == colours
    assert seen["dark"] == pictures
