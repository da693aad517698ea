"""Private interfaces of other libraries that the project uses.

Each function says why nothing public will do. `tests/test_compat.py` has a test for each, which
fails when the library changes. Libraries are imported where they are needed: counting candidates
needs none of them.
"""

import copy
import json
import os
import warnings
from argparse import Action, ArgumentParser
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache, partialmethod
from inspect import unwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import optuna
    import torch
    from numpy.typing import NDArray
    from omegaconf import DictConfig
    from optuna.distributions import BaseDistribution
    from optuna.storages import BaseStorage, RDBStorage
    from optuna.trial import FrozenTrial, Trial


def hydra_flags() -> ArgumentParser:
    """Hydra's parser of flags and overrides: it answers to a wrong flag with its whole usage."""
    from hydra._internal.utils import get_args_parser

    return get_args_parser()


def flags_of(parser: ArgumentParser) -> list[str]:
    """`--config-dir`, `-cd`: all that a parser knows."""
    return list(parser._option_string_actions)


def apart(parser: ArgumentParser, given: Sequence[str]) -> tuple[list[str], list[str]]:
    """The flags of a command line, each with its value, and all else: argparse itself takes no
    positional arguments after flags that follow some."""
    flags: list[str] = []
    rest: list[str] = []
    wanted: Action | None = None
    """The flag before, where it takes a value."""
    for text in given:
        takes = wanted is not None and (wanted.nargs is None or text in (wanted.choices or ()))
        (flags if takes or text.startswith("-") else rest).append(text)
        action = None if takes else parser._option_string_actions.get(text)
        wanted = action if action is not None and action.nargs != 0 else None
    return flags, rest


def hide_group(name: str) -> None:
    """Let Hydra take `name=value` for an option though a folder of `conf/` has that name: it takes
    every folder for a group of which an option names a file."""
    from hydra._internal.config_repository import ConfigRepository

    usual = ConfigRepository.group_exists

    def group_exists(repository: ConfigRepository, config_path: str) -> bool:
        return config_path != name and usual(repository, config_path)

    ConfigRepository.group_exists = group_exists  # type: ignore[assignment, method-assign]


def yaml_loader() -> type[Any]:
    """The YAML loader of Hydra's own files: `6e-3` is a number to it, and a key that stands twice
    an error. OmegaConf opens files by it, but makes nodes of them."""
    import yaml
    from omegaconf._utils import get_yaml_loader

    class Loader(get_yaml_loader()):  # type: ignore[misc]
        """With keys as they are written: `no` and `1e3` would be something else."""

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and not key.tag.endswith(":merge"):
                    key.tag = "tag:yaml.org,2002:str"
            return super().construct_mapping(node, deep)

    return Loader


def child_nodes(node: "DictConfig") -> "Iterator[tuple[str, DictConfig]]":
    """The mappings in a mapping by their names, none if it is null or missing. The
    public ways resolve interpolations and raise for what is missing."""
    from omegaconf import DictConfig

    for name in names_of(node):
        child = node._get_node(name)
        if isinstance(child, DictConfig):
            yield name, child


def names_of(node: "DictConfig") -> list[str]:
    """The names in a mapping, none if it is null or missing."""
    return [] if node._is_none() or node._is_missing() else [str(name) for name in node]


def storage_of(study: "optuna.Study") -> "BaseStorage":
    """A study's storage, which it does not show."""
    return study._storage


def frozen(study: "optuna.Study", trial: "Trial | FrozenTrial") -> "FrozenTrial":
    """A trial as the study's storage has it now, with all that it has reported: pruners take such,
    and `trial.should_prune()` makes its own."""
    return study._storage.get_trial(trial._trial_id)


def as_known(trial: "Trial") -> "FrozenTrial":
    """An open trial as its process knows it, with all that was written through it."""
    return trial._cached_frozen_trial


def reopened(study: "optuna.Study", trial: "FrozenTrial") -> "Trial":
    """A trial of the study's that attributes can be written to; Optuna opens new ones only."""
    from optuna.trial import Trial

    return Trial(study, trial._trial_id)


def write_trial(
    storage: "RDBStorage",
    trial_id: int,
    params: "Mapping[str, tuple[float, BaseDistribution]]",
    attributes: Mapping[str, Any],
) -> None:
    """Write parameters, each with its distribution, and user attributes of a trial at once. Optuna
    takes a transaction for each, which a study of short trials feels. Done again, it is no error.
    """
    from optuna.distributions import distribution_to_json
    from optuna.storages._rdb import models
    from optuna.storages._rdb.storage import _create_scoped_session
    from sqlalchemy.dialects import postgresql, sqlite

    drawn, kept = models.TrialParamModel, models.TrialUserAttributeModel
    backends: dict[str, Any] = {"postgresql": postgresql, "sqlite": sqlite}
    with _create_scoped_session(storage.scoped_session, True) as session:
        if storage.engine.name not in backends:
            for name, (value, distribution) in params.items():
                storage._set_trial_param_without_commit(
                    session, trial_id, name, value, distribution, distribution
                )
            for name, value in attributes.items():
                storage._set_trial_attr_without_commit(session, kept, trial_id, name, value)
            return
        state: Any = models.TrialModel.find_or_raise_by_id(trial_id, session).state
        storage.check_trial_is_updatable(trial_id, state)
        insert = backends[storage.engine.name].insert
        if params:
            rows = [
                {
                    "trial_id": trial_id,
                    "param_name": name,
                    "param_value": value,
                    "distribution_json": distribution_to_json(distribution),
                }
                for name, (value, distribution) in params.items()
            ]
            session.execute(insert(drawn).values(rows).on_conflict_do_nothing())
        if attributes:
            rows = [
                {"trial_id": trial_id, "key": name, "value_json": json.dumps(value)}
                for name, value in attributes.items()
            ]
            upsert = insert(kept).values(rows)
            which, new = [kept.trial_id, kept.key], {"value_json": upsert.excluded.value_json}
            session.execute(upsert.on_conflict_do_update(index_elements=which, set_=new))


