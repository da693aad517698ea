"""The recipe of a run: all that is not architecture, data or seed."""

import math
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any

from search.carry import RULES
from search.train.optimizers import OPTIMIZERS
from search.train.parametrisations import PARAMETRISATIONS
from space.keys import without_defaults
from space.ranges import Count, NotNegative, Positive, Range, Share, number, settle_numbers

HALF = 0.5
DOORS = (OPTIMIZERS, PARAMETRISATIONS)
"""Whose things a recipe names, in fields of their names."""


@dataclass(frozen=True)
class Branch:
    """A decay that leaves the stable trunk after `start` steps and ends after `end`, as a run of
    that horizon would."""

    start: int
    end: int

    @property
    def steps(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All of a run that is not architecture, data or seed."""

    tokens: Count
    """Training tokens, rounded up to whole steps."""
    seq_len: Annotated[int, Range(2)] = 256
    """Tokens of a sequence, which attention sees: of one alone there is nothing to attend to."""
    batch_size: Count = 16
    """Sequences a step."""
    lr: Positive = 3e-3
    """Peak learning rate of the base shape; the parametrisation carries it to other shapes."""
    schedule: str = "wsd"
    """`wsd`: warmup, stable, decay (arXiv:2405.18392, decaying as 1 - sqrt); `cosine`."""
    warmup_fraction: Share = 0.1
    """Share of the steps in which the learning rate rises."""
    decay_fraction: Share = 0.2
    """Share of the steps spent decaying (`wsd`)."""
    final_lr_fraction: Share = 0.0
    """Learning rate at the end, as a share of the peak."""
    optimizer: str = "adamw"
    """A file of `search/train/optimizers/`, or one of your own: docs/doors/optimizer.md."""
    beta1: Share = 0.9
    """AdamW's two, also if another optimizer takes the matrices inside layers."""
    beta2: Share = 0.95
    """AdamW's, of the second moment."""
    eps: NotNegative = 1e-8
    """AdamW's, of the base shape."""
    weight_decay: NotNegative = 0.1
    """Decoupled; on matrices only."""
    grad_clip: Positive = 1.0
    """Largest global gradient norm."""
    parametrisation: str = "completep"
    """A file of `search/train/parametrisations/`, or one of your own:
    docs/doors/parametrisation.md."""
    base_hidden_size: Count = 96
    """Width of the base shape, for which rates and scales are given."""
    base_num_hidden_layers: Count = 1
    """Layers of the base shape."""
    init_std: Positive = 0.05
    """Initial standard deviation of the base shape's matrices."""
    residual_init: NotNegative = 0.0
    """Factor on it for `o_proj` and `down_proj`; 0 starts with closed residual branches."""
    embedding_std: NotNegative = 0.05
    """Initial standard deviation of the embedding."""
    embedding_lr_factor: NotNegative = 4.0
    """Learning rate of the embedding, as a multiple of `lr`: most of its rows see few gradients."""
    precision: str = "auto"
    """`bf16` (autocast, float32 weights), `fp32`, or `auto`: bf16 where the hardware multiplies it
    faster."""
    eval_tokens: Count = 131072
    """Size of the fixed validation slice."""
    z_loss: NotNegative = 0.0
    """Factor on the square of each position's log-sum-exp of logits, which is added to its loss and
    keeps logits from drifting (PaLM, arXiv:2204.02311, section 5: 1e-4)."""
    teacher: str = ""
    """Whose predictions are learned: a run by its key or folder, or the folder of an export; kept
    as `FOLDER@digest`. None by default."""
    distillation_weight: Share = 0.0
    """Of the distance to the teacher's predictions in the loss; the rest is the text's. 0 is half
    where there is a teacher."""
    distillation_temperature: Positive = 1.0
    """By which both models' logits are divided in that distance."""
    teacher_flops: Annotated[int, Range(0)] = 0
    """Forward FLOPs per token of the teacher; filled in."""
    evaluations: Count = 4
    """Points of the curve at which the slice is scored; only the last is a reading."""
    horizons: tuple[float, ...] = ()
    """Shares of the tokens, ascending, at which a decay branch from the stable trunk gives a
    reading besides the one at the end (`wsd` alone). Branches cost `branch_tokens` more."""
    reference_tokens: Annotated[int, Range(0)] = 0
    """For how many training tokens the rates were measured, which `rules` carry to those of the
    run; 0: they hold as they are. See `search.carry`."""
    reference_batch_tokens: Annotated[int, Range(0)] = 0
    """The same of the tokens of a step."""
    critical_batch_tokens: Annotated[int, Range(0)] = 0
    """Tokens of a step beyond which `lr_batch` raises the rate no further; 0: no limit."""
    rules: tuple[str, ...] = RULES
    """Those of `search.carry` that are followed where there is a reference."""

    def __post_init__(self) -> None:
        settle_numbers(self)  # 1 and 1.0 are the same rate
        self._settle_horizons()
        self._settle_rules()
        for name, choices in (
            ("schedule", ("wsd", "cosine")),
            ("precision", ("auto", "bf16", "fp32")),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"recipe.{name} must be one of {', '.join(choices)}, but got "
                    f"{getattr(self, name)!r}"
                )
        if self.warmup_fraction + self.decay_fraction > 1:
            raise ValueError(
                "warmup_fraction + decay_fraction must be at most 1, but got "
                f"{self.warmup_fraction} + {self.decay_fraction}"
            )
        for door in DOORS:
            object.__setattr__(self, door.name, door.pinned(getattr(self, door.name)))
        self._settle_teacher()
        self._check_horizons()

    def _settle_teacher(self) -> None:
        if not self.teacher:
            object.__setattr__(self, "teacher_flops", 0)  # of a teacher that an arm goes without
            if (self.distillation_weight, self.distillation_temperature) != (0.0, 1.0):
                raise ValueError(
                    "distillation_weight and distillation_temperature must come with a teacher, "
                    "but got none; set recipe.teacher=RUN, or leave them out"
                )
            return
        from search import teacher  # which imports this module

        object.__setattr__(self, "teacher", teacher.pinned(self.teacher))
        object.__setattr__(self, "distillation_weight", self.distillation_weight or HALF)
        if not self.teacher_flops:
            flops = teacher.forward_flops(self.teacher, self.seq_len)
            object.__setattr__(self, "teacher_flops", flops)

    def _settle_rules(self) -> None:
        if not isinstance(self.rules, list | tuple) or set(self.rules) - set(RULES):
            raise ValueError(
                f"recipe.rules must be a list of names among {', '.join(RULES)}, but got "
                f"{self.rules!r}"
            )
        referred = self.reference_tokens or self.reference_batch_tokens
        kept = tuple(rule for rule in RULES if rule in self.rules) if referred else RULES
        object.__setattr__(self, "rules", kept)
        if self.critical_batch_tokens and not self.reference_batch_tokens:
            raise ValueError(
                "recipe.critical_batch_tokens must come with the batch that the rate was measured "
                "at, but got none; set recipe.reference_batch_tokens"
            )

    def _settle_horizons(self) -> None:
        if not isinstance(self.horizons, list | tuple):
            raise ValueError(
                f"recipe.horizons must be a list of numbers, but got {self.horizons!r}"
            )
        horizons = tuple(number("a horizon", share, float) for share in self.horizons)
        object.__setattr__(self, "horizons", horizons)

    def _check_horizons(self) -> None:
        given = list(self.horizons)
        if not given:
            return
        if self.schedule != "wsd":
            raise ValueError(
                "recipe.horizons must branch off a stable learning rate, but got schedule="
                f"{self.schedule}; set recipe.schedule=wsd, or take horizons out"
            )
        if given != sorted(set(given)) or not (0 < given[0] and given[-1] < 1):
            raise ValueError(
                f"recipe.horizons must be ascending shares of the tokens in (0, 1), but got {given}"
            )
        ends = [branch.end for branch in self.branches]
        if len({*ends, self.steps}) <= len(ends) or self.decay_fraction * ends[0] < 1:
            raise ValueError(
                "recipe.horizons must lie a step apart and decay for one at least, but got "
                f"{given} of {self.steps} steps, with a decay_fraction of {self.decay_fraction:g}"
            )
        warmup = self.warmup_fraction * self.steps
        if self.branches[0].start < warmup:
            raise ValueError(
                f"recipe.horizons must begin to decay after the warmup of {warmup:g} steps, but "
                f"{given[0]} would after {self.branches[0].start}; leave it out, or lower "
                "warmup_fraction"
            )

    @property
    def branches(self) -> tuple[Branch, ...]:
        """The decay of each horizon, the end's not among them."""
        ends = [
            math.ceil(round(share * self.tokens / self.tokens_per_step, 9))
            for share in self.horizons
        ]
        return tuple(Branch(math.ceil(end - self.decay_fraction * end), end) for end in ends)

    @property
    def branch_tokens(self) -> int:
        """Tokens that the branches train on, besides those of the run."""
        return sum(branch.steps for branch in self.branches) * self.tokens_per_step

    @property
    def trained_tokens(self) -> int:
        """Tokens trained on in all, whole steps of the trunk and of its branches."""
        return self.steps * self.tokens_per_step + self.branch_tokens

    def tokens_until(self, horizon: int) -> int:
        """Tokens trained on when the reading at a horizon (0: the first) has been taken."""
        branches = self.branches[: horizon + 1]
        steps = branches[-1].start + sum(branch.steps for branch in branches)
        return steps * self.tokens_per_step

    def require_code(self) -> None:
        """Raises: ValueError where what it names is not there, or is pinned (`mine.py@…`, as a
        `run.yaml` has it) and has changed. A record's recipe is read without."""
        for door in DOORS:
            door.load(getattr(self, door.name), f"recipe.{door.name}")

    def require_step(self) -> None:
        """Raises: ValueError where its tokens are fewer than those of one step, which would be
        trained in their place. Records of runs that were so are read without."""
        if self.tokens < self.tokens_per_step:
            raise ValueError(
                f"recipe.tokens must be at least the {self.tokens_per_step:,} of one step "
                f"({self.batch_size} windows of {self.seq_len:,}), but got {self.tokens:,}; raise "
                "it, or lower recipe.batch_size or recipe.seq_len"
            )

    def to_dict(self) -> dict[str, Any]:
        """As JSON and YAML have it. Of the fields that were added since the first version, those at
        their default are left out."""
        values = without_defaults(asdict(self), DEFAULTS, KEYED)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    def canonical(self) -> dict[str, Any]:
        """What a run's key holds of it: files by what they contain, wherever they are."""
        values = self.to_dict()
        if values.pop("teacher_flops", 0):
            values["teacher"] = self.teacher.rpartition("@")[2]
        return values | {d.name: d.identity(values[d.name]) for d in DOORS if d.name in values}

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self.seq_len

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        return math.ceil(self.tokens / self.tokens_per_step)


DEFAULTS = {f.name: f.default for f in fields(Recipe)}
KEYED = (
    "tokens",
    "seq_len",
    "batch_size",
    "lr",
    "schedule",
    "warmup_fraction",
    "decay_fraction",
    "final_lr_fraction",
    "beta1",
    "beta2",
    "eps",
    "weight_decay",
    "grad_clip",
    "parametrisation",
    "base_hidden_size",
    "base_num_hidden_layers",
    "init_std",
    "residual_init",
    "embedding_std",
    "embedding_lr_factor",
    "precision",
    "eval_tokens",
    "evaluations",
)
"""Fields of the first version, which are in every key. Never add to them: see `space.keys`."""
