"""`executor=ray` on a real Ray whose nodes are hosts of their own, as network namespaces are."""

import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest
from cluster_fixtures import LONG, losses, slowly
from process_fixtures import wait_for
from study_fixtures import command, environment, run, snapshot

from benchmarks.servers import Missing, alive
from benchmarks.servers.network import Host, network
from benchmarks.servers.postgres import Postgres, postgres
from benchmarks.servers.ray import Ray, ray
from search.executors.ray import EXECUTOR
from search.study.plan import Attempt
from search.study.storage import open_storage, read_attempts

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Hosts:
    """A head on which nothing runs but commands, two nodes that may join, and a database."""

    ray: Ray
    nodes: list[Host]
    database: Postgres

    def renew(self, *nodes: Host) -> None:
        """Have these nodes alone in the cluster, newly started."""
        for node in self.nodes:
            node.kill()
        for node in nodes:
            self.ray.join(node)

    def start(self, folder: Path, *more: str) -> "subprocess.Popen[str]":
        """The command, running on the head's host. The folder's name is the study's."""
        storage = f"storage={self.database.url()}"
        given = ("executor=ray", "executor.address=auto", storage, f"study={folder.name}", *more)
        words = command(folder, *given)
        return subprocess.Popen(
            self.ray.head.command(*words),
            cwd=folder,
            env={**environment(), **self.ray.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def begin(self, folder: Path) -> "subprocess.Popen[str]":
        """The command, whose run trains on the first node, the only one."""
        self.renew(self.nodes[0])
        started = self.start(folder, *LONG)
        training(folder)
        return started


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with tempfile.TemporaryDirectory(prefix="hosts") as name, ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)  # the database has a user of its own
        try:
            head, *nodes, base = stack.enter_context(network(4))
            database = stack.enter_context(postgres(folder / "database", base))
            cluster = stack.enter_context(ray(folder / "ray", head))
        except Missing as reason:
            pytest.skip(str(reason))
        yield Hosts(cluster, nodes, database)


def training(folder: Path) -> Path:
    """The checkpoint of the only run, once it has one."""
    found: Path = wait_for(lambda: next((folder / "runs").glob("*/checkpoint/state.pt"), None))
    return found


def end_of(started: "subprocess.Popen[str]") -> str:
    """What a command that ends well printed."""
    out, errors = started.communicate(timeout=200)
    assert started.returncode == 0, out + errors
    return out


def hosts_of(folder: Path) -> set[str]:
    """Where the study had workers."""
    logs = (folder / "outputs" / folder.name / "workers").glob("*.log")
    return {log.name.rpartition("-")[0] for log in logs}


def attempts(hosts: Hosts, folder: Path) -> list[Attempt]:
    storage = open_storage(hosts.database.url()).as_optunas
    return read_attempts(optuna.load_study(study_name=folder.name, storage=storage))


def test_nodes_that_come_are_used_and_a_node_that_dies_gives_its_run_back(
    hosts: Hosts, tmp_path: Path, undisturbed: list[Any]
) -> None:
    first, second = hosts.nodes
    hosts.renew()
    with slowly(tmp_path):
        started = hosts.start(tmp_path, *LONG)
        hosts.ray.join(first)  # until then there was nothing to run on
        training(tmp_path)
        hosts.ray.join(second)
        first.kill()
    out = end_of(started)
    assert "a worker died" in out
    assert losses(tmp_path) == undisturbed
    assert hosts_of(tmp_path) == {first.space, second.space}


def test_where_the_command_is_killed_workers_write_checkpoints_and_the_same_goes_on_at_once(
    hosts: Hosts, tmp_path: Path, undisturbed: list[Any]
) -> None:
    with slowly(tmp_path):
        hosts.begin(tmp_path).kill()
    end_of(hosts.start(tmp_path, *LONG))
    assert losses(tmp_path) == undisturbed
    ends = [(attempt.state, attempt.reason) for attempt in attempts(hosts, tmp_path)]
    assert ends == [("FAIL", "the study was stopped"), ("COMPLETE", None)]


def test_a_new_head_and_the_same_command_go_on_with_the_study_of_a_dead_one(
    hosts: Hosts, tmp_path: Path, undisturbed: list[Any]
) -> None:
    with slowly(tmp_path):
        hosts.begin(tmp_path)
        hosts.ray.head.kill()
    hosts.ray.lead()
    hosts.ray.join(hosts.nodes[0])
    end_of(hosts.start(tmp_path, *LONG))
    assert losses(tmp_path) == undisturbed
    assert [x.state for x in attempts(hosts, tmp_path) if x.state != "FAIL"] == ["COMPLETE"]


def test_what_a_node_behind_a_lost_link_writes_is_not_taken(
    hosts: Hosts, tmp_path: Path, undisturbed: list[Any]
) -> None:
    with slowly(tmp_path):
        started = hosts.begin(tmp_path)
        hosts.ray.join(hosts.nodes[1])
        (worker,) = hosts.nodes[0].running("search.study.worker")
        hosts.nodes[0].unplug()
    try:
        end_of(started)
        assert alive(worker), "it knows nothing of its successor"
        before = snapshot(tmp_path)
    finally:
        hosts.nodes[0].plug()
    wait_for(lambda: not alive(worker))
    assert snapshot(tmp_path) == before
    assert losses(tmp_path) == undisturbed
    assert hosts_of(tmp_path) == {node.space for node in hosts.nodes}


def test_a_cluster_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    done = run(tmp_path, "executor=ray", "executor.address=127.0.0.1:1", *LONG)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert "executor.address must be a Ray cluster that answers" in done.stderr


def test_a_plan_for_so_many_workers_needs_no_cluster(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    nowhere = ("executor=ray", "executor.address=127.0.0.1:1", "train=false", *LONG)
    done = run(tmp_path, *nowhere, "workers=8")
    assert done.returncode == 0, done.stderr
    assert "to do:" in done.stdout
    assert "before it trains: executor.address must be a Ray cluster" in done.stdout
    assert "plan is of" not in done.stdout
    done = run(tmp_path, *nowhere, "workers=auto")
    assert done.returncode == 0, done.stderr
    assert "this plan is of one worker, workers=N plans for N" in done.stdout


@pytest.mark.parametrize("answer", [b"", b"-ERR unknown command 'PRI'\r\n"])
def test_what_listens_and_is_no_cluster_is_known_at_once(answer: bytes) -> None:
    """Such as a proxy, or Redis, whose port Ray has."""
    pytest.importorskip("ray")
    with socket.create_server(("127.0.0.1", 0)) as server:

        def once() -> None:
            line, _ = server.accept()
            with line:
                line.recv(64)
                line.sendall(answer)

        answering = threading.Thread(target=once)
        answering.start()
        executor = EXECUTOR(address=f"127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(ConnectionError, match="no Ray cluster"):
            executor._knock()
        answering.join()
