"""Why nothing on a budget keeps to constraints on shapes: which, what comes nearest, what to do."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from space.arch import Architecture
from space.budget import COARSE_DEVIATION, Budget, shapes, with_shape
from space.constraints import Constraints, written
from space.words import count


@dataclass(frozen=True)
class Near:
    """An architecture on the budget, and how far it is from what its constraints allow."""

    architecture: Architecture
    unmet: tuple[str, ...]
    """Names of fields."""
    distance: float
    """Sum of ratios, as logarithms."""


def _distance(near: Near) -> float:
    return near.distance


@dataclass(frozen=True)
class Wanted:
    """What a space asks for."""

    points: Sequence[Mapping[str, Any]]
    """What the solver is given for each combination of the axes' values."""
    budget: Budget
    ffn_tolerance: float
    constraints: Constraints

    def why(self) -> str | None:
        """Which constraint nothing meets, and the nearest that meets all others; where no single
        one is the reason, the nearest of all. None where the budget alone is the reason."""
        single = [near for name in self.constraints if (near := self._nearest((name,)))]
        near = min(single, key=_distance) if single else self._nearest((*self.constraints,))
        return None if near is None else self._said(near)

    def _nearest(self, left_out: Sequence[str]) -> Near | None:
        """The architecture nearest to constraints that are left out while it is sought."""
        return min(self._near(left_out), key=_distance, default=None)

    def _near(self, left_out: Sequence[str]) -> Iterator[Near]:
        """The nearest of each point."""
        others = {n: allowed for n, allowed in self.constraints.items() if n not in left_out}
        for point in self.points:
            found = shapes(point, self.budget, self.ffn_tolerance, others)
            architectures = (with_shape(point, shape) for shape in found)
            near = (self._measured(architecture) for architecture in architectures)
            if best := min(near, key=_distance, default=None):
                yield best

    def _measured(self, architecture: Architecture) -> Near:
        values = {name: getattr(architecture, name) for name in self.constraints}
        unmet = tuple(name for name, value in values.items() if value not in self.constraints[name])
        distances = (self.constraints[name].distance(values[name]) for name in unmet)
        return Near(architecture, unmet, sum(distances))

    def _said(self, near: Near) -> str:
        names = near.unmet or ("intermediate_size",)  # whose mean is allowed, and not each width
        asked = written({name: self.constraints[name] for name in names})
        has = ", ".join(f"{name}={getattr(near.architecture, name)}" for name in names)
        arch = near.architecture
        return (
            f"an architecture on {self.budget} must keep to {asked}, but none does; nearest is "
            f"{has} ({count(arch.num_layers, 'layer')} × {arch.hidden_size} wide, FFN "
            f"{arch.intermediate_size}{self._coarse(near)}); {self._advice(near, names)}"
        )

    def _coarse(self, near: Near) -> str:
        """By how much the budget would be missed for a multiple of the FFN width."""
        allowed, arch = self.constraints.get("intermediate_size"), near.architecture
        if near.unmet != ("intermediate_size",) or allowed is None or allowed.multiple == 1:
            return ""
        ffn = allowed.nearest(arch.intermediate_size) or arch.intermediate_size
        off = self.budget.deviation(
            with_shape(arch.to_dict(), arch.shape._replace(intermediate_size=ffn))
        )
        return (
            f"; {ffn} would miss the budget by {off:+.2%}, and {COARSE_DEVIATION:.0%} is the most"
        )

    def _advice(self, near: Near, names: Sequence[str]) -> str:
        looser = {
            name: self.constraints[name].loosened(getattr(near.architecture, name))
            for name in names
        }
        kept = {name: texts for name, texts in looser.items() if texts and name in near.unmet}
        left_out = [name for name in names if name not in kept]
        wording = ", ".join(
            f'{name}: "{texts[0]}"' if len(texts) == 1 else f"{name}: {texts}"
            for name, texts in kept.items()
        )
        steps = [f"write {{{wording}}}"] if kept else []
        steps += [f"leave out {' and '.join(left_out)}"] if left_out else []
        return f"{' and '.join(steps)}, or change the axes, ffn_tolerance or the budget"
