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
from tests.unit.loadtest.test_bench_report import SLO, records

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.light,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's package chromium"),
]

# Looks into the page from a frame of the wanted width, as a window is never as narrow as a phone.
PROBE = """<!doctype html><title></title>
<iframe style="width:%dpx;height:800px;border:0" srcdoc="%s"></iframe>
<pre></pre>
<script>
const frame = document.querySelector("iframe");
frame.onload = () => {
  const page = frame.contentDocument, view = frame.contentWindow;
  const images = [...page.images];
  document.querySelector("pre").textContent = JSON.stringify({
    width: page.documentElement.scrollWidth,
    ground: view.getComputedStyle(page.body).backgroundColor,
    text: view.getComputedStyle(page.body).color,
    drawn: images.filter(i => i.naturalWidth > 0).length,
    images: images.length,
    widest: Math.max(...images.map(i => i.getBoundingClientRect().width)),
    dark: images.filter(i => i.currentSrc !== i.src).length,
    frames: [...page.querySelectorAll(".wide")].every(f => f.scrollWidth >= f.clientWidth),
    font: parseFloat(view.getComputedStyle(page.querySelector("td")).fontSize),
  });
};
</script>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    return write_page(tmp_path_factory.mktemp("bench"), records(), SLO)


def look(page: Path, width_px: int, *, dark: bool) -> dict:
    """The page as the browser lays it out."""
    probe = page.with_name("probe.html")
    probe.write_text(PROBE % (width_px, escape(page.read_text())))
    command = [
        *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"),
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        *("--virtual-time-budget=5000", f"--user-data-dir={page.parent / 'browser'}"),
        probe.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r"<pre>(\{.*?\})</pre>", done.stdout)
    assert found, done.stderr
    seen: dict = json.loads(found[1])
    return seen


@pytest.mark.parametrize("width_px", [360, 1200])
def test_nothing_sticks_out_and_everything_is_drawn(page: Path, width_px: int):
    seen = look(page, width_px, dark=False)
    assert seen["width"] <= width_px
    assert seen["widest"] <= width_px
    assert seen["drawn"] == seen["images"] == 8
    assert seen["frames"]
    assert seen["font"] >= 14


def test_dark_readers_get_dark_ground_and_dark_pictures(page: Path):
    light, dark = (look(page, 390, dark=dark) for dark in (False, True))
    assert (light["dark"], dark["dark"]) == (0, 8)
    assert (light["ground"], light["text"]) == ("rgb(255, 255, 255)", "rgb(27, 27, 27)")
    assert (dark["ground"], dark["text"]) == ("rgb(22, 24, 28)", "rgb(232, 232, 232)")
