"""The options of `python -m ablations`. The values are in `conf/ablations.yaml`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablations.questions import PAPER, PROXY, standalone, table_stem
from ablations.stats.bracket import LrSearch
from ablations.stats.sequential import AUTO
from search.config import StudyConfig
from search.objectives import USUAL, Measure
from space.axes import SpaceConfig
from space.files import require_name
from space.ranges import AtLeast1, Range

SCALES = (PROXY, PAPER)
SEEDS = Range(1, 10_000)


@dataclass(kw_only=True)
class AblationConfig(StudyConfig):
    """What `conf/ablations.yaml` holds."""

    table: str | None = None
    scale: str = "proxy"
    budget: str | None = None
    seeds: Any = None
    """Whole number of at least 1, or `auto`: 4, and 6 or 10 of arms that are not resolved by them.
    Default: the table's."""
    looks: list[int] = field(default_factory=list)
    """Seeds of each arm at each look that the table had, this one last: `[4,6]`. Default: as they
    were counted."""
    called: str | None = None
    study: str | None = None
    """`table=confirm`: the search whose best candidates are run again. Of other tables, which are
    studies themselves, the name: `called` where that is not given."""
    top: AtLeast1 = 4
    space: SpaceConfig | None = None
    """Tables of trust: the space of the grid, instead of the table's."""
    equal: str | None = None
    """Adds panels whose arms are equal to their baseline in this, not in parameters: `flops`,
    `time` (by tokens), or what a budget counts (by shapes), such as `decode_ms@iphone_13`."""
    budgets: list[str] = field(default_factory=list)
    """`table=proxy_scale`: the proxies' and the target's, instead of the table's."""
    models: list[str] = field(default_factory=list)
    """`table=main_results`: keys of runs, folders or hub ids."""
    lr_search: LrSearch = field(default_factory=LrSearch)
    """How arms come to their learning rates."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.table is None:
            raise ValueError("table must name a table, but got none; table=help lists them")
        if self.table == "all" and (given := self.called or self.study) is not None:
            raise ValueError(
                "called and study must be left out at table=all, whose tables have folders of "
                f"their own, but got {given!r}; leave it out, or name one table"
            )
        if self.scale not in SCALES:
            raise ValueError(f"scale must be one of {', '.join(SCALES)}, but got {self.scale!r}")
        if self.budget is not None and self.budgets:
            raise ValueError(
                f"budget or budgets must be given, not both, but got {self.budget} and "
                f"{', '.join(self.budgets)}"
            )
        if self.seeds not in (None, AUTO):
            if type(self.seeds) is not int:
                raise ValueError(f"seeds must be a whole number or auto, but got {self.seeds!r}")
            SEEDS.require("seeds", self.seeds)
        if self.looks and self.seeds == AUTO:
            raise ValueError(
                f"looks must be left out with seeds=auto, which has its own, but got {self.looks}"
            )
        for option, name in (("called", self.called), ("study", self.study)):
            if name is not None:
                require_name(option, name)

    @property
    def table_name(self) -> str:
        """The table's folder under `outputs/tables`."""
        name = table_stem(str(self.table))
        if self.called is None and self.study is not None and standalone(str(self.table)):
            return f"{name}_{self.study}{self._measured}"
        return self.called or self.study or name + self._measured

    @property
    def _measured(self) -> str:
        """What a table's name says of an objective that is not the default."""
        if self.objectives[:1] in ([], [USUAL]):
            return ""
        return f"_{Measure.given(self.objectives[0], 'objectives').short}"

    @property
    def name(self) -> str:
        """Of the study: a search may have the table's."""
        return f"table_{self.table_name}"

    @property
    def folder(self) -> Path:
        """`outputs/tables/<table>`."""
        return Path(self.outputs) / "tables" / self.table_name
