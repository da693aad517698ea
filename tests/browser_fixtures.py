"""A real headless Chromium, and what axe-core says of the pages in it."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
SEEN = [
    {"viewport": {"width": 1300, "height": 900}, "color_scheme": "light"},
    {"viewport": {"width": 500, "height": 900}, "color_scheme": "dark"},
]
DRAWN_BY_PLOTLY = {"exclude": [[".plot svg"]]}
"""Thousands of marks, which the figure's text stands for."""

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="chromium is not installed (Debian: apt install chromium)"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser without a page."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


def faults(browser: Any, address: str) -> list[str]:
    """What axe-core finds on a page, on a screen and on a phone in the dark, with an architecture
    chosen and details unfolded."""
    found = []
    for seen in SEEN:
        tab = browser.new_context(**seen).new_page()
        tab.goto(address)
        for place in tab.locator(".plot").all():
            place.locator(".main-svg").first.wait_for()
        for place in tab.locator("tr[data-arm], button.plain").all()[:2]:
            place.click()
        found += violations(tab)
        tab.context.close()
    return found


def violations(tab: Any) -> list[str]:
    """Each rule that the page in a tab breaks, and the first place where it does."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    broken = axe.Axe().run(tab, DRAWN_BY_PLOTLY).response["violations"]
    return [f"{rule['id']}: {rule['help']}: {rule['nodes'][0]['html'][:300]}" for rule in broken]
