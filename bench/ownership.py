"""One live owner a study, held by the storage itself, however many workspaces share it.

Beside an SQLite file the lock is a file that the kernel releases when its owner dies; in
PostgreSQL it is an advisory lock that the server releases when its owner's connection ends. Who
the owner is stands in the table of owners, for people to read; only the lock decides.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol, TextIO

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Engine

from bench.database import Database, Owner
from bench.errors import StorageError, StudyLockedError

# A killed owner's server process needs a moment to see that its connection has ended.
_WAIT_MS = 1_000
# An owner whose machine is cut off loses its lock, and knows it, after 60 + 3 x 10 seconds.
_CLIENT_KEEPALIVE = {
    "keepalives_idle": 60,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 90_000,
}
_SERVER_SETTINGS = f"""
    SET tcp_keepalives_idle = 60;
    SET tcp_keepalives_interval = 10;
    SET tcp_keepalives_count = 3;
    SET lock_timeout = {_WAIT_MS};
"""


@contextmanager
def own(study: str, database: Database, say: Callable[[str], None]) -> Iterator[None]:
    """Hold a study's lock. `say` is told when the last owner ended without handing it back.

    While PostgreSQL's lock is held, each transaction of `database` looks first whether it still
    is, so that nothing is written to a study that may have another owner by now.

    Raises:
        StudyLockedError: another live process holds it; the message says which.
        StorageError: the lock was lost while the block ran.
    """
    lock = _lock_of(study, database)
    if not lock.take():
        raise StudyLockedError(
            f"the study {study!r} is being run by {database.load_owner(study) or 'a process'}: "
            "wait for it, stop it, or give another name with --study"
        )
    try:
        last = database.load_owner(study)
        if last is not None:
            say(f"taking over the study {study!r} from {last}, which has ended")
        now = datetime.now(UTC).isoformat(timespec="seconds")
        database.save_owner(study, Owner(socket.gethostname(), os.getpid(), now))
        yield
    finally:
        try:
            if lock.is_mine():
                database.drop_owner(study)
        finally:  # a full disk must not leave the study locked
            lock.release()


def owner_of(study: str, database: Database) -> Owner | None:
    """The live process that runs a study, or None: whoever ran it has ended."""
    return database.load_owner(study) if _lock_of(study, database).is_taken() else None


class _Lock(Protocol):
    def take(self) -> bool:
        """Take the lock unless somebody holds it; whether it was taken."""
        ...

    def is_mine(self) -> bool:
        """Whether the lock that was taken is still held."""
        ...

    def is_taken(self) -> bool:
        """Whether anybody holds the lock, without standing in the way of who takes it."""
        ...

    def release(self) -> None: ...


def _lock_of(study: str, database: Database) -> _Lock:
    engine = database.storage.engine
    kind = _FileLock if engine.dialect.name == "sqlite" else _AdvisoryLock
    return kind(study, engine)


def _key(study: str) -> bytes:
    """Eight bytes for any name, which may hold what a file's name cannot."""
    return hashlib.sha256(study.encode()).digest()[:8]


class _FileLock:
    """A locked file beside the SQLite file.

    Taking it and looking at it happen in transactions, which SQLite lets one process at a time
    begin: so a look, which is a lock of a moment, never refuses an owner.
    """

    def __init__(self, study: str, engine: Engine) -> None:
        self._engine = engine
        with engine.connect() as connection:
            (main,) = connection.execute(
                sa.text("SELECT file FROM pragma_database_list WHERE name = 'main'")
            ).scalars()
        database = Path(main).resolve()
        self._file = database.with_name(f".{database.name}.{_key(study).hex()}.owner")
        self._held: TextIO | None = None

    def take(self) -> bool:
        stream = self._file.open("a")
        with self._engine.begin():
            if _flock(stream, fcntl.LOCK_EX):
                self._held = stream
                return True
        stream.close()
        return False

    def is_mine(self) -> bool:
        return self._held is not None

    def is_taken(self) -> bool:
        if not self._file.exists():
            return False
        with self._engine.begin(), self._file.open() as stream:
            return not _flock(stream, fcntl.LOCK_SH)

    def release(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None


def _flock(stream: TextIO, kind: int) -> bool:
    try:
        fcntl.flock(stream, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class _AdvisoryLock:
    """A session-level advisory lock of PostgreSQL, on a connection that does nothing else.

    The connection is the driver's own: SQLAlchemy's would silently become another one, without
    the lock, after it broke.
    """

    def __init__(self, study: str, engine: Engine) -> None:
        self._study = study
        self._engine = engine
        self._key = int.from_bytes(_key(study), "big", signed=True)

    def take(self) -> bool:
        import psycopg

        _, options = self._engine.dialect.create_connect_args(self._engine.url)
        try:
            self._connection = psycopg.connect(
                **{**_CLIENT_KEEPALIVE, **options, "autocommit": True}
            )
            self._connection.execute(_SERVER_SETTINGS)
            self._connection.execute("SELECT pg_advisory_lock(%s)", (self._key,))
        except psycopg.errors.LockNotAvailable:
            self._connection.close()
            return False
        except psycopg.OperationalError as error:
            raise StorageError(
                f"the lock of the study {self._study!r} cannot be taken: {error}"
            ) from error
        event.listen(self._engine, "begin", self._refuse_without)
        return True

    def is_mine(self) -> bool:
        import psycopg

        try:
            self._connection.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def is_taken(self) -> bool:
        # The server shows a key's halves, and 1 for a key of eight bytes.
        held = sa.text(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
            "AND (CAST(classid AS bigint) << 32) | CAST(objid AS bigint) = :key AND objsubid = 1"
        )
        with self._engine.connect() as connection:
            return bool(connection.execute(held, {"key": self._key}).scalar_one())

    def release(self) -> None:
        import psycopg

        event.remove(self._engine, "begin", self._refuse_without)
        # Of a connection that is closed the server gives the locks back when it comes to it.
        with contextlib.suppress(psycopg.OperationalError):
            self._connection.execute("SELECT pg_advisory_unlock(%s)", (self._key,))
        self._connection.close()

    def _refuse_without(self, _connection: sa.Connection) -> None:
        if not self.is_mine():
            raise StorageError(
                f"the connection that holds the lock of the study {self._study!r} was lost, so "
                "that another process may own it: what is finished is stored; give the same "
                "command again to go on"
            )
