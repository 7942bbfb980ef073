"""How `/fleet/ui` looks and how it is used: light and dark, on a phone, by keyboard; healthy, with
one broken replica, with none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from browser import Browser, browsing
from test_fleet_page import CHROMIUM, Answer, in_browser, serving, snapshot

from cluster.controller import FleetController

pytestmark = in_browser
PHONE, DESK = 360, 1280
FLEETS: dict[str, tuple[Answer, str]] = {
    "healthy": (snapshot(), "Target replicas"),
    "one broken": (snapshot(broken=True), "its ranks disagree"),
    "no replicas": ((200, FleetController().snapshot()), "No replica has reported yet."),
}
READY = "byId('state').textContent === 'Live'"

# Text with too little contrast to what is behind it, by WCAG 2's formula.
FAINT = """
(() => {
  const channels = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const linear = v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const weights = [.2126, .7152, .0722];
  const light = rgb => weights.reduce((sum, w, i) => sum + w * linear(rgb[i] / 255), 0);
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const colour = channels(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const faint = [];
  for (const element of document.body.querySelectorAll("*")) {
    const own = [...element.childNodes].some(n => n.nodeType === Node.TEXT_NODE && n.data.trim());
    if (!own || !element.getClientRects().length || element.tagName === "SCRIPT") continue;
    const style = getComputedStyle(element);
    const ink = light(channels(element.ownerSVGElement ? style.fill : style.color));
    const paper = light(behind(element));
    const contrast = (Math.max(ink, paper) + .05) / (Math.min(ink, paper) + .05);
    if (contrast < 4.5) faint.push(element.textContent.slice(0, 40) + ": " + contrast.toFixed(2));
  }
  return faint;
})()
"""
FOCUSED = """
(() => {
  const at = document.activeElement, style = getComputedStyle(at);
  return [at.id || at.getAttribute("aria-labelledby") || at.className || at.tagName,
    style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2];
})()
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(str(CHROMIUM), tmp_path_factory.mktemp("profile")) as found:
        yield found


@contextmanager
def seen(browser: Browser, fleet: str, width: int = DESK, scheme: str = "light") -> Iterator[None]:
    answer, words = FLEETS[fleet]
    with serving([answer]) as url:
        browser.look(width=width, scheme=scheme)
        browser.open(url, f"window.askForever && {READY}")
        assert words in browser.says("document.body.innerText")
        yield
        browser.open("about:blank", "true")  # asks no more


@pytest.mark.parametrize("width", [PHONE, DESK])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("fleet", FLEETS)
def test_it_is_legible_and_stays_within_the_window(browser, fleet, scheme, width, tmp_path):
    with seen(browser, fleet, width, scheme):
        picture = browser.screenshot()
        picture.save(tmp_path / f"{fleet}-{scheme}-{width}.png")
        assert picture.size == (width, 800)
        brightness = sum(picture.getpixel((1, 1))) / 3
        assert brightness > 200 if scheme == "light" else brightness < 60
        assert len(picture.getcolors(1 << 24)) > 50  # letters, not an empty page
        # Wide tables move within their own frame.
        assert browser.says("document.scrollingElement.scrollWidth") <= width
        assert browser.says(FAINT) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_broken_replica_differs_from_the_others_in_sign_and_colour(browser, scheme):
    with seen(browser, "one broken", scheme=scheme):
        signs = browser.says(
            "[...document.querySelectorAll('td.text > span')].map(e => "
            "[e.innerText.trim(), getComputedStyle(e).color])"
        )
        by_words = dict(signs)
        assert "✕ broken" in by_words
        assert by_words["✕ broken"] not in {c for w, c in signs if w != "✕ broken"}


def test_it_is_used_by_keyboard_alone(browser):
    with seen(browser, "healthy"):
        browser.press("Tab")
        assert browser.says(FOCUSED) == ["skip", True]
        browser.press("Tab")
        assert browser.says(FOCUSED) == ["pause", True]
        browser.press(" ")
        assert browser.says("byId('state').textContent") == "Paused"
        assert browser.says("byId('pause').getAttribute('aria-pressed')") == "true"
        browser.press("Enter")
        assert browser.says("byId('pause').getAttribute('aria-pressed')") == "false"
        reached = []
        for _ in range(12):
            browser.press("Tab")
            name, has_outline = browser.says(FOCUSED)
            if name == "BODY":
                break
            reached.append(name)
            assert has_outline, name
        # What is wider than a small window can be moved, and says what it is.
        assert "m0-targets" in reached
        assert "m0-positions" in reached


def test_the_first_key_leads_past_the_header(browser):
    with seen(browser, "healthy"):
        browser.press("Tab")
        browser.press("Enter")
        browser.press("Tab")
        assert browser.says(FOCUSED)[0] == "m0-targets"


def test_news_do_not_take_the_focus_away(browser):
    answers = [snapshot(steps=n) for n in (100, 200, 300)]
    with serving(answers) as url:
        browser.look(width=DESK, scheme="light")
        browser.open(url, f"window.askForever && {READY}")
        for _ in range(3):
            browser.press("Tab")
        assert browser.says(FOCUSED)[0] == "m0-targets"
        browser.wait("document.querySelector('circle.seen')")  # the next answer is shown
        assert browser.says(FOCUSED)[0] == "m0-targets"
        browser.open("about:blank", "true")
