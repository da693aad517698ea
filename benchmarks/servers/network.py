"""Hosts of this machine: network namespaces on one bridge, each with an address of its own."""

import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from benchmarks.servers import Missing, alive, says, wait_until


class Machine:
    """This machine, as a host."""

    address = "127.0.0.1"

    def command(self, *words: str) -> list[str]:
        return list(words)


@dataclass(frozen=True)
class Host:
    """A namespace, by the name it has in messages of `ip`."""

    space: str
    address: str
    link: str
    """Its end on the bridge."""
    switch: str
    """The namespace of the bridge."""

    def command(self, *words: str) -> list[str]:
        """The command, run there, with a host name of its own."""
        named = f'hostname {self.space} && exec "$@"'
        inside = ["unshare", "--uts", "sh", "-c", named, "sh", *words]
        return ["ip", "netns", "exec", self.space, *inside]

    def pids(self) -> list[int]:
        """All processes there."""
        return [int(pid) for pid in says(["ip", "netns", "pids", self.space]).split()]

    def kill(self) -> None:
        """All its processes at once, as a loss of power would."""
        while pids := [pid for pid in self.pids() if alive(pid)]:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            with suppress(TimeoutError):
                wait_until(lambda: not any(map(alive, pids)), 5, "")

    def unplug(self) -> None:
        """Take its link down."""
        says(["ip", "-n", self.switch, "link", "set", self.link, "down"])

    def plug(self) -> None:
        """Take its link up again."""
        says(["ip", "-n", self.switch, "link", "set", self.link, "up"])


@contextmanager
def network(count: int) -> Iterator[list[Host]]:
    """So many hosts.

    Raises:
        Missing: `ip` is not installed, or namespaces may not be made here.
    """
    if shutil.which("ip") is None:
        raise Missing("ip is not installed: apt-get install iproute2")
    mark = f"i{os.getpid() % 100000}"
    subnet = 1 + os.getpid() % 250
    switch = f"{mark}s"
    hosts = [
        Host(f"{mark}h{i}", f"10.77.{subnet}.{i + 1}", f"{mark}v{i}", switch) for i in range(count)
    ]
    try:
        try:
            _lay(switch, hosts)
        except RuntimeError as error:
            raise Missing(f"network namespaces cannot be made here: {error}") from None
        yield hosts
    finally:
        for host in hosts:
            with suppress(RuntimeError):
                host.kill()
        _take_away([switch, *(host.space for host in hosts)])


def _lay(switch: str, hosts: Sequence[Host]) -> None:
    says(["ip", "netns", "add", switch])
    says(["ip", "-n", switch, "link", "add", "bridge", "type", "bridge"])
    says(["ip", "-n", switch, "link", "set", "bridge", "up"])
    for host in hosts:
        says(["ip", "netns", "add", host.space])
        says(["ip", "-n", host.space, "link", "set", "lo", "up"])
        ends = ["link", "add", host.link, "type", "veth", "peer", "name", "eth0"]
        says(["ip", *ends, "netns", host.space])
        says(["ip", "link", "set", host.link, "netns", switch])
        says(["ip", "-n", switch, "link", "set", host.link, "master", "bridge", "up"])
        says(["ip", "-n", host.space, "addr", "add", f"{host.address}/24", "dev", "eth0"])
        says(["ip", "-n", host.space, "link", "set", "eth0", "up"])


def _take_away(spaces: Sequence[str]) -> None:
    for space in spaces:
        with suppress(RuntimeError):
            says(["ip", "netns", "del", space])
