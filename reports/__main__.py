"""`python -m reports study=NAME`: rebuild a study's page, figures and tables from its records.

`page=laws 'study=[A,B,C]'`: a law over studies of several budgets; `page=sharing_law`: what one
more execution of a shared block is worth. `serve`: all that is in `outputs`, on one local page.

The same records give the same bytes. Nothing here needs torch, so a report can be rebuilt on any
machine that the records were copied to. What reads and shows records is imported where it is used,
since `--help` and wrong options need none of it.
"""

import gc
import shlex
import sys

if __name__ == "__main__":  # pandas takes pyarrow where it is, for more memory and time than here
    sys.modules["pyarrow"] = None  # type: ignore[assignment]

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from space.app import verb
from space.cli import one_line_errors
from space.files import require_name, write_atomically
from space.near import hint
from space.overrides import Names, Place, spelt
from space.words import join

if TYPE_CHECKING:
    from reports.read.study import Study
    from reports.views.study import Findings

LAWS, SHARING_LAW = "laws", "sharing_law"
"""The pages of several studies."""
SERVE = "serve"
"""A command of its own, by this word before its options."""


@dataclass
class ReportsConfig:
    """What `conf/reports.yaml` holds."""

    table: str | None = None
    """Name of a table of `python -m ablations`, instead of a study."""
    cells: Place | None = None
    """Instead: a published `cells.csv` or `trials.csv`, whose arms are compared and printed."""
    baseline: str | None = None
    """The arm that those of `cells` are compared with. Default: that of the `table.csv` beside."""
    looks: list[int] = field(default_factory=list)
    """Of a table or cells: seeds of each arm at each look, this one last. Default: as counted; of
    cells one look."""
    study: Names = None
    """Name of the study: its folder under `outputs`. For a `page` a list of them."""
    page: str | None = None
    """`laws` or `sharing_law`: a page of several studies instead of one's."""
    besides: list[str] = field(default_factory=list)
    """`page=laws`: folders or archives of further records for the joint law, which may differ in
    tokens per parameter."""
    forecast: str | None = None
    """`page=laws`: a budget such as `8m`, whose forecast is written; or the file of one, which is
    held beside the runs of the study of its budget."""
    called: str | None = None
    """Name of the page's folder under `outputs/laws`. Default: the studies' names."""
    outputs: Place = "outputs"
    runs: Place | None = None
    """The folder of the runs. Default: as `study.json` says."""
    columns: list[str] | None = None
    """Columns of `table.md` and `table.tex`, by heading, in their order. Default: all; of LaTeX as
    many of a table as a column of a paper holds."""

    def __post_init__(self) -> None:
        if self.page not in (None, LAWS, SHARING_LAW):
            raise ValueError(
                f"page must be {LAWS} or {SHARING_LAW} or left out, but got {self.page!r}"
                f"{hint(self.page, (LAWS, SHARING_LAW))}"
            )
        if self.page is None and isinstance(self.study, list):
            raise ValueError(
                f"study must be one name, but got {self.study}; several need page=laws"
            )
        if self.table is not None and self.study is not None:
            raise ValueError(
                f"table or study must be given, not both, but got {self.table} and {self.study}"
            )
        if self.table is not None and self.page is not None:
            raise ValueError(
                f"table or page must be given, not both, but got {self.table} and {self.page}"
            )
        if (self.besides or self.forecast) and self.page != LAWS:
            raise ValueError(
                f"besides and forecast must go with page={LAWS}, but got "
                f"{self.forecast or self.besides} alone"
            )
        if self.cells is not None and [n for n in (self.table, self.study, self.page) if n]:
            raise ValueError(
                f"cells must be given without table, study and page, but got {self.cells} beside "
                f"{self.table or self.study or self.page}"
            )
        if self.looks and self.table is None and self.cells is None:
            raise ValueError(f"looks must go with a table or cells, but got {self.looks} alone")
        if self.baseline is not None and self.cells is None:
            raise ValueError(f"baseline must go with cells, but got {self.baseline!r} alone")
        if self.columns == []:
            raise ValueError("columns must name one or more, but got []; leave it out for all")
        if self.columns is not None and self.page is not None:
            raise ValueError(f"columns must go with a study or a table, but got page={self.page}")
        if self.called is not None:
            if self.page is None:
                raise ValueError(f"called must go with page=laws, but got {self.called!r} alone")
            require_name("called", self.called)


