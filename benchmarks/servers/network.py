"""Hosts of this machine: network namespaces on one bridge, each with an address of its own.

This machine is on the bridge too. A host differs from it in its name and in its boot, so that no
process takes those of another host for its own neighbours, though they share their numbers.
"""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from benchmarks.servers import Missing, alive, is_command, says, wait_until

BOOT_ID = "/proc/sys/kernel/random/boot_id"


class Machine:
    """This machine, as a host."""

    address = "127.0.0.1"

    def command(self, *words: str) -> list[str]:
        return list(words)


HERE = Machine()


@dataclass(frozen=True)
class Host:
    """A namespace, by the name it has in messages of `ip`."""

    space: str
    address: str
    link: str
    """Its end on the bridge."""
    switch: str
    """The namespace of the bridge."""
    boot: Path
    """What the kernel says there of its last start."""

    def command(self, *words: str) -> list[str]:
        """The command, run there, with a host name and a boot of its own."""
        named = f"hostname {self.space} && mount --bind {self.boot} {BOOT_ID}"
        inside = ["unshare", "--uts", "--mount", "sh", "-c", f'{named} && exec "$@"', "sh", *words]
        return ["ip", "netns", "exec", self.space, *inside]

    def pids(self) -> list[int]:
        """All processes there."""
        return [int(pid) for pid in says(["ip", "netns", "pids", self.space]).split()]

    def running(self, program: str) -> list[int]:
        """Processes there with this word in their command line."""
        return [pid for pid in self.pids() if is_command(pid, program)]

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
    with tempfile.TemporaryDirectory(prefix="boots") as name:
        hosts = [
            Host(
                space=f"{mark}h{i}",
                address=f"10.77.{subnet}.{i + 1}",
                link=f"{mark}v{i}",
                switch=switch,
                boot=Path(name) / str(i),
            )
            for i in range(count)
        ]
        try:
            try:
                _lay(switch, hosts, f"10.77.{subnet}.254")
            except RuntimeError as error:
                raise Missing(f"network namespaces cannot be made here: {error}") from None
            yield hosts
        finally:
            for host in hosts:
                with suppress(RuntimeError):
                    host.kill()
            _take_away([switch, *(host.space for host in hosts)])


def _lay(switch: str, hosts: Sequence[Host], own: str) -> None:
    """Lay the cables; `own` is this machine's address."""
    says(["ip", "netns", "add", switch])
    says(["ip", "-n", switch, "link", "add", "bridge", "type", "bridge"])
    says(["ip", "-n", switch, "link", "set", "bridge", "up"])
    says(["ip", "link", "add", switch, "type", "veth", "peer", "name", "here", "netns", switch])
    says(["ip", "-n", switch, "link", "set", "here", "master", "bridge", "up"])
    says(["ip", "addr", "add", f"{own}/24", "dev", switch])
    says(["ip", "link", "set", switch, "up"])
    for host in hosts:
        host.boot.write_text(f"{uuid4()}\n")
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
