"""Who owns what, as the study's storage says.

A *lease* names its holder, the host of that and when it runs out; who holds it renews it. It is
claimed in one statement, so that of several who want it one gets it, wherever they run and whatever
file system they share. There is one for planning a study, and one for each start, each worker and
each run in progress (docs/decisions/086-the-storage-decides.md).
"""

import json
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import uniform
from typing import Any
from uuid import uuid4

from sqlalchemy import (
    Column,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    delete,
    insert,
    or_,
    select,
)
from sqlalchemy import update as change
from sqlalchemy.engine import Engine
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from search.study.locks import HOST, state_of
from search.study.patience import Patience
from search.study.plan import GRACE_S

BEATS = 6
"""Renewals in that time."""
PAUSE_S = (0.02, 0.1)
"""Between two looks at a lease that another has: drawn between these, for several that wait."""
PLANNING, START, WORKER, RUN = "planning", "start", "worker", "run"
"""What leases are for, as their names begin."""

TABLE = Table(
    "isoparam_leases",
    MetaData(),
    Column("name", String(512), primary_key=True),
    Column("holder", String(32), nullable=False, index=True),
    Column("study", String(512), nullable=False),
    Column("start", String(32), nullable=False),
    Column("owner", String(256), nullable=False),
    Column("host", String(256), nullable=False),
    Column("machine", String(64), nullable=False),
    Column("process", Integer, nullable=False),
    Column("expires", Float(53), nullable=False),
    Column("said", Text, nullable=False),
)


class now(FunctionElement[float]):
    """Seconds since 1970 by the database's clock, which is the same for all hosts."""

    type = Float()
    inherit_cache = True