def just_made(storage: "BaseStorage", trial_id: int) -> "FrozenTrial":
    """A trial that this process has made a moment ago, as Optuna's cache has it. Optuna asks the
    database for it at once."""
    cache: Any = storage
    study_id, number = cache._trial_id_to_study_id_and_number[trial_id]
    return copy.deepcopy(cache._studies[study_id].trials[number])  # type: ignore[no-any-return]


def note(trial: "Trial", values: Mapping[str, Any]) -> None:
    """Write user attributes into a trial of a `PatientStorage` at once."""
    trial.storage.set_trial_user_attrs(trial._trial_id, values)  # type: ignore[attr-defined]
    trial._cached_frozen_trial.user_attrs.update(values)


TELL_ERRORS = (ValueError, AssertionError)


def is_tell_refused(error: BaseException | None) -> bool:
    """Whether Optuna raised this, one of `TELL_ERRORS`, because the trial's end was there already:
    it has no class for that. Where the trial had failed, `study.optimize` then stumbles over an
    assertion of its own."""
    if isinstance(error, AssertionError):
        return is_tell_refused(error.__context__)
    return isinstance(error, ValueError) and "Cannot tell" in str(error)


def hypervolume(losses: "NDArray[np.float64]", reference: "NDArray[np.float64]") -> float:
    """The volume that points (N, M) dominate below a reference point (M,), lower being better.
    Optuna shows it in a figure of its own alone."""
    from optuna._hypervolume import compute_hypervolume

    return float(compute_hypervolume(losses, reference))


def lm_eval_task(path: Path) -> dict[str, Any]:
    """A definition of lm-eval's, with all that it includes. The public way takes a task's name and
    wants its data at once."""
    from lm_eval.tasks._yaml_loader import load_yaml

    return load_yaml(path)  # type: ignore[no-any-return]


def multiplies_bf16() -> bool:
    """Whether the processor multiplies bfloat16 natively. torch shows it for GPUs alone."""
    import torch

    avx512, amx = torch.cpu._is_avx512_bf16_supported, torch.cpu._is_amx_tile_supported
    return avx512() or amx()


def fake_tensors() -> AbstractContextManager[Any]:
    """Tensors made within have sizes and no content, whatever device they say. torch's device
    `meta` has no content either, but operations that ask for the device then go another way."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode()


def results_seen(see: Callable[[Any], None]) -> AbstractContextManager[Any]:
    """`see` gets each result of each operation within. torch documents such modes, under a private
    name."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Mode(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
        ) -> Any:
            result = func(*args, **(kwargs or {}))
            for leaf in tree_leaves(result):
                see(leaf)
            return result

    return Mode()  # type: ignore[no-untyped-call]


@cache
def keep_compiler_out() -> None:
    """Let optimizers work without torch's compiler, which takes longer to import (1.4 s of a
    processor) than some runs to train. torch wraps their methods so that they are not compiled, and
    the wrappers import it first; for a process that compiles nothing there is nothing to wrap."""
    import torch
    from torch.optim import Optimizer

    for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
        method: Any = unwrap(getattr(Optimizer, name))
        method.__dynamo_disable = method
    for kind in vars(torch.optim).values():
        if isinstance(kind, type) and issubclass(kind, Optimizer) and "step" in vars(kind):
            kind.step = torch.no_grad()(unwrap(kind.step))  # type: ignore[method-assign]


def is_hooked(module: "torch.nn.Module") -> bool:
    """Whether calling a module does more than its `forward`, or another one than its class's. torch
    lists hooks nowhere in public."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, kind) for kind in kinds) or "forward" in vars(module)


def identity_of_storage(storage: "torch.UntypedStorage") -> int:
    """The same for all tensors over one storage while it lives; a fake one has no address."""
    return int(storage._cdata)


def set_executorch_threads(threads: int) -> None:
    """How many threads programs of ExecuTorch run on in this process. It has no other way."""
    from executorch.extension.pybindings import portable_lib

    portable_lib._unsafe_reset_threadpool(threads)


@contextmanager
def without_experimental_warnings() -> Iterator[None]:
    """Heartbeats, QMC and other parts of Optuna are called experimental; its version is pinned."""
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield


def hide_progress_bars() -> None:
    """Keep tqdm and Hugging Face's datasets from drawing bars. tqdm reads its own switch,
    TQDM_DISABLE, when it is imported, and torch has done that."""
    import tqdm

    os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
    tqdm.tqdm.__init__ = partialmethod(tqdm.tqdm.__init__, disable=True)
