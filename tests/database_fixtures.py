"""PostgreSQL from Debian, started by the tests on loopback, and SQLite beside it."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from benchmarks.servers import Missing
from benchmarks.servers.postgres import Postgres
from benchmarks.servers.postgres import postgres as served


@contextmanager
def new_server() -> Iterator[Postgres]:
    """An empty one; skips where PostgreSQL is not installed."""
    pytest.importorskip("psycopg")
    with tempfile.TemporaryDirectory(prefix="postgres") as name, ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)  # the server has a user of its own
        try:
            server = stack.enter_context(served(folder / "server"))
        except Missing as reason:
            pytest.skip(str(reason))
        yield server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server."""
    with new_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/leases.db"
    server: Postgres = request.getfixturevalue("postgres")
    return server.new_database()
