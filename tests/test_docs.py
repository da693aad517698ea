"""The documentation's site: it builds without a warning, and asks nothing of the network."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from browser_fixtures import CHROMIUM, faults

ROOT = Path(__file__).parent.parent
FETCHED = re.compile(r"<(?:script|img|link)[^>]+(?:src|href)=\"(?:https?:)?//[^\"]+\"")


ACCESSIBLE = ("README", "docs/README", "docs/page", "docs/first-sweep", "search")


@pytest.mark.slow
def test_the_site_builds_fetches_nothing_and_is_accessible(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Every link between pages leads somewhere, and every page is in a table of contents."""
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", "docs", "."]
    built = subprocess.run(
        [*command, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    pages = {path: path.read_text() for path in tmp_path.rglob("*.html")}
    assert len(pages) > 100
    assert {
        path.name: found for path, text in pages.items() if (found := FETCHED.findall(text))
    } == {}
    assert "class space.arch.Architecture" in re.sub(
        r"<[^>]+>", "", pages[tmp_path / "docs/reference.html"]
    )
    if CHROMIUM:
        browser = request.getfixturevalue("browser")
        for name in ACCESSIBLE:
            assert faults(browser, (tmp_path / f"{name}.html").as_uri()) == [], name


def test_the_gallery_shows_each_of_its_pictures_and_none_is_large() -> None:
    page, folder = ROOT / "docs" / "gallery.md", ROOT / "docs" / "gallery"
    shown = {
        folder / name
        for name in re.findall(r"!\[[^\]]+\]\(gallery/(\w+\.webp)\)", page.read_text())
    }
    assert shown == set(folder.glob("*.webp"))
    assert {path.name for path in shown if path.stat().st_size > 150_000} == set()
