"""The page in a real headless Chromium: it draws, sorts, fits a phone and asks for nothing."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from browser_fixtures import CHROMIUM, FLAGS, needs_chromium
from law_fixtures import law_study
from PIL import Image
from process_fixtures import wait_for
from report_fixtures import default_study, ladder
from table_fixtures import RECIPE, TABLE, ended, made

from ablations.cells import TableWork
from ablations.files import TableFile
from reports.read.study import read_study
from reports.views import arms, laws
from reports.views import study as page
from reports.weigh.law import read_law
from search.objectives import Targets

WIDTHS = "256 176 160 128 112 96 80 64 64".split()
"""Of the study's ladder, on the upper axis of its figure."""

pytestmark = [pytest.mark.slow, needs_chromium]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of a study with all there is: replicated arms, a diverged trial, importance."""
    root = tmp_path_factory.mktemp("page")
    study = default_study(root, importance={"num_blocks": 0.9, "heads_per_kv": 0.1})
    study.add(ladder([10])[0], status="diverged", state="FAIL", reason="loss was nan at step 8")
    study.write()
    done = read_study(study.name, root / "outputs")
    path = root / "report.html"
    path.write_text(page.html(done, page.Findings.of(done)))
    return path


@contextmanager
def opened(report: Path, last: str = "validation", **context: Any) -> Iterator[Any]:
    """The page in a browser, once its `last` figure is drawn; leaving checks that nothing
    complained or went out."""
    playwright = pytest.importorskip("playwright.sync_api")
    complaints: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        tab = browser.new_context(**context).new_page()
        tab.on("console", lambda message: complaints.append(f"console: {message.text}"))
        tab.on("pageerror", lambda error: complaints.append(f"page error: {error}"))
        tab.on("request", lambda request: complaints.append(f"request: {request.url}"))
        tab.goto(report.as_uri())
        tab.wait_for_selector(f"#{last} .main-svg")
        yield tab
        tab.wait_for_timeout(300)
        browser.close()
    known = f"request: {report.as_uri()}"
    assert [c for c in complaints if c != known and not c.startswith("request: data:")] == []


def test_figures_are_drawn_tables_sort_and_nothing_is_asked_of_the_network(report: Path) -> None:
    with opened(report, viewport={"width": 1280, "height": 900}, color_scheme="light") as tab:
        counts = {
            name: tab.locator(f"#{name} .scatterlayer .trace").count()
            for name in ("depth", "train", "validation")
        }
        # Of depth: the line, runs, once, means; and on the upper axis the one that carries it.
        assert counts == {"depth": 5, "train": 22, "validation": 22}
        assert tab.locator("#depth .x2tick text").all_text_contents() == WIDTHS
        tools = tab.locator("#depth .modebar-btn")
        titles = {tool.get_attribute("data-title") for tool in tools.all()}
        assert titles == {
            *("Download plot as a PNG", "Zoom", "Pan", "Zoom in", "Zoom out", "Reset axes")
        }, "none that sends a figure elsewhere"
        marks = tab.locator("#depth .errorbar path.yerror").first
        assert "63, 119, 189" in marks.evaluate("mark => getComputedStyle(mark).stroke")
        light = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        assert_sorts(tab, "val bpb", float)
        assert_sorts(tab, "state", str)
        tab.emulate_media(color_scheme="dark")
        tab.wait_for_timeout(300)
        assert tab.evaluate("getComputedStyle(document.body).backgroundColor") != light
        paper = "document.querySelector('#depth .main-svg').style.background"
        assert "22, 23, 26" in tab.evaluate(paper)


def assert_sorts(tab: Any, heading: str, kind: type) -> None:
    """Clicking a heading of the trials sorts by it; again, by keyboard, turns the order."""
    button = tab.locator("#trials th button", has_text=heading).first
    head = button.locator("..")
    column = head.evaluate("head => head.cellIndex")

    def cells() -> list[Any]:
        texts = tab.locator(f"#trials tbody td:nth-child({column + 1})").all_inner_texts()
        return [kind(text) for text in texts if text != "–"]

    before = cells()
    button.click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert cells() == sorted(before)
    assert cells() != before
    button.focus()
    tab.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert cells() == sorted(before, reverse=True)
    assert tab.locator("#trials th[aria-sort]").count() == 1


def test_the_page_fits_a_phone_without_scrolling_sideways(report: Path) -> None:
    with opened(report, viewport={"width": 360, "height": 740}, has_touch=True) as tab:
        assert tab.evaluate("document.documentElement.scrollWidth") <= 360
        box = tab.locator("#depth .main-svg").first.bounding_box()
        assert box is not None
        assert 300 < box["width"] <= 340
        assert tab.evaluate(ON_EACH_OTHER) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_table_that_is_cut_has_a_shadow_there_until_it_is_scrolled_to_its_end(
    report: Path, scheme: Any
) -> None:
    with opened(report, viewport={"width": 500, "height": 900}, color_scheme=scheme) as tab:
        place = tab.locator("#trials .scroll")
        assert place.evaluate("box => box.scrollWidth > box.clientWidth")

        def at_the_edge() -> float:
            """How far the last pixels are from the paper's, by the middle one of their column:
            letters are on fewer than half of them."""
            shot = Image.open(io.BytesIO(place.screenshot())).convert("L")
            column = [shot.getpixel((shot.width - 2, y)) for y in range(shot.height)]
            return abs(median(column) - {"light": 253, "dark": 23}[scheme])

        assert at_the_edge() > 30
        place.focus()
        tab.keyboard.press("ArrowRight")
        wait_for(lambda: place.evaluate("box => box.scrollLeft") > 0)
        place.evaluate("box => { box.scrollLeft = box.scrollWidth; }")
        wait_for(lambda: at_the_edge() < 3)


COVERED = """() => [...document.querySelectorAll(".plot")].flatMap((plot) => {
  const box = (element) => element.getBoundingClientRect();
  const bars = [...plot.querySelectorAll(".modebar-group")].map(box);
  const over = (a, b) =>
    a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
  const texts = [...plot.querySelectorAll("text")].filter((text) => box(text).width);
  return texts.filter((t) => bars.some((bar) => over(box(t), bar))).map((t) => t.textContent);
})"""


@pytest.mark.parametrize("width", [1300, 500])
def test_an_architecture_is_chosen_everywhere_and_no_label_is_covered(
    report: Path, width: int
) -> None:
    with opened(report, viewport={"width": width, "height": 900}) as tab:
        assert tab.locator(".modebar-group").count() > 0
        assert tab.evaluate(COVERED) == []
        tab.locator("#architectures tr[data-arm]").nth(2).click()
        arm = tab.locator("#architectures tr.chosen").get_attribute("data-arm")
        assert tab.locator(f"#trials tr.chosen[data-arm='{arm}']").count() == 4
        opacities = "document.getElementById('train').data.map((t) => [t.meta.arm, t.opacity])"
        bright = {name for name, opacity in tab.evaluate(opacities) if opacity == 1}
        assert bright == {arm}
        faded = "[...document.querySelectorAll('#depth .errorbar')].map((b) => b.style.opacity)"
        assert sorted(tab.evaluate(faded)) == [*(3 * ["0.2"]), "1"], "intervals, too"
        assert tab.locator("#layers rect").count() == 2 * 3
        assert "3 layers" in str(tab.locator("#layers svg").get_attribute("aria-label"))
        tab.locator("#depth .points path").last.click(force=True)
        assert tab.locator("#architectures tr.chosen").get_attribute("data-arm") != arm


def test_a_browser_that_cannot_unpack_says_so_and_keeps_its_tables(report: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        tab = browser.new_page()
        tab.add_init_script("delete window.DecompressionStream")
        tab.goto(report.as_uri())
        tab.wait_for_selector("#depth.absent")
        assert "Firefox from 113" in tab.locator("#depth").inner_text()
        assert tab.locator("#trials tbody tr").count() == 22
        browser.close()


def test_a_table_folds_its_details_sorts_and_is_copied(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(TABLE)
    table = TableFile.read(str(tmp_path / "small.yaml")).table("proxy", RECIPE, 300)
    work = TableWork(table=table, data_fingerprint="a")
    report = made(work, Targets.of(["val_bpb"]), ended, tmp_path)
    path = tmp_path / "table.html"
    path.write_text(arms.html(report))
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        context = browser.new_context(viewport={"width": 1300, "height": 900})
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        tab = context.new_page()
        tab.goto(path.as_uri())
        heading = tab.locator(".foldable").first.locator("th", has_text="FLOPs/token")
        assert not heading.is_visible()
        tab.locator("button.plain").first.click()
        assert heading.is_visible()
        heading.locator("button").click()
        assert heading.get_attribute("aria-sort") == "ascending"
        tab.locator("#copy").click()
        tab.wait_for_selector("text=Copied")
        pasted = tab.evaluate("navigator.clipboard.readText()")
        assert pasted == arms.markdown(report)
        own = "img => [img.currentSrc === img.src, img.naturalWidth]"
        picture = tab.locator("picture img").first
        wide = picture.evaluate(own)
        tab.set_viewport_size({"width": 390, "height": 900})
        wait_for(lambda: not picture.evaluate(own)[0])
        assert wide[0]
        assert picture.evaluate(own)[1] < wide[1]
        boxes = [
            cell.bounding_box() for cell in tab.locator(".foldable").first.locator(".ends").all()
        ]
        assert len(boxes) > 1
        assert all(box and box["x"] + box["width"] <= 390 for box in boxes), "intervals in sight"
        browser.close()


ON_EACH_OTHER = """() => [...document.querySelectorAll(".plot")].flatMap((plot) => {
  const texts = [...plot.querySelectorAll("text")]
    .map((text) => [text, text.getBoundingClientRect()]).filter(([, box]) => box.width);
  const over = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
    && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3;
  return texts.flatMap(([one, box], i) => texts.slice(i + 1).filter(([, other]) => over(box, other))
    .map(([other]) => `${one.textContent} on ${other.textContent}`));
})"""
"""Labels of figures that overlap, but for the air around letters."""


def test_a_laws_page_draws_a_panel_a_budget_and_fits_a_phone(tmp_path: Path) -> None:
    budgets = (500_000, 1_000_000, 2_000_000)
    names = [f"depth_width_non_embedding_parameters_{budget}" for budget in budgets]
    for name, budget in zip(names, budgets, strict=True):
        law_study(tmp_path, name, budget=budget, seeds=2)
    path = tmp_path / "report.html"
    path.write_text(laws.html(read_law(names, tmp_path / "outputs")))
    with opened(path, last="residuals", viewport={"width": 1300, "height": 900}) as tab:
        assert tab.evaluate(ON_EACH_OTHER) == []
        tab.set_viewport_size({"width": 500, "height": 900})
        tab.wait_for_timeout(300)
        assert tab.evaluate(ON_EACH_OTHER) == []
    with opened(path, last="residuals", viewport={"width": 360, "height": 740}) as tab:
        assert tab.locator("#depth .cartesianlayer .subplot").count() == 3
        assert tab.locator("#residuals .scatterlayer .trace").count() == 3
        assert tab.locator("#growth .errorbar").count() == 3
        overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert tab.evaluate(overflow) == 0
        assert tab.evaluate(ON_EACH_OTHER) == []
