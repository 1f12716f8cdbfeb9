"""One live owner a study, wherever the storage is and whatever the workspace."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
import pytest

from bench.database import Database, Owner
from bench.errors import StorageError, StudyLockedError
from bench.ownership import own, owner_of
from tests.storages import empty_storage, on_each_storage

if TYPE_CHECKING:
    from tests.postgresql import Server

# Owns the study until its standard input ends. The URL comes that way too: it holds a password.
OWNER = """
import sys
from bench.database import Database
from bench.ownership import own

with Database.open(sys.stdin.readline().strip()) as database, own("pets", database, print):
    print("owned", flush=True)
    sys.stdin.read()
"""


@contextmanager
def owner(url: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that owns the study `pets`."""
    command = [sys.executable, "-c", OWNER]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(f"{url}\n")
            process.stdin.flush()
            assert process.stdout.readline() == "owned\n"
            yield process
        finally:
            process.kill()


storage_url = on_each_storage(empty_storage)


@pytest.fixture
def said() -> list[str]:
    return []


def test_a_second_owner_is_refused_and_told_who_the_first_one_is_until_that_is_killed(
    storage_url: str, database: Database, said: list[str]
) -> None:
    with owner(storage_url) as process:
        first = owner_of("pets", database)
        assert first is not None
        assert (first.host, first.pid) == (socket.gethostname(), process.pid)

        with pytest.raises(StudyLockedError) as caught, own("pets", database, said.append):
            pass
        for fragment in ("'pets'", str(process.pid), first.host, first.since, "--study"):
            assert fragment in str(caught.value)
        assert owner_of("pets", database) == first
        assert said == []

        process.send_signal(signal.SIGKILL)
        process.wait()
        with own("pets", database, said.append):
            now = owner_of("pets", database)
            assert now is not None and now.pid == os.getpid()
        assert said == [f"taking over the study 'pets' from {first}, which has ended"]


def test_whose_name_is_stored_but_holds_no_lock_is_no_owner(database: Database) -> None:
    database.save_owner("pets", Owner("elsewhere", 123, "2026-01-01T00:00:00+00:00"))

    assert owner_of("pets", database) is None


def test_an_owner_that_is_done_leaves_nothing_to_take_over_even_by_an_error(
    database: Database, said: list[str]
) -> None:
    assert owner_of("pets", database) is None
    with pytest.raises(KeyboardInterrupt), own("pets", database, said.append):
        raise KeyboardInterrupt
    assert owner_of("pets", database) is None

    with own("pets", database, said.append):
        pass
    assert said == []


def test_an_owner_that_cannot_sign_off_lets_go_all_the_same(
    database: Database, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(database, "drop_owner", fail)
        with pytest.raises(OSError, match="no space"), own("pets", database, said.append):
            pass
    assert owner_of("pets", database) is None


@pytest.mark.parametrize("other", ["genres", "Pets", "a/b c", "é" * 200, "pets "])
def test_studies_of_any_name_have_locks_of_their_own(
    database: Database, other: str, said: list[str]
) -> None:
    with own("pets", database, said.append):
        assert owner_of(other, database) is None
        with own(other, database, said.append):
            assert owner_of(other, database) is not None
            with pytest.raises(StudyLockedError), own(other, database, said.append):
                pass


def test_whoever_looks_at_the_lock_does_not_hold_it(database: Database, said: list[str]) -> None:
    with own("pets", database, said.append):
        assert [owner_of("pets", database) is not None for _ in range(3)] == [True] * 3
    assert owner_of("pets", database) is None
    with own("pets", database, said.append):
        pass


def test_an_sqlite_file_has_one_lock_by_whatever_path_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "link.db").symlink_to(tmp_path / "runs" / "bench.db")
    monkeypatch.chdir(tmp_path)
    with (
        Database.open(f"sqlite:///{tmp_path / 'runs' / 'bench.db'}") as absolute,
        Database.open("sqlite:///runs/bench.db") as relative,
        Database.open("sqlite:///elsewhere/link.db") as linked,
        own("pets", absolute, said.append),
    ):
        for database in (relative, linked):
            with pytest.raises(StudyLockedError), own("pets", database, said.append):
                pass


# --- a lost connection ----------------------------------------------------------------------


def cut(server: Server) -> None:
    """End all connections to the database, as a restarted server or a lost network does."""
    server.ask(
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
        "WHERE datname = 'bench' AND pid <> pg_backend_pid()"
    )


def test_an_owner_whose_connection_was_cut_writes_nothing_more_and_ends(
    postgresql: Server, postgresql_url: str, said: list[str]
) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with Database.open(postgresql_url) as first, Database.open(postgresql_url) as second:
        study = optuna.create_study(study_name="pets", storage=first.storage)
        with pytest.raises(StorageError) as caught, own("pets", first, said.append):
            trial = study.ask()
            cut(postgresql)
            with own("pets", second, said.append):
                optuna.load_study(study_name="pets", storage=second.storage).tell(0, 0.75)
                with pytest.raises(StorageError):
                    first.drop_epochs("pets")
                assert owner_of("pets", second) is not None
                study.tell(trial, 0.5)

        assert "the lock of the study 'pets' was lost" in str(caught.value)
        assert study.best_value == 0.75
        assert len(said) == 1 and said[0].startswith("taking over the study 'pets' from process")
