"""Ray and Slurm on this machine, for tests that start workers there."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from study_fixtures import run

from benchmarks.servers import Missing
from benchmarks.servers.network import Machine
from benchmarks.servers.ray import Ray, ray
from benchmarks.servers.slurm import Slurm, slurm
from benchmarks.sleeping import SLOWLY
from search.runs import read_metrics

LONG = (
    "n_trials=1",
    "replicates.seeds=1",
    "recipe.tokens=12800",
    "recipe.optimizer=benchmarks.sleeping",
    "placement.checkpoint_s=0.3",
)
"""A hundred steps of a tenth of a second, most of it asleep."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The losses of `LONG` where nothing happens to it and it does not sleep."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ISOPARAM_STEP_S", "0")
        done = run(folder, "executor=local", *LONG)
    assert done.returncode == 0, done.stderr
    return losses(folder)


@contextmanager
def slowly(folder: Path) -> Iterator[None]:
    """Lets a run of `LONG` last, however slow the machine is, until what is to happen to it has."""
    path = folder / SLOWLY
    path.touch()
    try:
        yield
    finally:
        path.unlink()


def losses(folder: Path) -> list[Any]:
    """Of the only run."""
    (run_folder,) = (folder / "runs").iterdir()
    return [{k: v for k, v in x.items() if k != "elapsed_s"} for x in read_metrics(run_folder)]


@pytest.fixture(scope="module")
def ray_here() -> Iterator[Ray]:
    """A cluster of one node, which this process finds."""
    with tempfile.TemporaryDirectory(prefix="ray") as folder, ExitStack() as stack:
        try:
            cluster = stack.enter_context(ray(Path(folder), Machine(), cpus=2))
        except Missing as reason:
            pytest.skip(str(reason))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in cluster.environment.items():
            patch.setenv(name, value)
        yield cluster


@pytest.fixture(scope="module")
def slurm_here() -> Iterator[Slurm]:
    """A cluster of three nodes, which this process and what it starts find."""
    pytest.importorskip("submitit")
    with tempfile.TemporaryDirectory(prefix="slurm") as folder, ExitStack() as stack:
        try:
            cluster = stack.enter_context(slurm(Path(folder) / "slurm"))
        except Missing as reason:
            pytest.skip(str(reason))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in cluster.environment.items():
            patch.setenv(name, value)
        patch.setattr("search.executors.slurm.LOOK_S", 0.1)
        patch.setattr("search.executors.slurm.ASK_S", 1.0)
        yield cluster