def main() -> None:
    """As other commands; `serve` shows what is there instead of making it."""
    if sys.argv[1:2] != [SERVE]:
        with one_line_errors():
            if (meant := hint("".join(sys.argv[1:2]), (SERVE,))) and "=" not in sys.argv[1]:
                raise ValueError(f"options must be NAME=VALUE, but got {sys.argv[1]!r}{meant}")
        make()
        return
    from reports.serve.__main__ import main as serve  # pages need no server

    del sys.argv[1]
    serve()


@verb("reports", ReportsConfig)
def make(config: ReportsConfig) -> None:
    """Read a study, weigh its evidence, write its pages, tables and figures."""
    if config.cells is not None:
        from reports.views import cells

        with one_line_errors():
            print(cells.judged(Path(config.cells), config.looks, config.baseline))
        return
    if config.table is not None:
        _remake_table(config, config.table)
        return
    if config.page is not None:
        made = _make_law if config.page == LAWS else _make_sharing_law
        (_score if str(config.forecast).endswith(".json") else made)(config)
        return
    _make_study(config)


def _make_study(config: ReportsConfig) -> None:
    from reports.read.study import read_study
    from reports.views.study import Findings
    from reports.weigh.answer import answer
    from reports.weigh.front import in_words

    with one_line_errors():
        name = None if config.study is None else str(config.study)
        study = read_study(name, config.outputs, config.runs)
    found = Findings.of(study)
    with one_line_errors():
        files = render(study, found, config.columns)
        columns = _columns_in_words(study.folder, config.columns)
    with one_line_errors():
        for name, content in files.items():
            write_atomically(study.folder / name, content)
    print(" ".join([*found.opening, *answer(study, found.evidence)]))
    if found.front is not None:
        print(" ".join(in_words(found.front)))
    if found.confirmed is not None:
        print(found.confirmed.words)
    if found.trust_known:
        print(f"Trust in the proxy: {found.trust}")
    print(f"report: {study.folder / 'report.html'}")
    print(*columns, sep="\n", end="\n" if columns else "")


def _make_law(config: ReportsConfig) -> None:
    from reports.views import laws
    from reports.views.law_words import headline, hedges, opening
    from reports.weigh.forecast import forecast_files, require_unwritten
    from reports.weigh.law import read_law

    names = config.study if isinstance(config.study, list) else [config.study]
    with one_line_errors():
        given = [str(name) for name in names if name is not None]
        law = read_law(given, config.outputs, config.runs, config.besides)
        written = forecast_files(law, config.forecast)
        folder = Path(config.outputs) / LAWS / (config.called or law.name)
        require_unwritten(folder, written)
        folder.mkdir(parents=True, exist_ok=True)
        said = laws.forecasts_in_words(law, written)
        _write(folder, laws.render(law, said) | written)
    print("\n".join([*opening(law), headline(law), *hedges(law)]))
    for name, text in zip(written, said, strict=True):
        print(f"{text}: {folder / name}")
    print(f"report: {folder / 'report.html'}")


def found_forecast(path: Path, laws: Path) -> Path:
    """The file of a forecast, which may be given by its name alone where one law has it."""
    if path.is_file() or path.name != str(path):
        return path
    found = sorted(laws.glob(f"*/{path}"))
    if len(found) > 1:
        raise ValueError(
            f"forecast must be one file, but {join([str(each) for each in found])} have this name; "
            "give one with its folder"
        )
    return found[0] if found else path


