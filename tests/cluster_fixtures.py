"""Ray and Slurm on this machine, for tests that start workers there."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks.servers import Missing
from benchmarks.servers.network import Machine
from benchmarks.servers.ray import Ray, ray
from benchmarks.servers.slurm import Slurm, slurm


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
