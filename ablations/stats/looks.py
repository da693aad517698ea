"""How often a table was looked at, and the level at which it stands for that.

A table of a fixed number of seeds that is read once stands at 95%. Seeds that are added after it
was read give another look, and with each look another chance of a false verdict. So the 5% are
spent over the looks, by the function that `ablations.stats.sequential` spends them by: that of Lan
and DeMets, Biometrika 70:659 (1983), of the kind of O'Brien and Fleming, with a look's share of ten
seeds, or of the largest look where that has more, as its information. The levels follow from the
joint distribution of the looks' normal statistics, which are sums of independent increments
(Armitage, McPherson and Rowe, JRSS A 132:235, 1969).

The first look was read at 95% before anybody knew that there would be another. What that costs is
simulated: `ablations.stats.calibration.extended`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.polynomial.legendre import leggauss
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from ablations.stats.block import LEVEL
from ablations.stats.dunnett import Array
from ablations.stats.sequential import LOOKS
from space.seals import whole_json
from space.words import count, join

FILE = "looks.json"
"""Beside what a table measured that trains nothing: by study its looks, `seeds keys counted`."""
NODES = leggauss(200)
"""Of the integrals over the looks' statistics."""


@lru_cache(maxsize=64)
def levels(looks: tuple[int, ...]) -> tuple[float, ...]:
    """The two-sided level that each of several looks compares at; of a single one all 5%.

    `looks` are numbers of seeds, ascending. Looks at 4, 6 and 10 have those of `seeds=auto`.
    """
    if len(looks) == 1:
        return (1 - LEVEL,)
    time = np.array(looks) / max(LOOKS[-1], looks[-1])
    spent = 4 * ndtr(ndtri((1 - LEVEL) / 4) / np.sqrt(time))
    found, at, density = [], np.zeros(1), np.ones(1)
    for step, variance, share in zip(
        np.sqrt(np.diff(time, prepend=0)), time, np.diff(spent, prepend=0), strict=True
    ):
        bound = _bound(at, density, step, share)
        found.append(float(2 * ndtr(-bound / np.sqrt(variance))))
        points = bound * NODES[0]
        kernel = np.exp(-(((points[:, None] - at) / step) ** 2) / 2) / (step * np.sqrt(2 * np.pi))
        at, density = points, bound * NODES[1] * (kernel @ density)
    return tuple(found)


def in_percent(level: float) -> str:
    """A confidence level: 95%, 99.92%; never 100%."""
    texts = (f"{100 * level:.{digits}g}" for digits in range(4, 16))
    return f"{next((text for text in texts if text != '100'), '100')}%"


def _bound(at: Array, density: Array, step: float, share: float) -> float:
    """Beyond which a sum that was `at` these points, and grows by normal steps, lies with the
    chance `share`."""

    def beyond(bound: float) -> float:
        out = ndtr((at - bound) / step) + ndtr((-at - bound) / step)
        return float(density @ out) - share

    return float(brentq(beyond, 0.0, 50.0, xtol=1e-12))


@dataclass(frozen=True)
class Looks:
    """The looks that a table had."""

    seeds: tuple[int, ...]
    """Seeds of each arm at each of them, ascending."""
    now: int
    """Those of this one."""
    counted: bool = True
    """Whether there were no others: tables were made before looks were counted."""

    @classmethod
    def of(cls, seeds: Iterable[int], now: int, counted: bool = True) -> Self:
        """Of numbers of seeds in any order; the same number twice is one look."""
        return cls(tuple(sorted({*seeds, now})), now, counted)

    @classmethod
    def read(cls, table: Mapping[str, Any]) -> Self | None:
        """Those that `study.json` says of a table; None where it says none."""
        said = table.get("looks")
        return said and cls.of(said["seeds"], said["now"], said["counted"])

    @classmethod
    def given(cls, seeds: list[int], now: int) -> Self:
        """Those that a reader states.

        Raises:
            ValueError: no numbers of seeds from few to many, or the last is not that of this table.
        """
        if seeds != sorted(set(seeds)) or seeds[0] < 1 or seeds[-1] != now:
            raise ValueError(
                "looks must list the seeds of each arm at each look, from few to many and ending "
                f"with the {now} of this table, but got {seeds}; give looks=[…,{now}]"
            )
        return cls.of(seeds, now)

    def to_dict(self) -> dict[str, Any]:
        return {"seeds": list(self.seeds), "now": self.now, "counted": self.counted}

    @property
    def level(self) -> float:
        """The confidence level of this look's intervals."""
        return 1 - levels(self.seeds)[self.seeds.index(self.now)]

    @property
    def words(self) -> str:
        """How many, and what they stand at."""
        at = in_percent(self.level)
        if not self.counted:
            known = f"at least {len(self.seeds)}, at {join([str(n) for n in self.seeds])} seeds"
            return f"{known}; earlier ones were not counted; intervals at the level of {at}"
        if len(self.seeds) == 1:
            return f"1, at {count(self.now, 'seed')}; intervals at the level of {at}"
        return (
            f"{len(self.seeds)}, at {join([str(n) for n in self.seeds])} seeds; intervals at the "
            f"level of {at}, that of the look at {self.now} with 5% spent over all"
        )


def auto_words(looks: Looks) -> str:
    """The same of `seeds=auto`."""
    own = [n for n in LOOKS if n in looks.seeds] or [LOOKS[0]]
    others = [str(n) for n in looks.seeds if n not in LOOKS]
    at = join([in_percent(1 - alpha) for alpha in levels(LOOKS)[: len(own)]])
    besides = f"; read at {join(others)} seeds besides, which is not counted" if others else ""
    return (
        f"{len(own)}, at {join([str(n) for n in own])} seeds as seeds=auto asks; intervals at the "
        f"level of {at}, with 5% spent over all{besides}"
    )


def noted_looks(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """What `ablations.measured` has noted in the folder of a table that trains nothing.

    Raises:
        ValueError: the file is damaged.
    """
    path, remedy = folder / FILE, "remove it, and state looks=[…]"
    return dict(whole_json(path, "looks of a table", remedy)) if path.is_file() else {}


def read_looks(folder: Path) -> dict[str, Looks]:
    """The looks of each study that was measured, at its last. Raises as `noted_looks`."""
    return {
        study: Looks.of((look["seeds"] for look in noted), noted[-1]["seeds"], all_counted(noted))
        for study, noted in noted_looks(folder).items()
    }


def all_counted(noted: Sequence[Mapping[str, Any]]) -> bool:
    return all(look["counted"] for look in noted)
