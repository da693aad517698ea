"""A start of a study, as other starts see it: several on one machine or many share the study."""

import atexit
from contextlib import suppress
from dataclasses import dataclass
from itertools import count

from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError

from search.study.leases import PLANNING, START, WORKER, Leases
from search.study.locks import HOST
from search.study.patience import Patience


class SeveralHosts(ValueError):
    """Of a study whose storage is a file of one host. Caught by workers, whose study it ends."""


@dataclass(frozen=True)
class Start:
    """One start, from when its study is opened until it ends."""

    leases: Leases
    place: int
    """The lowest number that no other start has which runs."""

    @property
    def name(self) -> str:
        return self.leases.start

    @property
    def planning(self) -> str:
        """The lease of who plans the study."""
        return f"{PLANNING}/{self.leases.study}"

    @property
    def alone(self) -> bool:
        """Whether no other start and no worker is there that lives."""
        leases = [*self.leases.read(START), *self.leases.read(WORKER)]
        return not any(lease.left_s > 0 and lease.start != self.name for lease in leases)

    def release(self) -> None:
        """It has ended."""
        atexit.unregister(self.release)
        self.leases.patience.stopping.set()
        with suppress(SQLAlchemyError):  # what is not given back runs out by itself
            self.leases.close()


def enter(engine: Engine, patience: Patience, study: str, owner: str, grace_s: float) -> Start:
    """A new start of a study.

    Raises:
        ValueError: the storage is a file, and another host works with it.
    """
    leases = Leases(engine, study, owner, grace_s=grace_s, patience=patience)
    leases.free_dead()
    place = next(i for i in count() if leases.claim(f"{START}/{study}/{i}"))
    start = Start(leases, place)
    try:
        require_one_host(leases)
    except SeveralHosts:
        leases.close()
        raise
    leases.keep()
    atexit.register(start.release)
    return start


def require_one_host(leases: Leases) -> None:
    """Raises: SeveralHosts where the storage is a file, and another host has a start of the
    study."""
    if leases.engine.dialect.name != "sqlite":
        return
    others = [one for one in leases.read(START) if one.left_s > 0 and one.host != HOST]
    if others:
        raise SeveralHosts(
            "storage must be PostgreSQL where several machines share a study, because SQLite's "
            f"file has no locks that hold between them, but {others[0].host} works on study "
            f"{leases.study} too; set storage=postgresql+psycopg://user@host/name for all, or wait "
            "for it"
        )
