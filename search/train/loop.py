"""The one training loop.

CPU, one GPU, or several ranks that share each batch (`search.train.ranks`, or `torchrun`): the same
code. Step i of a run is a pure function of the run and the state before it, and a checkpoint holds
that state; a run killed at any instant and resumed therefore gives, on CPU, losses bit-identical to
those of one that was never killed.
"""

# B sequences in a micro-batch, T positions

import json
import math
import os
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from math import isfinite
from pathlib import Path
from typing import Any, TextIO, TypeVar

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from search.carry import carried
from search.data.packed import (
    Data,
    batch,
    losses_of,
    text_and_weights,
    validation_spans,
    validation_windows,
)
from search.record import Reading, Record, Run
from search.runs import (
    CURVE,
    WEIGHTS,
    digests,
    disk_error,
    usable_record,
    write_record,
    write_run,
    write_windows,
)
from search.states import Status
from search.train import checkpoint
from search.train.agree import Heard, Parted, Said, add_up, joined, sent, together
from search.train.engines import engine_of
from search.train.engines.weights import Weights
from search.train.optimizers import OPTIMIZERS
from search.train.parametrise import initialise, lr_factor, parameter_groups
from search.train.placement import Placement, rank, settle, world
from search.train.provenance import device_name, versions
from space.commit import commit
from space.compat import keep_compiler_out
from space.doors import Changed, place_of
from space.files import Fence, file_atomically, nothing, write_atomically
from space.model import Attention, Decoder
from space.seals import set_aside

Progress = Callable[[dict[str, Any]], None]
Listener = Callable[[Reading], None]
Saved = Callable[[int], None]
"""Takes the number of tokens, branches included, of a checkpoint that is on the disk."""
Event = TypeVar("Event")
Tokens = np.ndarray[Any, np.dtype[np.int64]]

CHECKPOINT_S, CHECKPOINT_SHARE = 20.0, 0.01
"""Seconds between checkpoints, or more where one would hold training up for over this share of
them."""
CURVE_POINTS = 200
"""Training lines of `metrics.jsonl`, whatever the length of the run."""


class Stop(Exception):
    """Raised by a callback to stop a run, which leaves a checkpoint and passes it on."""


class Diverged(Exception):
    """The loss or the gradient is no longer finite. Caught by `train`, which records it."""


def train(
    run: Run,
    data: Data,
    folder: Path,
    *,
    placement: Placement,
    progress: Progress | None = None,
    listener: Listener | None = None,
    fence: Fence = nothing,
    saved: Saved | None = None,
) -> Record:
    """The record of a run: the one in its folder, or that of training it, going on from its
    checkpoint.

    `progress` hears of every step, `listener` of the reading at each of the recipe's horizons, back
    on the trunk; first of those that the checkpoint has. Out of memory, it goes on from its
    checkpoint, without a CUDA graph if it had one, else with half the micro-batch. Divergence, lack
    of memory for one sequence and crashes of the run itself are recorded with their reason. What
    `progress` or `listener` raises, `Stop` or another, is no outcome of the run: it is passed on,
    once a checkpoint is written. `fence` is asked before any file takes its place, and raises
    `Stop` where the run is no longer this one's. `saved` is called after each checkpoint. A thread
    writes checkpoints, and so calls `saved` and `fence`; what they raise is raised at the next
    step.

    Raises:
        OSError: the disk is full or cannot be written; the last checkpoint stays.
        Changed: the source of the optimiser or of the parametrisation has; the checkpoint stays.
    """
    with joined(placement):
        return _train(run, data, folder, placement, progress, listener, fence, saved)