@compiles(now, "sqlite")
def _(*_: Any, **__: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(now, "postgresql")
def _(*_: Any, **__: Any) -> str:
    return "extract(epoch from clock_timestamp())"


@compiles(now, "mysql")
@compiles(now, "mariadb")
def _(*_: Any, **__: Any) -> str:
    return "unix_timestamp(now(6))"


@dataclass(frozen=True, kw_only=True)
class Lease:
    """A lease as the storage has it."""

    name: str
    holder: str
    study: str
    start: str
    owner: str
    host: str
    machine: str
    process: int
    left_s: float
    """Until it runs out; less than 0: it has."""
    said: Mapping[str, Any]
    """What its holder says it does."""


class Leases:
    """The leases of one holder: a worker, or a start of a study. Each holder has a name of its own,
    so that a process that lost a lease never takes its successor's for it."""

    def __init__(
        self,
        engine: Engine,
        study: str,
        owner: str,
        start: str = "",
        grace_s: float = GRACE_S,
        patience: Patience | None = None,
    ) -> None:
        self.engine, self.study, self.grace_s = engine, study, grace_s
        self.holder = uuid4().hex
        self.start = start or self.holder
        self.patience = patience or Patience(engine)
        self.said: Mapping[str, Any] = {}
        """What goes into the storage at the next renewal."""
        self.held: set[str] = set()
        """Names that were claimed, until they are released or found lost."""
        self._own = {
            "holder": self.holder,
            "study": study,
            "start": self.start,
            "owner": owner,
            "host": HOST,
            "machine": machine(),
            "process": os.getpid(),
        }
        self._ended = threading.Event()

    def claim(self, name: str) -> bool:
        """Whether this lease is now this holder's: it was free, had run out, or was his before."""
        got = self.patience.wrap(self._claim)(name)
        if got:
            self.held.add(name)
        return got

    def _claim(self, name: str) -> bool:
        values = {**self._own, "expires": now() + self.grace_s, "said": json.dumps(self.said)}
        mine_or_free = or_(TABLE.c.holder == self.holder, TABLE.c.expires < now())
        with self.engine.begin() as database:
            taken = change(TABLE).where(TABLE.c.name == name, mine_or_free).values(**values)
            if database.execute(taken).rowcount:
                return True
            if database.execute(select(TABLE.c.name).where(TABLE.c.name == name)).first():
                return False
        try:
            with self.engine.begin() as database:
                database.execute(insert(TABLE).values(name=name, **values))
        except IntegrityError:
            return False  # another was quicker
        return True

    def owns(self, *names: str) -> bool:
        """Whether all are still this holder's. If so they are renewed, also after they ran out:
        nobody has taken them."""
        mine = (TABLE.c.name.in_(names), TABLE.c.holder == self.holder)
        renewed = change(TABLE).where(*mine).values(expires=now() + self.grace_s)
        if self._execute(renewed) == len(names):
            return True
        self.held &= self.patience.wrap(self._names)()
        return False

    def _names(self) -> set[str]:
        """Of all that is this holder's, as the storage has it."""
        mine = select(TABLE.c.name).where(TABLE.c.holder == self.holder)
        with self.engine.connect() as database:
            return set(database.execute(mine).scalars())

    def release(self, name: str) -> None:
        """Let others have it. Does nothing where it is theirs by now."""
        self.held.discard(name)
        mine = (TABLE.c.name == name, TABLE.c.holder == self.holder)
        if name.startswith(PLANNING):  # wanted again in a moment
            self._execute(change(TABLE).where(*mine).values(expires=0.0))
        else:
            self._execute(delete(TABLE).where(*mine))

    def renew(self) -> None:
        """Renew all that this holder has; what is gone is no longer `held`."""
        mine, before = TABLE.c.holder == self.holder, set(self.held)
        renewed = {"expires": now() + self.grace_s, "said": json.dumps(self.said)}
        with self.engine.begin() as database:
            database.execute(change(TABLE).where(mine, TABLE.c.expires > 0).values(**renewed))
            there = set(database.execute(select(TABLE.c.name).where(mine)).scalars())
        self.held -= before - there

    @contextmanager
    def holding(self, name: str, stopping: threading.Event | None = None) -> Iterator[bool]:
        """Wait until this lease is this holder's, and give it back at the end. Whether it is: not
        where `stopping` is set before."""
        waited, got = stopping or threading.Event(), False
        while not (got := self.claim(name)) and not waited.wait(uniform(*PAUSE_S)):
            pass
        try:
            yield got
        finally:
            if name in self.held:  # not given back before
                self.release(name)

    def keep(self) -> None:
        """Have a thread renew them until `close`."""
        threading.Thread(target=self._beat, daemon=True).start()

    def _beat(self) -> None:
        while not self._ended.wait(self.grace_s / BEATS):
            try:
                self.renew()
            except SQLAlchemyError:
                continue  # they last longer than that; who writes asks again

    def close(self) -> None:
        """Renew nothing any more, and give back what is held."""
        self._ended.set()
        self._execute(delete(TABLE).where(TABLE.c.holder == self.holder))
        self.held.clear()

    def read(self, kind: str, study: str | None = None) -> list[Lease]:
        """The leases of a kind, of this study or another, those that ran out included."""
        return self.patience.wrap(read)(self.engine, kind, study or self.study)

    def take_from(self, holders: Iterable[str]) -> None:
        """Take from these holders what has run out, so that who wakes up knows that it is lost."""
        gone = (TABLE.c.holder.in_(list(holders)), TABLE.c.expires < now())
        self._execute(delete(TABLE).where(*gone))

    def free(self, owner: str) -> None:
        """Give back what a worker of this start held that is known to be dead."""
        self._execute(delete(TABLE).where(TABLE.c.owner == owner, TABLE.c.start == self.start))

    def free_dead(self) -> None:
        """Give back what processes of this machine held that are dead."""
        here = TABLE.c.machine == machine()
        with self.engine.connect() as database:
            processes = database.execute(select(TABLE.c.process).where(here).distinct()).scalars()
            dead = [number for number in processes if not lives(number)]
        self._execute(delete(TABLE).where(here, TABLE.c.process.in_(dead)))

    def _execute(self, statement: Any) -> int:
        """The number of rows that a statement changed."""

        def once() -> int:
            with self.engine.connect() as database:  # one statement is a transaction by itself
                database = database.execution_options(isolation_level="AUTOCOMMIT")
                return int(database.execute(statement).rowcount)

        return self.patience.wrap(once)()


def read(engine: Engine, kind: str, study: str) -> list[Lease]:
    """The leases of a kind that a study has, by name."""
    columns = [column for column in TABLE.c if column.name not in ("expires", "said")]
    wanted = (
        select(*columns, (TABLE.c.expires - now()).label("left_s"), TABLE.c.said)
        .where(TABLE.c.study == study, TABLE.c.name.startswith(f"{kind}/", autoescape=True))
        .order_by(TABLE.c.name)
    )
    with engine.connect() as database:
        rows = [row._asdict() for row in database.execute(wanted)]
    return [
        Lease(**{**row, "left_s": float(row["left_s"]), "said": json.loads(row["said"])})
        for row in rows
    ]


@cache
def machine() -> str:
    """This boot of this machine, as seen from here: processes are known by number within it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}:{os.stat('/proc/self/ns/pid').st_ino}"[:64]
    except OSError:
        return HOST[:64]


def lives(process: int) -> bool:
    """Whether a process of this machine runs. One that has ended and that nobody has taken note of,
    as in a container whose first process does not, is a zombie, and dead."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return state_of(process) != "Z"
