"""FFNs that grow or shrink with depth, as in OpenELM (arXiv:2404.14619, section 2.1).

OpenELM gives FFN block i of n the width (a + (b - a) · i / (n - 1)) · hidden_size. Here the line is
drawn relative to `intermediate_size`, the mean of all blocks, which every block has at 1..1. Blocks
that mirror each other about the middle are made to add up to twice the mean, so that weights and,
where no block is repeated, FLOPs equal those of the uniform architecture exactly: what a comparison
of the two finds is the distribution alone, and the budget is closed as ever.
"""

import re
from typing import TYPE_CHECKING, Any

from space.parts import Field, Part

if TYPE_CHECKING:
    from space.arch import Architecture

COARSEST = 8
"""Widths are multiples of the largest power of two that divides `intermediate_size`, up to this."""
_RATIOS = re.compile(r"\s*([\d.]+)\s*\.\.\s*([\d.]*\d)\s*")


def _parse(given: Any) -> str:
    """`0.5..1.5`, or the two numbers in a list."""
    text = "..".join(map(str, given)) if isinstance(given, list | tuple) else str(given)
    wanted = "must be the ratios of the first and the last FFN block to the mean, such as 0.5..1.5"
    match = _RATIOS.fullmatch(text)
    try:
        first, last = map(float, match.groups()) if match else (0.0, 0.0)
    except ValueError:
        first, last = 0.0, 0.0
    if not (first > 0 and last > 0):
        raise ValueError(f"{wanted}, but got {given!r}")
    if abs(first + last - 2) > 1e-6:
        mean = (first + last) / 2
        raise ValueError(
            f"{wanted}, and the mean of both 1, but got {given!r}; write "
            f"{first / mean:.7g}..{2 - float(f'{first / mean:.7g}'):.7g}"
        )
    return f"{first:.7g}..{last:.7g}"


def _ratios(text: str) -> tuple[float, float]:
    first, last = map(float, text.split(".."))
    return first, last


class FfnScaling(Part):
    """FFN widths along a line."""

    fields = (
        Field(
            name="ffn_scaling",
            default="1..1",
            parse=_parse,
            meaning="width of the first and the last FFN block, as ratios of the mean",
        ),
    )
    engines = frozenset({"kernels"})
    examples = ({"ffn_scaling": "0.5..1.5"}, {"ffn_scaling": [1.75, 0.25]})

    def canonical(self, arch: "Architecture") -> dict[str, Any]:
        """Nothing where all blocks have one width."""
        uniform = set(arch.ffn_widths) == {arch.intermediate_size}
        return {} if uniform else {"ffn_scaling": arch.value("ffn_scaling")}

    def ffn_width(self, arch: "Architecture", block: int) -> int:
        """On the line, rounded; beyond the middle what mirrors it leaves of twice the mean."""
        mean, blocks = arch.intermediate_size, arch.num_ffn_blocks
        mirror = blocks - 1 - block
        if block == mirror:
            return mean
        if block > mirror:
            return 2 * mean - self.ffn_width(arch, mirror)
        first, last = _ratios(str(arch.value("ffn_scaling")))
        step = min(mean & -mean, COARSEST)
        exact = mean * (first + (last - first) * block / (blocks - 1))
        return min(max(round(exact / step), 1) * step, 2 * mean - step)


PART = FfnScaling()
