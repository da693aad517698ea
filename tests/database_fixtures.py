"""PostgreSQL from Debian, started by the tests on loopback, and SQLite beside it."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest

SETTINGS = """
listen_addresses = '127.0.0.1'
port = {port}
unix_socket_directories = ''
max_connections = 200
fsync = off
"""


@dataclass(frozen=True)
class Postgres:
    """A server that runs."""

    folder: Path
    programs: Path
    port: int

    def url(self, database: str = "postgres") -> str:
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """The URL of an empty one."""
        import psycopg

        name = f"d{uuid4().hex}"
        plain = self.url().replace("+psycopg", "")
        with psycopg.connect(plain, autocommit=True) as connection:
            connection.execute(f"create database {name}")  # type: ignore[arg-type]
        return self.url(name)

    def start(self) -> None:
        self.ask("pg_ctl", "-D", self.folder, "-l", self.folder / "log", "-w", "start")

    def stop(self, mode: str = "fast") -> None:
        """`fast` ends all connections with a word, `immediate` as a crash does."""
        self.ask("pg_ctl", "-D", self.folder, "-m", mode, "-w", "stop")

    def ask(self, program: str, *arguments: object) -> None:
        """Run one of its programs, as a user that it accepts: it refuses root."""
        other = [] if os.geteuid() else ["runuser", "-u", "postgres", "--"]
        words = [*other, self.programs / program, *arguments]
        subprocess.run(list(map(str, words)), check=True, stdout=subprocess.DEVNULL, cwd="/")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server of an empty database."""
    pytest.importorskip("psycopg")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="postgres"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        server = Postgres(folder / "data", found[-1].parent, free.getsockname()[1])
    if not os.geteuid():
        shutil.chown(folder, "postgres", "postgres")
    server.ask("initdb", "-D", server.folder, "-U", "postgres", "-N", "--auth=trust")
    with open(server.folder / "postgresql.conf", "a") as settings:
        settings.write(SETTINGS.format(port=server.port))
    server.start()
    yield server
    server.stop("immediate")
    shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/leases.db"
    server: Postgres = request.getfixturevalue("postgres")
    return server.new_database()
