"""Losses by source: what a page of a study on a mixture shows."""

import dataclasses
import io
import math
from pathlib import Path

import pandas as pd
import pytest
from report_fixtures import StudyFolder, ladder

from reports.read.study import Study, read_study
from reports.views import sources
from reports.views.study import Findings, html
from reports.weigh.answer import weigh
from reports.weigh.worth import HELD_OUT_ERROR, Worth
from search.record import Record, SourceLoss

SHARES = {"code": 0.25, "web": 0.75}


def mixed(record: Record) -> Record:
    """As it would be on a mixture: code a tenth better than web."""
    last = record.readings[-1]
    each = tuple(
        SourceLoss(source=name, val_loss=last.val_loss + by, val_bpb=(last.val_bpb or 0.0) + by)
        for name, by in (("code", -0.075), ("web", 0.025))
    )
    parts = {
        name: {"share": share, "train_tokens": 10**6, "validation_tokens": 1000}
        for name, share in SHARES.items()
    }
    reading = dataclasses.replace(last, sources=each)
    data = {**record.data, "sources": parts}
    return dataclasses.replace(record, readings=(reading,), data=data)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    folder = StudyFolder(tmp_path)
    for architecture in ladder((3, 5)):
        for seed in (0, 1):
            folder.add(architecture, seed, points=3)
    folder.write()
    found = read_study("depth_1m", tmp_path / "outputs")
    return dataclasses.replace(
        found, records={key: mixed(record) for key, record in found.records.items()}
    )


def test_the_table_has_the_mean_of_each_source_beside_the_total(study: Study) -> None:
    [table] = sources.sections(study, weigh(study))
    assert [column.heading for column in table.columns] == [
        "architecture",
        "n",
        "total",
        "code (25.0%)",
        "web (75.0%)",
    ]
    finished = study.finished.groupby("num_hidden_layers").val_bpb.mean()
    for row, layers in zip(table.rows, (3, 5), strict=True):
        total, code, web = (float(cell.order) for cell in row[2:])
        assert row[0].text.startswith(f"{layers} layers")
        assert row[1].text == "2"
        assert total == pytest.approx(finished[layers])
        assert (code, web) == pytest.approx((total - 0.075, total + 0.025))


def test_it_lies_beside_the_page_in_every_form(study: Study) -> None:
    assert "<h2>By source</h2>" in html(study, Findings.of(study))
    files = sources.files(study, weigh(study))
    assert "code (25.0%)" in files["sources.md"]
    assert "tabular" in files["sources.tex"]
    rows = pd.read_csv(io.StringIO(files["sources.csv"]))
    assert set(rows.source) == {"total", *SHARES}
    assert len(rows) == 4 * 3


def test_a_study_of_one_source_has_no_such_table(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    folder.add(ladder((3,))[0], points=3)
    folder.write()
    study = read_study("depth_1m", tmp_path / "outputs")
    assert sources.files(study, weigh(study)) == {}


def test_what_it_is_worth_is_by_source(study: Study) -> None:
    """Passes are of the source that is read most; the error is that of a weighted mean."""
    record = next(iter(study.records.values()))
    worth = Worth.of(study.finished, record, "val_bpb")
    tokens = study.finished.tokens.max()
    assert (worth.source, worth.passes) == ("web", pytest.approx(0.75 * tokens / 1e6))
    assert worth.held_out == 2000
    variance = 0.25**2 / 1000 + 0.75**2 / 1000
    assert worth.held_out_error == pytest.approx(HELD_OUT_ERROR * math.sqrt(variance))
    assert "over the text of web, the source read most often" in worth.in_words()[-1]
