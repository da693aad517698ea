"""Who proposes architectures: a file for each sampler, and users' own (docs/doors/sampler.md)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from space.compat import without_experimental_warnings
from space.doors import (
    Chosen,
    Door,
    bare,
    is_pinned,
    place_of,
    require_arguments,
    require_plain_arguments,
    taking_options,
)

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.trial import Trial


class Sampler(Protocol):
    """Makes a sampler of Optuna's for each worker of a study."""

    exhaustive: bool = False
    """Whether the study tries every architecture in turn, without asking what this makes."""
    several: bool = True
    """Whether it proposes for several objectives."""
    one_sequence: bool = False
    """Whether all workers draw from one sequence and have one seed; else each has its own, so that
    they do not propose the same."""

    def make(self, seed: int, **options: Any) -> "BaseSampler":
        """The sampler of a worker, which has seen nothing yet: what the study has tried it reads
        from the study.

        Options are `sampler.options`; a TypeError says that one of them is not taken, a ValueError
        that its value is not.
        """
        ...


SAMPLERS = Door("sampler", __name__, Sampler, short=True)  # type: ignore[type-abstract]


@dataclass(frozen=True, kw_only=True)
class SamplerConfig(Chosen):
    """Who proposes architectures."""

    door: ClassVar[Door[Sampler]] = SAMPLERS
    name: str = "grid"
    """`grid` tries every architecture in turn; the others are Optuna's, or yours: `mine.py`."""

    @property
    def exhaustive(self) -> bool:
        """Whether every architecture is tried in turn."""
        return SAMPLERS.load(self.name).exhaustive


class OptunaSampler(Sampler):
    """One of Optuna's samplers."""

    kind: ClassVar[str]
    """Its class in `optuna.samplers`."""

    def make(self, seed: int, **options: Any) -> "BaseSampler":
        from optuna import samplers

        own, kind = f"Optuna's {self.kind}", getattr(samplers, self.kind)
        require_arguments("sampler", own, kind, options)
        with (
            taking_options("sampler.options", own, options, (TypeError, ValueError)),
            without_experimental_warnings(),
        ):
            require_plain_arguments("sampler.options", kind, options)
            return kind(seed=seed, **options)  # type: ignore[no-any-return]


def make_sampler(config: SamplerConfig, seed: int) -> "BaseSampler":
    """Optuna's sampler of a configuration.

    Raises:
        ValueError: an option that the sampler does not take, or what it makes is none of Optuna's.
    """
    from optuna.samplers import BaseSampler

    sampler, who = SAMPLERS.load(config.name), f"sampler={config.name}"
    require_arguments("sampler", who, sampler.make, config.options, ours=("seed",))
    with taking_options("sampler.options", who, config.options):
        made = sampler.make(seed, **config.options)
    if not isinstance(made, BaseSampler):
        raise ValueError(
            f"{who} must make one of Optuna's samplers, but made {made!r:.80}; return a BaseSampler"
        )
    return made


def require_proposal(
    config: SamplerConfig, seed: int, directions: Sequence[str], suggest: "Callable[[Trial], Any]"
) -> None:
    """Ask a sampler of the user's own for one architecture, in a study that is not kept.

    Raises:
        ValueError: it proposes what is none of the space, or something else goes wrong in it.
    """
    if not is_pinned(SAMPLERS.pinned(config.name)) or config.exhaustive:
        return
    import optuna

    ways = [optuna.study.StudyDirection[way.upper()] for way in directions]
    study = optuna.create_study(sampler=make_sampler(config, seed), directions=ways)
    try:
        suggest(study.ask())
    except Exception as error:
        raise ValueError(said_of_proposal(config, error)) from None


def said_of_proposal(config: SamplerConfig, error: Exception) -> str:
    """What went wrong where a sampler was asked for an architecture."""
    said = place_of(error) or f"{type(error).__name__}: {error}"
    return (
        f"sampler={bare(config.name)} must propose values that the axes of the space have, but "
        f"{' '.join(said.split())}"
    )


def worker_seed(config: SamplerConfig, seed: int, worker: int, trials: int) -> int:
    """The seed of a worker's sampler, at a start with so many trials there."""
    if SAMPLERS.load(config.name).one_sequence:
        return seed
    return ((seed + 1) * 1_000_003 + trials * 1009 + worker) % 2**32  # numpy takes no larger one
