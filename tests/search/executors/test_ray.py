"""`executor=ray` on a real Ray whose nodes are hosts of their own, as network namespaces are."""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cluster_fixtures import LONG, losses
from process_fixtures import wait_for
from study_fixtures import command, environment, run

from benchmarks.servers import Missing
from benchmarks.servers.network import Host, network
from benchmarks.servers.postgres import Postgres, postgres
from benchmarks.servers.ray import Ray, ray

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Hosts:
    """A head, two nodes that are not in the cluster yet, and a database."""

    ray: Ray
    nodes: list[Host]
    database: Postgres
    storage: str

    def start(self, folder: Path, *more: str) -> "subprocess.Popen[str]":
        """The command, running on the head's host."""
        given = ("executor=ray", "executor.address=auto", f"storage={self.storage}", *more)
        words = command(folder, *given)
        return subprocess.Popen(
            self.ray.head.command(*words),
            cwd=folder,
            env={**environment(), **self.ray.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    with tempfile.TemporaryDirectory(prefix="hosts") as name, ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)  # the database has a user of its own
        try:
            head, *nodes, base = stack.enter_context(network(4))
            prefix = tuple(base.command())
            database = stack.enter_context(postgres(folder / "database", "*", prefix))
            cluster = stack.enter_context(ray(folder / "ray", head))
        except Missing as reason:
            pytest.skip(str(reason))
        yield Hosts(cluster, nodes, database, database.url(base.address))


def training(folder: Path) -> Path:
    """The checkpoint of the only run, once it has one."""
    found: Path = wait_for(lambda: next((folder / "runs").glob("*/checkpoint/state.pt"), None))
    return found


def end_of(started: "subprocess.Popen[str]") -> str:
    """What a command that ends well printed."""
    out, errors = started.communicate(timeout=200)
    assert started.returncode == 0, out + errors
    return out


def test_nodes_that_come_are_used_and_a_node_that_dies_gives_its_run_back(
    hosts: Hosts, tmp_path: Path, undisturbed: list[Any]
) -> None:
    first, second = hosts.nodes
    started = hosts.start(tmp_path, *LONG)
    hosts.ray.join(first, gpus=1)  # until then there was nothing to run on
    training(tmp_path)
    hosts.ray.join(second, gpus=1)
    first.kill()
    out = end_of(started)
    assert "a worker died" in out
    assert losses(tmp_path) == undisturbed
    logs = {path.name for path in (tmp_path / "outputs/tiny/workers").glob("*.log")}
    assert any(first.space in name for name in logs), logs
    assert any(second.space in name for name in logs), logs


def test_a_cluster_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    done = run(tmp_path, "executor=ray", "executor.address=127.0.0.1:1", *LONG)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert "executor.address must be a Ray cluster that answers" in done.stderr