def _score(config: ReportsConfig) -> None:
    """A forecast beside the runs of its budget."""
    from reports.read.study import read_study
    from reports.show.tables import csv_text
    from reports.views import joint_law
    from reports.weigh.forecast import read_forecast
    from reports.weigh.joint_runs import cells

    names = config.study if isinstance(config.study, list) else [config.study]
    with one_line_errors():
        path = found_forecast(Path(str(config.forecast)), Path(config.outputs) / LAWS)
        said = read_forecast(path)
        given = [str(name) for name in names if name is not None]
        studies = [read_study(name, config.outputs, config.runs) for name in given]
        mine = [study for study in studies if study.facts["budget"] == said["budget"]]
        if not mine:
            raise ValueError(
                f"study must name one on {said['budget']['value']:,} {said['budget']['kind']}, the "
                f"forecast's budget, but got {', '.join(given) or 'none'}"
            )
        text, rows = joint_law.beside_what_came(said, cells(mine[:1]))
        folder = Path(config.outputs) / LAWS / (config.called or mine[0].name)
        folder.mkdir(parents=True, exist_ok=True)
        files = {"md": text, "csv": csv_text(rows)}
        _write(folder, {f"{path.stem}.{form}": body.encode() for form, body in files.items()})
    print(text)
    print(f"forecast beside what came: {folder / path.stem}.md")


def _make_sharing_law(config: ReportsConfig) -> None:
    from reports.views import sharing_law
    from reports.weigh.sharing import read_sharing

    names = config.study if isinstance(config.study, list) else [config.study]
    with one_line_errors():
        given = [str(name) for name in names if name is not None]
        law = read_sharing(given, config.outputs, config.runs)
        name = config.called or "_".join(study.name for study in law.studies)
        folder = Path(config.outputs) / LAWS / f"sharing_{name}"
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder, sharing_law.render(law))
    said = [*sharing_law.opening(law), sharing_law.headline(law), *sharing_law.hedges(law)]
    print("\n".join(said))
    print(f"report: {folder / 'report.html'}")


def _remake_table(config: ReportsConfig, name: str) -> None:
    from reports.views import view_of
    from reports.weigh.table import read_table

    with one_line_errors():
        report = read_table(name, config.outputs, config.runs, config.looks)
        if config.columns is not None and not report.panels:
            raise ValueError(f"columns must go with a table of arms, but {name} has none")
        report = replace(report, columns=config.columns)
        shown = view_of(report.question).show(report)
        columns = _columns_in_words(report.folder, config.columns)
        report.folder.mkdir(parents=True, exist_ok=True)
        _write(report.folder, shown.files)
    print("\n".join([*shown.lines, *columns]))


def _columns_in_words(folder: Path, columns: list[str] | None) -> list[str]:
    """Where the chosen columns are; without any, that those which were chosen before are no longer
    the only ones."""
    from reports.show.about import chosen_before

    both = f"{folder / 'table.md'} and {folder / 'table.tex'}"
    if columns is not None:
        return [f"with these columns: {both}"]
    if not (before := chosen_before(folder / "table.tex")):
        return []
    asked = ",".join(spelt(name) for name in before.split(", "))
    option = shlex.quote(f"columns=[{asked}]")
    return [f"with all columns again: {both}; {option} gives those that they had"]


def _write(folder: Path, files: dict[str, bytes]) -> None:
    for file, content in files.items():
        write_atomically(folder / file, content)


def render(
    study: "Study", found: "Findings | None" = None, columns: list[str] | None = None
) -> dict[str, bytes]:
    """The files of a report by name; `columns` are those of its tables for Markdown and LaTeX."""
    from reports.views import depth_print, front, measured, scores, sources, trials
    from reports.views.study import Findings, html
    from reports.weigh.measured import of_study as measured_of
    from reports.weigh.scores import of_study

    found = found or Findings.of(study)
    evidence = found.evidence
    encoded = {
        "report.html": html(study, found).encode(),
        "trials.csv": trials.trials_csv(study).encode(),
        "table.md": trials.document(study, evidence, columns).encode(),
        "table.tex": trials.latex(study, evidence, columns).encode(),
    }
    texts = {
        **scores.files({"": of_study(study, evidence)}),
        **measured.files({"": measured_of(study, evidence)}),
        **sources.files(study, evidence),
    }
    encoded |= {name: text.encode() for name, text in texts.items()}
    encoded |= front.files(study, found.front) if found.front else {}
    return encoded | depth_print.printed(study, evidence)


if __name__ == "__main__":
    gc.disable()  # a fifth of the time over many records; the process ends with the page
    main()
