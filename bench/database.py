"""One database, SQLite or PostgreSQL: Optuna's tables, left to Optuna, and ours beside them.

Only the process that owns a study writes to it. SQLite is opened with write-ahead logging, and
every transaction says at once that it will write, because a reader that turns writer half-way
fails with "database is locked" or works on what it read too early.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import optuna
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, Engine, make_url

from bench.errors import InputError, StorageError
from bench.records import (
    Conditions,
    Environment,
    EpochScores,
    LatencyRow,
    ModelRecord,
    ProtocolScores,
    StudyPlan,
    from_json,
    to_json,
)
from bench.workspace import locked, make_folder

T = TypeVar("T")

_tables = sa.MetaData()

_datasets = sa.Table(
    "bench_datasets",
    _tables,
    sa.Column("fingerprint", sa.String(64), primary_key=True),
    sa.Column("name", sa.String(255), nullable=False),
    sa.Column("pictures", sa.Integer, nullable=False),
    sa.Column("record", sa.Text, nullable=False),
    sa.Column("created", sa.String(32), nullable=False),
)
_splits = sa.Table(
    "bench_splits",
    _tables,
    sa.Column("fingerprint", sa.String(64), primary_key=True),
    sa.Column("dataset_fingerprint", sa.String(64), nullable=False),
    sa.Column("record", sa.Text, nullable=False),
    sa.Column("created", sa.String(32), nullable=False),
)
_studies = sa.Table(
    "bench_studies",
    _tables,
    sa.Column("study", sa.String(255), primary_key=True),
    sa.Column("plan", sa.Text, nullable=False),
    sa.Column("environment", sa.Text, nullable=False),
    sa.Column("created", sa.String(32), nullable=False),
)
# Studies that have a name and no plan yet: it takes the pictures, which may be many.
_preparing = sa.Table(
    "bench_preparing",
    _tables,
    sa.Column("study", sa.String(255), primary_key=True),
    sa.Column("created", sa.String(32), nullable=False),
)
_epochs = sa.Table(
    "bench_epochs",
    _tables,
    sa.Column("study", sa.String(255), primary_key=True),
    sa.Column("trial", sa.Integer, primary_key=True),
    sa.Column("fold", sa.Integer, primary_key=True),
    sa.Column("epoch", sa.Integer, primary_key=True),
    sa.Column("train_loss", sa.Float, nullable=False),
    sa.Column("loss", sa.Float, nullable=False),
    sa.Column("balanced_accuracy", sa.Float, nullable=False),
    sa.Column("precision", sa.Float, nullable=False),
    sa.Column("recall", sa.Float, nullable=False),
    sa.Column("f1", sa.Float, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
)
_conditions = sa.Table(
    "bench_conditions",
    _tables,
    sa.Column("study", sa.String(255), primary_key=True),
    sa.Column("trial", sa.Integer, primary_key=True),
    sa.Column("fold", sa.Integer, primary_key=True),
    sa.Column("record", sa.Text, nullable=False),
)
_models = sa.Table(
    "bench_models",
    _tables,
    sa.Column("study", sa.String(255), primary_key=True),
    sa.Column("name", sa.String(255), primary_key=True),
    sa.Column("backbone", sa.String(255), nullable=False),
    sa.Column("test_balanced_accuracy", sa.Float, nullable=False),
    sa.Column("record", sa.Text, nullable=False),
    sa.Column("created", sa.String(32), nullable=False),
)
_latencies = sa.Table(
    "bench_latencies",
    _tables,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("device", sa.String(16), nullable=False),
    sa.Column("batch_size", sa.Integer, nullable=False),
    sa.Column("p50_ms", sa.Float, nullable=False),
    sa.Column("record", sa.Text, nullable=False),
    sa.Column("created", sa.String(32), nullable=False),
)
_protocol_scores = sa.Table(
    "bench_protocol_scores",
    _tables,
    sa.Column("study", sa.String(255), primary_key=True),
    sa.Column("model", sa.String(255), primary_key=True),
    sa.Column("protocol", sa.String(32), primary_key=True),
    sa.Column("test_balanced_accuracy", sa.Float, nullable=False),
    sa.Column("record", sa.Text, nullable=False),
    sa.Column("created", sa.String(32), nullable=False),
)
_owners = sa.Table(
    "bench_owners",
    _tables,
    sa.Column("study", sa.String(255), primary_key=True),
    sa.Column("host", sa.String(255), nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("since", sa.String(32), nullable=False),
)

# The drivers that are supported, by what a URL may call them.
_DRIVERS = {
    "sqlite": "sqlite",
    "sqlite+pysqlite": "sqlite",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
}
# What an option of a URL may show; the value of any other could be a password.
_HARMLESS_OPTIONS = frozenset({"host", "port", "sslmode", "timeout", "uri", "user"})
_OPENING = 0x62656E6368  # the advisory lock of whoever creates the tables: "bench" in ASCII


@dataclass(frozen=True, slots=True)
class Owner:
    """The process that runs a study. since: ISO 8601, UTC."""

    host: str
    pid: int
    since: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"


class Database:
    """Typed access to the tables; records go in and come out.

    As a context manager it closes itself, and tells a database that stops answering on the way
    as a `StorageError`.
    """

    def __init__(self, storage: optuna.storages.RDBStorage) -> None:
        self.storage = storage
        self._engine = storage.engine

    @classmethod
    def open(cls, url: str) -> Database:
        """Open a database by SQLAlchemy URL, creating the tables that are missing.

        Raises:
            InputError: the URL is malformed, its driver is missing, or no database answers there.
        """
        try:
            parsed = _parse(url)
            with _opening_alone(parsed):
                storage = optuna.storages.RDBStorage(
                    _optuna_url(parsed), engine_kwargs=_engine_options(parsed)
                )
                if parsed.get_backend_name() == "sqlite":
                    _tune_sqlite(storage.engine)
                _tables.create_all(storage.engine)
        except (sa.exc.SQLAlchemyError, ImportError, RuntimeError) as error:
            raise InputError(
                f"--storage {safe_url(url)}: {_first_line(error)}; give a SQLAlchemy URL such as "
                "sqlite:///runs/bench.db or postgresql+psycopg://USER@HOST/NAME"
            ) from error
        return cls(storage)

    def close(self) -> None:
        self.storage.remove_session()
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
        outage = _outage(error)
        if outage is not None:
            raise StorageError(
                f"the database {safe_url(str(self._engine.url))} no longer answers "
                f"({_first_line(outage)}): what is finished is stored; mend it and give the same "
                "command again"
            ) from error

    # --- writing ----------------------------------------------------------------------------

    def save_preparing(self, study: str) -> None:
        """Store the name of a study that is being prepared, until its plan is stored."""
        with self._engine.begin() as connection:
            self._put(connection, _preparing, {"study": study}, created=_now())

    def drop_preparing(self, study: str) -> None:
        """Forget the name of a study that could not be prepared."""
        with self._engine.begin() as connection:
            connection.execute(_preparing.delete().where(_preparing.c.study == study))

    def is_preparing(self, study: str) -> bool:
        """Whether a study is being prepared for a run, or was when that was killed."""
        with self._engine.connect() as connection:
            found = sa.select(_preparing.c.study).where(_preparing.c.study == study)
            return connection.execute(found).first() is not None

    def save_plan(self, plan: StudyPlan, environment: Environment) -> None:
        """Store a study's plan with its data set and split, in one transaction."""
        dataset, split, now = plan.dataset, plan.split, _now()
        with self._engine.begin() as connection:
            self._put(
                connection,
                _datasets,
                {"fingerprint": dataset.fingerprint},
                name=dataset.name,
                pictures=len(dataset.pictures),
                record=_text(dataset),
                created=now,
            )
            self._put(
                connection,
                _splits,
                {"fingerprint": split.fingerprint},
                dataset_fingerprint=split.dataset_fingerprint,
                record=_text(split),
                created=now,
            )
            self._put(
                connection,
                _studies,
                {"study": plan.study},
                plan=_text(plan),
                environment=_text(environment),
                created=now,
            )
            connection.execute(_preparing.delete().where(_preparing.c.study == plan.study))

    def drop_epochs(self, study: str) -> None:
        """Forget all epochs of a study, and what they were trained under."""
        with self._engine.begin() as connection:
            for table in (_epochs, _conditions):
                connection.execute(table.delete().where(table.c.study == study))

    def save_epoch(
        self, study: str, trial: int, scores: EpochScores, conditions: Conditions | None = None
    ) -> None:
        """Store an epoch, and what it was trained under where that is told.

        An epoch that is told again replaces itself, and leaves the conditions of its fold alone.
        """
        values = {name: getattr(scores, name) for name in EpochScores.__dataclass_fields__}
        key = {"study": study, "trial": trial}
        key |= {"fold": values.pop("fold"), "epoch": values.pop("epoch")}
        with self._engine.begin() as connection:
            self._put(connection, _epochs, key, **values)
            if conditions is not None:
                del key["epoch"]
                self._put(connection, _conditions, key, record=_text(conditions))

    def save_model(self, model: ModelRecord) -> None:
        with self._engine.begin() as connection:
            self._put(
                connection,
                _models,
                {"study": model.study, "name": model.name},
                backbone=model.recipe.backbone,
                test_balanced_accuracy=model.test.balanced_accuracy,
                record=_text(model),
                created=_now(),
            )

    def drop_models(self, study: str, keep: Sequence[str]) -> None:
        """Forget the models of earlier promotions that are no longer among the chosen."""
        gone = sa.and_(_models.c.study == study, _models.c.name.not_in(keep))
        with self._engine.begin() as connection:
            connection.execute(_models.delete().where(gone))

    def save_protocol_scores(self, scores: ProtocolScores) -> None:
        """Store what a model's recipe scores under a protocol; it replaces what was there."""
        with self._engine.begin() as connection:
            self._put(
                connection,
                _protocol_scores,
                {"study": scores.study, "model": scores.model, "protocol": scores.protocol},
                test_balanced_accuracy=scores.test.balanced_accuracy,
                record=_text(scores),
                created=_now(),
            )

    def save_latencies(self, rows: Sequence[LatencyRow]) -> None:
        with self._engine.begin() as connection:
            for row in rows:
                connection.execute(
                    _latencies.insert().values(
                        path=row.path,
                        device=row.device,
                        batch_size=row.batch_size,
                        p50_ms=row.p50_ms,
                        record=_text(row),
                        created=_now(),
                    )
                )

    def save_owner(self, study: str, owner: Owner) -> None:
        with self._engine.begin() as connection:
            self._put(
                connection,
                _owners,
                {"study": study},
                host=owner.host,
                pid=owner.pid,
                since=owner.since,
            )

    def drop_owner(self, study: str) -> None:
        with self._engine.begin() as connection:
            connection.execute(_owners.delete().where(_owners.c.study == study))

    # --- reading ----------------------------------------------------------------------------

    def studies(self) -> tuple[str, ...]:
        """Names of all studies, in the order in which they were last run.

        Those that are being prepared, or were stopped while they were, have no plan yet.
        """
        runs = sa.union_all(
            *(sa.select(table.c.study, table.c.created) for table in (_studies, _preparing))
        ).subquery()
        last = sa.func.max(runs.c.created)
        query = sa.select(runs.c.study).group_by(runs.c.study).order_by(last, runs.c.study)
        return tuple(self._column(query))

    def load_plan(self, study: str) -> StudyPlan | None:
        found = self._column(sa.select(_studies.c.plan).where(_studies.c.study == study))
        return _decode(found[0], StudyPlan) if found else None

    def load_environment(self, study: str) -> Environment | None:
        found = self._column(sa.select(_studies.c.environment).where(_studies.c.study == study))
        return _decode(found[0], Environment) if found else None

    def load_epochs(self, study: str) -> dict[int, tuple[EpochScores, ...]]:
        """All epochs of a study, by trial number, in the order of training."""
        query = (
            sa.select(_epochs)
            .where(_epochs.c.study == study)
            .order_by(_epochs.c.trial, _epochs.c.fold, _epochs.c.epoch)
        )
        epochs: dict[int, list[EpochScores]] = {}
        with self._engine.connect() as connection:
            for row in connection.execute(query).mappings():
                values = {name: row[name] for name in EpochScores.__dataclass_fields__}
                epochs.setdefault(row["trial"], []).append(EpochScores(**values))
        return {trial: tuple(rows) for trial, rows in epochs.items()}

    def load_conditions(self, study: str, trial: int) -> dict[int, Conditions]:
        """What each fold of a trial was trained under, where that was recorded."""
        table = _conditions
        query = sa.select(table.c.fold, table.c.record)
        query = query.where(table.c.study == study, table.c.trial == trial)
        with self._engine.connect() as connection:
            rows = connection.execute(query.order_by(table.c.fold)).all()
        return {fold: _decode(record, Conditions) for fold, record in rows}

    def load_models(self, study: str) -> tuple[ModelRecord, ...]:
        query = sa.select(_models.c.record).where(_models.c.study == study).order_by(_models.c.name)
        return tuple(_decode(text, ModelRecord) for text in self._column(query))

    def load_protocol_scores(self, study: str) -> tuple[ProtocolScores, ...]:
        table = _protocol_scores
        query = sa.select(table.c.record).where(table.c.study == study)
        query = query.order_by(table.c.protocol, table.c.model)
        return tuple(_decode(text, ProtocolScores) for text in self._column(query))

    def load_latencies(self, paths: Sequence[str]) -> tuple[LatencyRow, ...]:
        """The newest row of each (file, batch size, set-up), in the order of measuring.

        The machine is a part of the set-up: rows of several machines stand side by side.
        """
        query = (
            sa.select(_latencies.c.record)
            .where(_latencies.c.path.in_(paths))
            .order_by(_latencies.c.id)
        )
        newest: dict[tuple[object, ...], LatencyRow] = {}
        for text in self._column(query):
            row = _decode(text, LatencyRow)
            key = (row.path, row.batch_size, *row.setup)
            newest.pop(key, None)  # so that the machine measured last stands last
            newest[key] = row
        return tuple(newest.values())

    def load_owner(self, study: str) -> Owner | None:
        """Whoever took the study last and did not hand it back; it need not be alive."""
        query = sa.select(_owners.c.host, _owners.c.pid, _owners.c.since)
        with self._engine.connect() as connection:
            row = connection.execute(query.where(_owners.c.study == study)).one_or_none()
        return Owner(*row) if row else None

    def _column(self, query: sa.Select[Any]) -> list[Any]:
        with self._engine.connect() as connection:
            return list(connection.execute(query).scalars())

    @staticmethod
    def _put(
        connection: sa.Connection, table: sa.Table, key: dict[str, Any], **values: Any
    ) -> None:
        """Insert a row, or overwrite the one with the same key, in one statement.

        Two coordinators of two studies may store their common data set at the same moment.
        """
        insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
        row = insert(table).values(**key, **values)
        connection.execute(row.on_conflict_do_update(index_elements=list(key), set_=values))


