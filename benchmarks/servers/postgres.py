"""PostgreSQL on this machine or a host of it, and a standby that may take over."""

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

from benchmarks.servers import Missing, alive, free_ports, says, wait_until
from benchmarks.servers.network import HERE, Host, Machine

PASSWORD = "secret"
SETTINGS = """
listen_addresses = '{address}'
port = {port}
unix_socket_directories = ''
fsync = off
max_connections = 200
"""


@dataclass(frozen=True)
class Postgres:
    """A server that runs."""

    folder: Path
    programs: Path
    port: int
    host: Host | Machine = HERE

    def url(self, database: str = "postgres", *others: "Postgres") -> str:
        """The storage of a study there, or on which of several servers takes what is written."""
        account = f"postgresql+psycopg://postgres:{PASSWORD}@"
        if not others:
            return f"{account}{self.host.address}:{self.port}/{database}"
        hosts = "".join(f"host={x.host.address}:{x.port}&" for x in (self, *others))
        return f"{account}/{database}?{hosts}target_session_attrs=read-write"

    def new_database(self) -> str:
        """The URL of an empty one."""
        name = f"d{uuid4().hex}"
        self.execute(f"create database {name}")
        return self.url(name)

    def execute(self, statement: str) -> list[tuple[object, ...]]:
        """The rows that a statement returns."""
        import psycopg

        plain = self.url().replace("+psycopg", "")
        with psycopg.connect(plain, autocommit=True) as connection:
            done = connection.execute(statement)
            return done.fetchall() if done.description else []

    def start(self) -> None:
        log = str(self.folder.parent / "postgres.log")
        says(self._as_postgres("pg_ctl", "-D", str(self.folder), "-l", log, "-w", "start"))

    def stop(self, mode: str = "fast") -> None:
        """`fast` ends all connections with a word, `immediate` as a crash does."""
        says(self._as_postgres("pg_ctl", "-D", str(self.folder), "-m", mode, "-w", "stop"))

    def kill(self) -> None:
        """End it at once, as a crash would; it may have ended."""
        with suppress(RuntimeError):
            self.stop("immediate")

    def lose(self) -> None:
        """Kill its processes, as a loss of power would."""
        first = int((self.folder / "postmaster.pid").read_text().split()[0])
        children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        for pid in (first, *map(int, children)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not alive(first), 10, "the server has survived SIGKILL")

    def promote(self) -> None:
        """Make a standby the primary."""
        says(self._as_postgres("pg_ctl", "-D", str(self.folder), "-w", "promote"))

    def _as_postgres(self, program: str, *arguments: str) -> list[str]:
        return self.host.command(*_as_user(), str(self.programs / program), *arguments)

    @contextmanager
    def running(self) -> Iterator["Postgres"]:
        """This, started, and ended at the end."""
        self.start()
        try:
            yield self
        finally:
            self.kill()


@contextmanager
def postgres(folder: Path, host: Host | Machine = HERE) -> Iterator[Postgres]:
    """A new server with an empty database, in `folder`, which is made.

    Raises:
        Missing: it is not installed.
    """
    server = Postgres(folder / "data", _programs(), free_ports(1)[0], host)
    folder.mkdir(parents=True)
    password = folder / "password"
    password.write_text(PASSWORD)
    if _as_user():
        for path in (folder, password):
            shutil.chown(path, "postgres", "postgres")
    says(
        server._as_postgres(
            *("initdb", "-D", str(server.folder), "-U", "postgres", "-N"),
            *("--auth=scram-sha-256", f"--pwfile={password}"),
        )
    )
    with open(server.folder / "postgresql.conf", "a") as settings:
        settings.write(SETTINGS.format(address=host.address, port=server.port))
    with open(server.folder / "pg_hba.conf", "a") as access:
        access.write("host all all 0.0.0.0/0 scram-sha-256\n")
    with server.running():
        yield server


@contextmanager
def standby_of(primary: Postgres) -> Iterator[Postgres]:
    """A copy that follows a server, which from now on says that something is written once the copy
    has it too."""
    port = free_ports(1)[0]
    copy = replace(primary, folder=primary.folder.with_name("standby"), port=port)
    source = f"{primary.url().replace('+psycopg', '')}?application_name=standby"
    says(
        copy._as_postgres(
            *("pg_basebackup", "-D", str(copy.folder), "-R", "-c", "fast", "-d", source)
        )
    )
    with open(copy.folder / "postgresql.conf", "a") as settings:
        settings.write(f"port = {port}\n")
    with copy.running():
        primary.execute("alter system set synchronous_standby_names = 'standby'")
        primary.execute("select pg_reload_conf()")
        yield copy


def _as_user() -> list[str]:
    """It refuses to run as root."""
    return [] if os.geteuid() else ["runuser", "-u", "postgres", "--"]


def _programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        raise Missing("PostgreSQL is not installed: apt-get install postgresql")
    return found[-1].parent
