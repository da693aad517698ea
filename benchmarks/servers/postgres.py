"""PostgreSQL on this machine, reached by an address and a port of its own."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from benchmarks.servers import Missing, free_ports, says

PASSWORD = "secret"
SETTINGS = """
listen_addresses = '{addresses}'
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
    prefix: tuple[str, ...] = ()
    """What commands begin with, such as those of a host of `benchmarks.servers.network`."""

    def url(self, host: str = "127.0.0.1", database: str = "postgres") -> str:
        """The storage of a study there."""
        return f"postgresql+psycopg://postgres:{PASSWORD}@{host}:{self.port}/{database}"

    def new_database(self) -> str:
        """The URL of an empty one."""
        import psycopg

        name = f"d{uuid4().hex}"
        plain = self.url().replace("+psycopg", "")
        with psycopg.connect(plain, autocommit=True) as connection:
            connection.execute(f"create database {name}")
        return self.url(database=name)

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

    def _as_postgres(self, program: str, *arguments: str) -> list[str]:
        return [*self.prefix, *_as_user(), str(self.programs / program), *arguments]


@contextmanager
def postgres(
    folder: Path, addresses: str = "127.0.0.1", prefix: Sequence[str] = ()
) -> Iterator[Postgres]:
    """A new server with an empty database, in `folder`, which is made.

    Raises:
        Missing: it is not installed.
    """
    server = Postgres(folder / "data", _programs(), free_ports(1)[0], tuple(prefix))
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
        settings.write(SETTINGS.format(addresses=addresses, port=server.port))
    with open(server.folder / "pg_hba.conf", "a") as access:
        access.write("host all all 0.0.0.0/0 scram-sha-256\n")
    server.start()
    try:
        yield server
    finally:
        server.kill()


def _as_user() -> list[str]:
    """It refuses to run as root."""
    return [] if os.geteuid() else ["runuser", "-u", "postgres", "--"]


def _programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        raise Missing("PostgreSQL is not installed: apt-get install postgresql")
    return found[-1].parent