def safe_url(url: str) -> str:
    """A URL that can be printed: passwords, and options that could hold one, are stars."""
    try:
        parsed = make_url(url)
        _refuse_stray_at(parsed)
    except (sa.exc.ArgumentError, ValueError):  # ValueError: the port is not a number
        return "(not a URL)"
    hidden = {name: "***" for name in parsed.query if name not in _HARMLESS_OPTIONS}
    return parsed.update_query_dict(hidden).render_as_string(hide_password=True)


def _parse(url: str) -> URL:
    """Take a URL apart; no message of this may quote what could be a part of a password."""
    try:
        parsed = make_url(url)
    except ValueError:
        raise sa.exc.ArgumentError(f"the port is not a number {_ENCODING}") from None
    except sa.exc.ArgumentError:
        raise sa.exc.ArgumentError("this is not a URL") from None
    _refuse_stray_at(parsed)
    if parsed.drivername not in _DRIVERS:
        raise sa.exc.ArgumentError(f"{parsed.drivername} is none of {', '.join(_DRIVERS)}")
    if parsed.get_backend_name() == "sqlite" and ":memory:" in (parsed.database or ":memory:"):
        # Each connection would see an empty database of its own.
        raise sa.exc.ArgumentError("a database in memory is lost with the connection")
    return parsed.set(drivername=_DRIVERS[parsed.drivername])


