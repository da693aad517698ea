"""A Ray cluster of this machine: each node in a network namespace, which is a host of its own."""

import os
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from benchmarks.servers import Missing, end, free_ports, left_of, says
from benchmarks.servers.network import Host, Machine

QUICK = {
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_enable_worker_prestart": "false",
    "RAY_raylet_start_wait_time_s": "200",
}
"""A node is dead after two seconds of silence; Ray's own limits are for slow networks. To start it
may take long, on a busy machine."""


@dataclass
class Ray:
    """A cluster that runs. Drivers run on its head, for Ray wants a node where they are."""

    folder: Path
    head: Host | Machine
    port: int = 0
    """Of the head."""

    @property
    def address(self) -> str:
        return f"{self.head.address}:{self.port}"

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables of all processes of the cluster, the driver's included."""
        return {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ADDRESS": self.address,
            **QUICK,
        }

    def lead(self, cpus: int = 0, gpus: int = 0) -> None:
        """Start the head. After its end a new one has a new port: Ray takes it for running where a
        node still knows it."""
        self.port = free_ports(1)[0]
        self._start(self.head, "--head", cpus, gpus)

    def join(self, host: Host | Machine, cpus: int = 2, gpus: int = 1) -> None:
        """Start a node there."""
        self._start(host, f"--address={self.address}", cpus, gpus)

    def _start(self, host: Host | Machine, role: str, cpus: int, gpus: int) -> None:
        program = str(Path(sys.executable).with_name("ray"))
        command = [program, "start", role, f"--node-ip-address={host.address}"]
        command += [f"--num-cpus={cpus}", f"--num-gpus={gpus}", "--object-store-memory=100000000"]
        if role == "--head":
            command += [f"--port={self.port}", f"--temp-dir={self.folder}"]
            command += ["--include-dashboard=false"]
        says(host.command(*command), env={**os.environ, **self.environment})


@contextmanager
def ray(folder: Path, head: Host | Machine, cpus: int = 0, gpus: int = 0) -> Iterator[Ray]:
    """A cluster whose head is there, on which by default nothing runs but drivers. `folder` has a
    short path: Ray puts sockets there.

    Raises:
        Missing: Ray is not installed.
    """
    if find_spec("ray") is None:
        raise Missing("ray is not installed: pip install 'isoparam[ray]'")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "token").write_text(secrets.token_hex(32))
    cluster = Ray(folder, head)
    try:
        cluster.lead(cpus, gpus)
        yield cluster
    finally:
        for pid in left_of(folder):
            end(pid, seconds=0)
