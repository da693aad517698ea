"""A place where a study runs by any executor: a folder, a database, and the cluster for it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.servers.network import HERE, Host, Machine, network
from benchmarks.servers.postgres import Postgres, postgres
from benchmarks.servers.ray import Ray, ray
from benchmarks.servers.slurm import Slurm, slurm

EXECUTORS = ("local", "ray", "slurm")
NODES = 2


@dataclass(frozen=True)
class Place:
    """Where a study is run."""

    folder: Path
    options: Sequence[str]
    """Executor and storage of a command there."""
    variables: Mapping[str, str]
    """Of a command there, and so of all that it starts."""
    home: Host | Machine
    """Where the command runs."""
    database: Postgres
    ray: Ray | None = None
    slurm: Slurm | None = None
    nodes: Sequence[Host] = ()


@contextmanager
def place_of(executor: str, folder: Path, cpus: int = 2) -> Iterator[Place]:
    """A place in `folder`, which is made; clusters have two nodes of so many CPUs.

    Raises:
        Missing: a server that it needs cannot be started here.
    """
    folder.mkdir(parents=True)
    variables = {"BENCHMARK": str(folder)}
    with ExitStack() as stack:
        if executor == "ray":
            home, base, *nodes = stack.enter_context(network(2 + NODES))
            server = stack.enter_context(postgres(folder / "database", base))
            cluster = stack.enter_context(ray(folder / "ray", home))
            for node in nodes:
                cluster.join(node, cpus)
            variables |= cluster.environment
            given = ["executor=ray", "executor.address=auto", f"storage={server.url()}"]
            yield Place(folder, given, variables, home, server, ray=cluster, nodes=nodes)
            return
        server = stack.enter_context(postgres(folder / "database"))
        given = [f"executor={executor}", f"storage={server.url()}"]
        if executor == "local":
            yield Place(folder, given, variables, HERE, server)
            return
        queue = stack.enter_context(slurm(folder / "slurm", cpus=cpus))
        given += [f"executor.nodes={NODES}", f"executor.cpus={cpus}"]
        variables |= queue.environment
        yield Place(folder, given, variables, HERE, server, slurm=queue)