def _train(
    run: Run,
    data: Data,
    folder: Path,
    placement: Placement,
    progress: Progress | None,
    listener: Listener | None,
    fence: Fence,
    saved: Saved | None,
) -> Record:
    """See `train`. Of several ranks the first alone writes; what one raises ends all."""
    existing = usable_record(folder) if rank() == 0 else None
    done = sent(lambda: existing.to_dict() if existing is not None and existing.final else None)
    if done is not None:
        return existing or Record.from_dict(done)
    folder.mkdir(parents=True, exist_ok=True)
    if rank() == 0:
        checkpoint.take_over(folder)
    if torch.cuda.is_available() and placement.device != "cpu" and placement.sharing > 1:
        torch.cuda.set_per_process_memory_fraction(1 / placement.sharing)
    record = Record(
        run=run, status=Status.FAILED, started=datetime.now(UTC).isoformat(timespec="seconds")
    )
    training, smaller = None, None
    try:
        with together(lambda error: _word(error, training)):
            training = Training(run, data, folder, placement, progress, listener, fence, saved)
            training.to_the_end()
        record = replace(record, status=Status.FINISHED)
    except Diverged as reason:
        record = replace(record, status=Status.DIVERGED, reason=str(reason))
    except Exception as error:
        if isinstance(error, Heard) and error.said == Said.STOPPED:
            raise Stop from error
        if _is_passed_on(error, training):
            raise
        if (disk := disk_error(error)) is not None:
            raise disk from error
        if training is not None and _is_memory(error):
            smaller = training.placement.smaller
        if smaller is None and rank() == 0:
            trace = error.trace if isinstance(error, Heard) else traceback.format_exc()
            write_atomically(folder / "error.txt", trace, fence)
        record = replace(record, reason=_reason(error))
    if training is not None and smaller is not None:
        if rank() == 0:
            before = training.placement
            how = "without a CUDA graph" if before.cuda_graph == "yes" else "with half"
            print(
                f"run {run.key}: no memory for {before.micro_batch} sequences at once; it goes on "
                f"{how}"
            )
        del training  # and what it holds
        torch.cuda.empty_cache()
        return _train(run, data, folder, smaller, progress, listener, fence, saved)
    if training is not None:
        record = replace(record, **training.outcome())
    if record.final and rank() == 0:
        record = replace(record, files=digests(folder))
    record = replace(record, data=data.describe(), commit=commit(), versions=versions())
    if rank() == 0:
        write_record(folder, record, fence)
        if record.final:
            checkpoint.remove(folder)
    return record


@dataclass
class Taken:
    """A step, whose numbers are where it was computed: to read them is to wait for it."""

    step: int
    loss: Tensor
    """Nats per token."""
    norm: Tensor
    """Of the gradient."""


@dataclass
class State:
    """What goes from one step to the next, besides weights and optimiser."""

    step: int = 0
    train_s: float = 0.0
    eval_s: float = 0.0
    compile_s: float = 0.0
    branch_s: float = 0.0
    trunk_step: int | None = None
    """In a branch, the step at which it left the trunk."""
    metrics_bytes: int = 0
    """Length of the curve at the checkpoint; what a crash left behind it is cut off."""
    readings: list[dict[str, Any]] = field(default_factory=list)