_ENCODING = "(a password's own : / @ are written %3A %2F %40)"


def _refuse_stray_at(url: URL) -> None:
    """A password's own @ makes its rest a part of the host or of the database's name."""
    if "@" in (url.host or "") or (url.host and "@" in (url.database or "")):
        raise sa.exc.ArgumentError(f"the host or the database's name has an @ in it {_ENCODING}")


def _optuna_url(url: URL) -> str:
    # Optuna takes the text for a template, so that braces in a path or password would break it.
    return url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")


@contextmanager
def _opening_alone(url: URL) -> Iterator[None]:
    """Let one process at a time create tables, because none of them finds the others' half-made.

    Raises:
        ImportError: the driver is not installed.
    """
    if url.get_backend_name() == "sqlite":
        file = Path(url.database or "")
        # Where there is no such folder, SQLite itself says so.
        if file.parent.is_dir():
            make_folder(
                file.parent,
                "the database's folder",
                "even who only looks at a study needs that right, for SQLite keeps files of its "
                "own there; ask for it, or copy the folder",
            )
        with (
            locked(file.parent / f".{file.name}.opening") if file.parent.is_dir() else nullcontext()
        ):
            yield
        return
    try:
        import psycopg  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"PostgreSQL needs the extra `postgresql`: pip install 'bench[postgresql]' ({error})"
        ) from error
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_OPENING)))
        yield


def _engine_options(url: URL) -> dict[str, Any]:
    if url.get_backend_name() == "sqlite":
        return {"connect_args": {"timeout": 60}}
    return {"pool_pre_ping": True}  # a server may have dropped a connection while a fold trained


def _tune_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: Any) -> None:
        # The driver's own transaction handling is off, so that `begin` below can choose the kind.
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    @event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    engine.dispose()  # connections opened before the listeners go


def _decode(text: str, kind: type[T]) -> T:
    try:
        return from_json(text, kind)
    except ValueError as error:
        raise InputError(
            f"this database was written by another version of bench ({error}): go on with that "
            "version, or give another --workspace"
        ) from error


def _text(record: object) -> str:
    return to_json(record).decode()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _outage(error: BaseException | None) -> BaseException | None:
    """Find the database's own failure behind an error, if that is what it came from."""
    while error is not None and not isinstance(
        error, sa.exc.OperationalError | sa.exc.InterfaceError
    ):
        error = error.__cause__
    return error


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
