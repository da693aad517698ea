"""Names of arms and panels are what was written, in every form of a table."""

from pathlib import Path

import pandas as pd
import pytest

from ablations.files import TableFile
from reports.show.tables import Column, escape, latex_table, markdown_table, printed_rows
from search.recipe import Recipe
from space.arch import read_mapping

TABLE = """
caption: Does it help?
seeds: 2
proxy:
  - name: first
    baseline: "no"
    base: {num_blocks: 2, tie_word_embeddings: true}
    arms:
      no: {}
      1e3: {num_blocks: 3}
"""


def table(folder: Path, content: str) -> list[str]:
    (folder / "mine.yaml").write_text(content, encoding="utf-8")
    made = TableFile.read(str(folder / "mine.yaml")).table("proxy", Recipe(tokens=10**5), 300)
    return [arm.name for panel in made.panels for arm in panel.arms]


def test_an_arm_called_no_is_called_no(tmp_path: Path) -> None:
    content = TABLE.replace("seeds: 2", "seeds: 2\nbudget: 300k")
    assert table(tmp_path, content) == ["no", "1e3"]


def test_keys_are_as_they_are_written_and_merged_as_before(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a: &a {on: 1, 2: 3}\nb: {<<: *a, 0x10: null}\n")
    assert read_mapping(path, "x") == {"a": {"on": 1, "2": 3}, "b": {"on": 1, "2": 3, "0x10": None}}


def test_unknown_keys_of_a_panel_are_refused(tmp_path: Path) -> None:
    content = TABLE.replace("baseline:", "basline_of: x\n    baseline:")
    with pytest.raises(ValueError, match=r"panel 'first' may have .*, but has 'basline_of'"):
        table(tmp_path, content)


FRAME = pd.DataFrame({"arm": ["two\nlines", "a\r\n\r\nb", "β λ 宽 é “x” Α ό ² ≈"]})
COLUMNS = [Column("arm", "arm", str, numeric=False)]


def test_a_name_of_two_lines_is_one_row_of_markdown() -> None:
    lines = markdown_table(*printed_rows(FRAME, COLUMNS)).splitlines()
    assert lines[2:4] == ["| two lines |", "| a b |"]
    assert len(lines) == 5


def test_latex_has_letters_that_pdflatex_has() -> None:
    text = latex_table(*printed_rows(FRAME, COLUMNS))
    assert "two lines" in text
    assert "\n\n" not in text
    assert escape("β λ 宽 é “x” Α ² ≈") == (
        r"$\beta$ $\lambda$ U+5BBD é “x” $\mathrm{A}$ $^2$ $\approx$"
    )