class Training:
    """One run in progress."""

    def __init__(
        self,
        run: Run,
        data: Data,
        folder: Path,
        placement: Placement,
        progress: Progress | None = None,
        listener: Listener | None = None,
        fence: Fence = nothing,
        when_saved: Saved | None = None,
    ) -> None:
        self.fence, self.when_saved = fence, when_saved or _ignore
        self.run, self.recipe, self.data, self.folder = run, run.recipe, data, folder
        self.progress, self.listener = progress or _ignore, listener or _ignore
        self.branches = run.recipe.branches
        if placement.gpus_per_run > world():
            raise ValueError(
                "placement.gpus_per_run must be 1 where one process trains, but got "
                f"{placement.gpus_per_run}; leave it out"
            )
        saved = sent(lambda: checkpoint.load(folder, run.key))
        pinned = placement.pinned_by(saved["placement"]) if saved else placement
        self.placement = sent(lambda: settle(pinned, run))
        assert self.placement.threads is not None, "settled"
        torch.set_num_threads(self.placement.threads)
        self.model = _build(run, self.placement)
        self.weights = Weights(self.model)
        self.engine = engine_of(self.model, self.weights, self.placement, run.recipe)
        rates = carried(run.recipe)
        groups = parameter_groups(self.model, rates)
        if self.placement.compile != "yes":
            keep_compiler_out()
        self.optimizer = OPTIMIZERS.load(rates.optimizer).build(groups, rates)
        self.lr = rates.lr
        self.called_back: Exception | None = None
        """What a callback raised."""
        self.ahead: tuple[Tensor, Tensor] | None = None
        """The next step's batch, where it was fetched ahead of time."""
        self.waits = self.placement.device == "cuda"
        """Whether reading a number of the step just taken would leave the device without work."""
        self.writer = checkpoint.Writer(folder, run.key, fence)
        self.snapshot_s = 0.0
        """What that of the last checkpoint took."""
        self.unread: Taken | None = None
        self.loss = self.norm = math.nan
        """Of the last step that was read."""
        self.state = State()
        if saved:
            self._restore(saved)
            self.state = State(**saved["state"])
            self._mend_curve(saved.get("curve"))
        self.first_step = True
        self.validation = validation_windows(data, run.recipe.seq_len, run.recipe.eval_tokens)
        self.spans = validation_spans(data, run.recipe.seq_len, run.recipe.eval_tokens)

    def to_the_end(self) -> None:
        """Train what is left, then write the weights."""
        if rank() == 0:
            write_run(self.folder, self.run, self.fence)
        with self._open_metrics() as metrics, self.writer:
            self._loop(metrics)
        if rank() == 0:
            weights = {n: p.detach().cpu().clone() for n, p in self.model.named_parameters()}
            with file_atomically(self.folder / WEIGHTS, fence=self.fence) as part:
                save_file(weights, part)

    def outcome(self) -> dict[str, Any]:
        """The fields of the record that the run itself decides."""
        state = self.state
        trained_s = max(state.train_s - state.compile_s, 1e-9)
        trunk_step = state.step if state.trunk_step is None else state.trunk_step
        return {
            "readings": tuple(Reading.from_dict(r) for r in state.readings),
            "train_s": state.train_s,
            "eval_s": state.eval_s,
            "compile_s": state.compile_s,
            "branch_s": state.branch_s,
            "tokens_per_s": trunk_step * self.recipe.tokens_per_step / trained_s,
            "device": {**asdict(self.placement), "name": device_name(self.placement.device)},
        }

    @property
    def in_branch(self) -> bool:
        return self.state.trunk_step is not None

    @property
    def end(self) -> int:
        """The step at which the learning rate has decayed."""
        return self.branches[len(self.state.readings)].end if self.in_branch else self.recipe.steps

    def _loop(self, metrics: TextIO) -> None:
        recipe, state = self.recipe, self.state
        checkpointed = time.monotonic()
        for reading in state.readings[: len(self.branches)]:
            self._call(self.listener, Reading.from_dict(reading), metrics)
        while state.step < recipe.steps:
            self.writer.check()
            if self._branch_starts():
                self._branch_off(metrics)
            loss, norm, lr = self.timed_step()
            decayed = state.step == self.end
            if decayed or state.step % self.log_every == 0:
                self._log(metrics, train_loss=loss, lr=lr, grad_norm=norm)
            if decayed or (state.step in self.evaluate_at and not self.in_branch):
                self._evaluate(metrics, reading=decayed)
            if decayed and self.in_branch:
                self._return_to_trunk(metrics)
                self._call(self.listener, Reading.from_dict(state.readings[-1]), metrics)
            self._call(self.progress, self._standing(loss), metrics)
            if time.monotonic() - checkpointed > self.interval_s:
                self._begin_checkpoint(metrics)
                checkpointed = time.monotonic()

    def _call(self, callback: Callable[[Event], None], event: Event, metrics: TextIO) -> None:
        try:
            callback(event)
        except Exception as error:
            self.called_back = error
            self._checkpoint(metrics)
            raise

    def _branch_starts(self) -> bool:
        """Whether the next branch leaves the trunk here."""
        following = self.branches[len(self.state.readings) :]
        return bool(following) and not self.in_branch and following[0].start == self.state.step

    def _branch_off(self, metrics: TextIO) -> None:
        """Leave the trunk, whose checkpoint stays until the branch returns to it."""
        started = time.perf_counter()
        self._checkpoint(metrics)
        self.state.trunk_step = self.state.step
        self._spend("branch_s", started)

    def _return_to_trunk(self, metrics: TextIO) -> None:
        """Take up weights and optimiser where the branch left them, with its reading in hand."""
        started = time.perf_counter()
        if (trunk := sent(lambda: checkpoint.load_trunk(self.folder, self.run.key))) is None:
            raise RuntimeError("the checkpoint that the branch left is damaged")
        self._restore(trunk)
        assert self.state.trunk_step is not None, "a branch ends here"
        self.state.step, self.state.trunk_step = self.state.trunk_step, None
        self._spend("branch_s", started)
        self._checkpoint(metrics)

    def _spend(self, account: str, started: float) -> float:
        """Seconds since `started`, put on an account of the state."""
        seconds = time.perf_counter() - started
        account = "branch_s" if self.in_branch else account
        setattr(self.state, account, getattr(self.state, account) + seconds)
        return seconds

    @property
    def interval_s(self) -> float:
        """Seconds between checkpoints. By default none begins while one is being written; where
        that was asked for, it waits."""
        if (given := self.placement.checkpoint_s) is not None:
            return given
        held_up_s = self.snapshot_s
        if self.placement.device == "cpu":  # the thread takes its core from training
            held_up_s += self.writer.cpu_s
        return math.inf if self.writer.busy else max(CHECKPOINT_S, held_up_s / CHECKPOINT_SHARE)

    @cached_property
    def log_every(self) -> int:
        """Steps between lines of the curve."""
        return max(1, self.recipe.steps // CURVE_POINTS)

    @cached_property
    def evaluate_at(self) -> set[int]:
        """The steps after which the trunk is scored."""
        steps, times = self.recipe.steps, self.recipe.evaluations
        return {steps * (i + 1) // times for i in range(times)}

    def timed_step(self) -> tuple[float, float, float]:
        """Take a step: the loss (nats per token) and gradient norm of the last that was read, which
        a GPU lets be the one before, and the base learning rate.

        Raises:
            Diverged: they are not finite.
        """
        first, self.first_step = self.first_step, False
        started = time.perf_counter()
        taken, lr = self._step()
        try:
            self._read(taken)
        finally:
            seconds = self._spend("train_s", started)
            self.state.step += 1
        if first and self.placement.compile == "yes" and not self.in_branch:
            self.state.compile_s += seconds  # the step itself is next to nothing beside it
        return self.loss, self.norm, lr

    def _read(self, taken: Taken) -> None:
        """Read this step's numbers, or where that would wait, those of the one before, unless this
        one's are wanted for the curve."""
        step = taken.step
        wanted = step % self.log_every == 0 or step in self.evaluate_at or step == self.end
        done, self.unread = (taken, None) if wanted or not self.waits else (self.unread, taken)
        if done is None:
            return
        self.loss, self.norm = float(done.loss), float(done.norm)
        if not (isfinite(self.loss) and isfinite(self.norm)):
            raise Diverged(f"loss {self.loss}, gradient norm {self.norm} at step {done.step}")

    def _step(self) -> tuple[Taken, float]:
        """One optimiser step, and its base learning rate."""
        recipe, step = self.recipe, self.state.step
        ahead, self.ahead = self.ahead, None
        x, y = ahead or self._batch(step)
        factor = lr_factor(recipe, step, self.end)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        self.weights.gradients.zero_()
        tokens = recipe.batch_size * recipe.seq_len
        total = self.engine.nll(x, y, 1 / tokens).sum() / tokens
        if step + 1 < self.end:
            self.ahead = self._batch(step + 1)  # while a GPU is busy with this one
        add_up(total, self.weights.gradients)  # each rank has done its share of the sequences
        norm = torch.linalg.vector_norm(self.weights.gradients)
        clip = (recipe.grad_clip / norm).clamp(max=1.0)
        if self.waits or clip < 1:  # reading `clip` would wait for the GPU
            self.weights.gradients *= clip
        self.optimizer.step()
        self.engine.refresh()
        return Taken(step + 1, total, norm), self.lr * factor

    def _batch(self, step: int) -> tuple[Tensor, Tensor]:
        """This rank's inputs and targets of a step, on their way to the device."""
        recipe = self.recipe
        rows = _share(recipe.batch_size)
        x, y = batch(self.data, self.run.seed, step, recipe.batch_size, recipe.seq_len, rows)
        return self._put(x), self._put(y)

    def _put(self, ids: Tokens) -> Tensor:
        here = torch.from_numpy(ids)
        if self.placement.device == "cuda":
            here = here.pin_memory()  # what is not pinned would be waited for
        return here.to(self.placement.device, non_blocking=True)

    def _evaluate(self, metrics: TextIO, reading: bool) -> None:
        """Score the fixed validation slice; where the rate has decayed, it is a reading."""
        started = time.perf_counter()
        inputs, targets = self.validation
        rows = _share(len(inputs))
        nll = self.engine.nll(self._put(inputs[rows]), self._put(targets[rows])).double()
        of_each = torch.stack([nll[_within(rows, span)].sum() for span in self.spans])
        add_up(of_each)
        losses = losses_of(self.data, of_each.tolist(), targets, self.spans)
        if not isfinite(losses["val_loss"]):
            raise Diverged(f"validation loss {losses['val_loss']} at step {self.state.step}")
        self._spend("eval_s", started)
        self._log(metrics, **losses)
        if reading:
            self.state.readings.append({"tokens": self._tokens(), **losses})
        if reading and not self.in_branch:
            self._keep_windows(nll.sum(1))

    def _keep_windows(self, mine: Tensor) -> None:
        """Leave what each window came to, whose share of this rank is `mine`: how far the reading
        would be another with other text."""
        targets = self.validation[1]
        nats = mine.new_zeros(len(targets))
        nats[_share(len(targets))] = mine
        add_up(nats)
        if rank() == 0:
            text, weights = text_and_weights(self.data, targets, self.spans)
            self.writer.wait()  # who sends a checkpoint reads them too
            write_windows(self.folder, (nats.cpu().numpy(), text, weights), self.fence)

    def _tokens(self) -> int:
        return self.state.step * self.recipe.tokens_per_step

    def _steps(self) -> int:
        """Those that were taken, the steps of branches counted."""
        ended = self.branches[: len(self.state.readings)]
        return self.state.step + sum(branch.steps for branch in ended)

    def _standing(self, loss: float) -> dict[str, Any]:
        """How far the run is."""
        state, recipe, step = self.state, self.recipe, self._steps()
        tokens = step * recipe.tokens_per_step
        return {
            "step": step,
            "of": recipe.trained_tokens // recipe.tokens_per_step,
            "tokens": tokens,
            "train_loss": loss,
            "tokens_per_s": tokens / (state.train_s + state.branch_s),
        }

    @contextmanager
    def _open_metrics(self) -> Iterator[TextIO]:
        """The curve's file, with what the checkpoint knows of it: a new one, since a process that
        lost this run may still have the old one open."""
        if rank() != 0:
            with open(os.devnull, "a+") as file:
                yield file
            return
        path = self.folder / CURVE
        known = path.read_bytes()[: self.state.metrics_bytes] if path.is_file() else b""
        with ExitStack() as stack:
            with file_atomically(path, fence=self.fence) as part:
                file = stack.enter_context(open(part, "w+"))
                file.write(known.decode())
                file.flush()
            yield file
            _sync(file)

    def _mend_curve(self, known: bytes | None) -> None:
        """Put a curve that is not as the checkpoint knows it back to that."""
        path = self.folder / CURVE
        if known is None or rank() != 0:
            return
        if path.is_file():
            if path.read_bytes()[: len(known)] == known:
                return
            aside = set_aside(path)
            print(f"warning: {path} was damaged; it was set aside as {aside.name}")
        write_atomically(path, known, self.fence)

    def _log(self, metrics: TextIO, **values: Any) -> None:
        state = self.state
        elapsed = state.train_s + state.eval_s + state.branch_s
        line = {"step": state.step, "tokens": self._tokens(), **values}
        if self.in_branch:
            line["horizon"] = self.recipe.horizons[len(state.readings)]
        metrics.write(json.dumps({**line, "elapsed_s": round(elapsed, 3)}) + "\n")
        metrics.flush()

    def _checkpoint(self, metrics: TextIO) -> None:
        """Replace the checkpoint: all of it is there, or the one before."""
        self._begin_checkpoint(metrics)
        self.writer.wait()

    def _begin_checkpoint(self, metrics: TextIO) -> None:
        """Have the checkpoint replaced while training goes on."""
        if rank() != 0:
            return
        self.writer.wait()  # of two snapshots there is no need
        started = time.perf_counter()
        copied = checkpoint.snapshot(self._going_on(metrics))
        self.snapshot_s = time.perf_counter() - started
        self.writer.begin(
            copied,
            branch=self.in_branch,
            before=partial(os.fsync, metrics.fileno()),
            after=partial(self.when_saved, self._steps() * self.recipe.tokens_per_step),
        )

    def _going_on(self, metrics: TextIO) -> checkpoint.Saved:
        """What a checkpoint holds, as it is now."""
        metrics.flush()
        self.state.metrics_bytes = metrics.tell()
        return {
            "weights": dict(self.model.named_parameters()),
            "optimizer": self.optimizer.state_dict(),
            "state": asdict(self.state),
            "placement": asdict(self.placement),
            # torch does not read empty bytes back, which are those before the first line
            "curve": (self.folder / CURVE).read_bytes()[: self.state.metrics_bytes] or None,
        }

    def _restore(self, saved: dict[str, Any]) -> None:
        """Take weights and optimiser from a checkpoint."""
        with torch.no_grad():
            for name, p in self.model.named_parameters():
                p.copy_(saved["weights"][name])
        self.engine.refresh()
        self.optimizer.state.clear()  # makes room for the moments that replace these
        self.optimizer.load_state_dict(saved["optimizer"])


def _build(run: Run, placement: Placement) -> Decoder:
    """The model with its initial weights, in the form that the placement asks for."""
    assert run.init_seed is not None, "filled in by Run"
    model = Decoder(run.architecture)
    initialise(model, run.recipe, run.init_seed)
    model.to(placement.device)
    for module in model.modules():
        if isinstance(module, Attention):
            module.fused = placement.device == "cuda"  # on CPUs two products are faster
    if placement.compile == "yes":
        _forget_other_shapes(run)
        for layer in model.model.layers:
            layer.compile(dynamic=False)  # compiled once, for all layers of this shape
    return model


def _share(sequences: int) -> slice:
    """This rank's rows of a batch."""
    return slice(*(sequences * r // world() for r in (rank(), rank() + 1)))


def _within(rows: slice, span: slice) -> slice:
    """Where rows of a span are among these rows."""
    start, stop = (min(max(end, rows.start), rows.stop) for end in (span.start, span.stop))
    return slice(start - rows.start, stop - rows.start)


_compiled: tuple[Any, ...] = ()
VERSIONS = 256
"""Of a layer that are compiled at most, which is all that torch allows of a function: one to learn
and one to score for each width of FFN and size of micro-batch. By torch's default the ninth is left
uncompiled, with a line in the log alone."""


def _forget_other_shapes(run: Run) -> None:
    """Keep one shape compiled in this process, in all its versions.

    On disk torch keeps all shapes: coming back to one takes a second or two
    (docs/decisions/108-the-order-of-runs-ignores-compiled-code.md).
    """
    global _compiled
    torch.compiler.config.recompile_limit = VERSIONS
    arch, recipe = run.architecture, run.recipe
    layers = dict(arch.identity) | {"layer_map": None}  # layers are compiled one by one
    shape = (tuple(layers.items()), recipe.seq_len, recipe.precision)
    if shape != _compiled:
        torch.compiler.reset()
        _compiled = shape


def _sync(metrics: TextIO) -> None:
    """Bring the curve to the disk; only the first rank has one."""
    metrics.flush()
    if rank() == 0:
        os.fsync(metrics.fileno())


def _ignore(event: Any) -> None: ...


def _word(error: Exception, training: Training | None) -> tuple[Said, str]:
    """What other ranks hear of an error, and why."""
    if rank() == 0 and (_is_passed_on(error, training) or disk_error(error) is not None):
        return Said.STOPPED, _reason(error)
    lacks = training is not None and _is_memory(error)
    return Said.NO_MEMORY if lacks else Said.FAILED, _reason(error)


def _is_passed_on(error: Exception, training: Training | None) -> bool:
    """Whether this is no outcome of the run."""
    called_back = training is not None and error is training.called_back
    return called_back or isinstance(error, Changed | Stop | Parted)


def _is_memory(error: Exception) -> bool:
    """Whether this is a lack of memory, here or in another rank."""
    if isinstance(error, Heard):
        return error.said == Said.NO_MEMORY
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        sign in str(error) for sign in ("out of memory", "allocate memory")
    )


def _reason(error: Exception) -> str:
    """One line: the kind of failure and what it says; of a user's own file, where it was."""
    if isinstance(error, Heard):
        return str(error)
    lines = str(error).strip().splitlines()
    kind = "out of memory" if _is_memory(error) else type(error).__name__
    return place_of(error) or (f"{kind}: {lines[0]}" if lines else kind)
