"""`make gallery`: pictures of what people see, for docs/gallery.md.

Pages are made of records, those beside the pictures and the published ones of a law; nothing is
trained. Each page is taken on a screen, in the dark, and as wide as a phone.
"""

import io
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parent.parent
PICTURES, PLACE = ROOT / "docs" / "gallery", ROOT / ".cache" / "gallery"
RECORDS = (PICTURES / "records.tar.xz", ROOT / "reports/results/laws/records.tar.xz")
LAW = "study=[law_500k_v,law_1m_v,law_2m_v,law_4m_v]"
MADE = {
    "outputs/depth_width_300k/report.html": ["study=depth_width_300k"],
    "outputs/front_gqa_300k/report.html": ["study=front_gqa_300k"],
    "outputs/tables/layer_sharing/table.html": ["table=layer_sharing"],
    "outputs/laws/laws/report.html": ["page=laws", "called=laws", LAW],
}
"""Each page, and what `python -m reports` makes it of."""
LOOKS = {
    "": {"viewport": {"width": 1300, "height": 1300}, "color_scheme": "light"},
    "_dark": {"viewport": {"width": 1300, "height": 1300}, "color_scheme": "dark"},
    "_phone": {"viewport": {"width": 500, "height": 1400}, "color_scheme": "light"},
}
"""By the end of a picture's name, the browser's window."""
MOST_BYTES = 150_000
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def main() -> None:
    """Leave the pictures in docs/gallery/."""
    make_pages()
    make_site()
    with served() as address, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for name, (page, place, chosen) in shots(address).items():
            for ending, look in LOOKS.items():
                tab = browser.new_context(**look).new_page()
                tab.goto(page)
                save(shot(tab, place, chosen), PICTURES / f"{name}{ending}.webp")
                tab.context.close()


def shots(address: str) -> dict[str, tuple[str, str, bool]]:
    """By a picture's name its page, the element that it begins with, and whether an architecture is
    chosen."""
    study, front, table, law = ((PLACE / page).as_uri() for page in MADE)
    compared = f"{address}compare?of=depth_width_300k&of=front_gqa_300k"
    site = (PLACE / "site" / "docs" / "page.html").as_uri()
    return {
        "study": (study, "body", False),
        "chosen": (study, "figure", True),
        "front": (front, "body", False),
        "table": (table, "body", False),
        "law": (law, "body", False),
        "serve": (address, "body", False),
        "compare": (compared, "body", False),
        "docs": (site, "body", False),
    }


def shot(tab: Any, place: str, chosen: bool) -> bytes:
    """What the window shows from an element on, as PNG, once all figures are drawn."""
    for plot in tab.locator(".plot").all():
        plot.locator(".main-svg").first.wait_for()
    if chosen:
        tab.locator("#architectures tr[data-arm]").nth(1).click()
    tab.locator(place).first.evaluate("element => element.scrollIntoView()")
    tab.wait_for_timeout(500)  # figures fade
    picture: bytes = tab.screenshot()
    return picture


def save(picture: bytes, path: Path) -> None:
    """As WebP, which takes a third of PNG's bytes."""
    Image.open(io.BytesIO(picture)).save(path, quality=80, method=6)
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path.name} must take at most {MOST_BYTES:,} bytes; lower its quality")


def make_pages() -> None:
    """The pages of the records, in .cache/gallery."""
    PLACE.mkdir(parents=True, exist_ok=True)
    for archive in RECORDS:
        with tarfile.open(archive) as records:
            records.extractall(PLACE, filter="data")
    for asked in MADE.values():
        run("-m", "reports", *asked)


def make_site() -> None:
    """The site of the documentation."""
    run("-m", "sphinx", "-q", "-c", str(ROOT / "docs"), str(ROOT), str(PLACE / "site"))


def run(*arguments: str) -> None:
    """A command of this Python, in .cache/gallery."""
    subprocess.run([sys.executable, *arguments], cwd=PLACE, check=True)


@contextmanager
def served() -> Iterator[str]:
    """The address of `python -m reports serve` over the pages, as long as it is needed."""
    command = [sys.executable, "-m", "reports", "serve", "port=0"]
    server = subprocess.Popen(command, cwd=PLACE, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    found = re.search(r"http://\S+", server.stdout.readline())
    assert found is not None, "the first line is the address"
    try:
        yield found[0]
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
