"""axe-core finds no fault in what people see: every kind of page, light, dark and on a phone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from browser_fixtures import faults, needs_chromium
from front_fixtures import study_of
from law_fixtures import law_study
from report_fixtures import default_study
from serve_fixtures import served
from table_fixtures import RECIPE, TABLE, ended, made

from ablations.cells import TableWork
from ablations.files import TableFile
from reports.views import arms, laws
from reports.views import study as page
from reports.weigh.law import read_law
from search.objectives import Targets

pytestmark = [pytest.mark.slow, needs_chromium]


def study(root: Path) -> str:
    """Its page, as of all these; it has a front besides what any study's has."""
    done = study_of(root)
    return page.html(done, page.Findings.of(done))


def table(root: Path) -> str:
    (root / "small.yaml").write_text(TABLE)
    asked = TableFile.read(str(root / "small.yaml")).table("proxy", RECIPE, 300)
    work = TableWork(table=asked, data_fingerprint="a")
    return arms.html(made(work, Targets.of(["val_bpb"]), ended, root))


def law(root: Path) -> str:
    names = ["law_500k", "law_1m", "law_2m"]
    for name in names:
        law_study(root, name, seeds=2)
    return laws.html(read_law(names, root / "outputs"))


@pytest.mark.parametrize("kind", [study, table, law], ids=lambda kind: kind.__name__)
def test_a_page_is_accessible(browser: Any, kind: Callable[[Path], str], tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(kind(tmp_path))
    assert faults(browser, path.as_uri()) == []


def test_served_pages_are_accessible(browser: Any, tmp_path: Path) -> None:
    study_of(tmp_path)
    default_study(tmp_path)
    with served(tmp_path / "outputs") as site:
        assert faults(browser, site.url) == []
        assert faults(browser, f"{site.url}compare?of=depth_1m&of=two") == []
