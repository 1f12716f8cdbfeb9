"""PostgreSQL by URL: what is refused and how, and that no output ever shows the password."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from wsgiref.util import setup_testing_defaults

import pytest
import sqlalchemy as sa

import cli
from bench import pipeline
from bench.database import Database, safe_url
from bench.errors import InputError, InterruptedRun, StorageError
from bench.ownership import own
from bench.records import Environment, StudyPlan
from bench.search.study import open_study
from bench.space import SearchSpace
from tests.tiny import SPACE, write_pictures

if TYPE_CHECKING:
    from tests.postgresql import Server

NEEDLE = "n33dle"
ENCODED = quote("n33dle:/@%{s}'", safe="")


@pytest.fixture
def bench(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> Any:
    """Run the command line in this process; return its exit code and all that it said."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(signal, "signal", lambda *_: None)

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["bench", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capfd.readouterr()
        return int(ended.value.code or 0), said.out + said.err

    return run


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


# --- what is refused ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"password": "another-n33dle"}, "password authentication failed"),
        ({"database": "n0where"}, 'database "n0where" does not exist'),
        ({"database": "bench?sslmode=n0ne"}, "sslmode"),
        ({"database": "bench?n33dle=1"}, "invalid connection option"),
    ],
)
def test_a_server_that_refuses_is_told_without_the_password(
    postgresql: Server, change: dict[str, str], reason: str
) -> None:
    with pytest.raises(InputError, match=r"^--storage postgresql") as caught:
        Database.open(postgresql.url(**{"database": "bench", **change}))
    assert reason in str(caught.value)
    assert NEEDLE not in str(caught.value).replace("?n33dle=", "").replace('"n33dle"', "")


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql+psycopg://me:{ENCODED}@127.0.0.1:PORT/bench",
        f"postgresql://me:{NEEDLE}@127.0.0.1:PORT/bench",
        f"postgresql://me@127.0.0.1:PORT/bench?password={ENCODED}",
        f"postgresql://127.0.0.1:PORT/bench?user=me&password={NEEDLE}&password={NEEDLE}",
        f"postgresql://127.0.0.1:PORT/bench?conninfo=password%3D{NEEDLE}",
        f"postgresql://127.0.0.1:PORT/bench?pasword={NEEDLE}",
        f"postgresql://me:a@{NEEDLE}@127.0.0.1:PORT/bench",
        f"postgresql://me:a/b@{NEEDLE}@127.0.0.1:PORT/bench",
        f"postgresql://me/{NEEDLE}@127.0.0.1:PORT/bench",
        f"postgresql://me:{NEEDLE}{{0}}@127.0.0.1:PORT/{{bench}}",
        f"postgresql+psycopg2://me:{NEEDLE}@127.0.0.1:PORT/bench",
        f"mysql://me:{NEEDLE}@127.0.0.1:PORT/bench",
        f"me:{NEEDLE}@127.0.0.1:PORT/bench",
    ],
)
def test_where_no_server_answers_no_spelling_of_a_password_is_shown(
    bench: Any, closed_port: int, url: str
) -> None:
    pytest.importorskip("psycopg")
    given = url.replace("PORT", str(closed_port))

    for arguments in (["status", "--storage", given], ["status", f"--storage={given}"]):
        code, said = bench(*arguments)
        assert code == 2
        assert "--storage" in said and "Traceback" not in said
        assert NEEDLE not in said
    assert NEEDLE not in safe_url(given)


def test_a_missing_driver_is_told_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)  # as an import of what is not there

    with pytest.raises(InputError, match=r"pip install 'bench\[postgresql\]'") as caught:
        Database.open(f"postgresql://me:{NEEDLE}@localhost/bench")
    assert NEEDLE not in str(caught.value)


def test_a_database_that_goes_away_is_told_as_such(postgresql: Server, postgresql_url: str) -> None:
    postgresql.ask("DROP DATABASE IF EXISTS passing")
    postgresql.ask("CREATE DATABASE passing")
    with (
        pytest.raises(StorageError, match="no longer answers") as caught,
        Database.open(postgresql.url("passing")) as database,
    ):
        postgresql.ask("DROP DATABASE passing WITH (FORCE)")
        database.studies()
    assert NEEDLE not in str(caught.value)


# --- several at a time ----------------------------------------------------------------------


def test_two_coordinators_may_store_their_common_data_set_at_once(
    postgresql_url: str, plan: StudyPlan, environment: Environment
) -> None:

    def coordinate(study: str) -> None:
        with Database.open(postgresql_url) as database:
            for _ in range(20):
                database.save_plan(replace(plan, study=study), environment)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(coordinate, ("pets", "zoo")))  # raises what they raised

    with Database.open(postgresql_url) as database:
        assert set(database.studies()) == {"pets", "zoo"}


# --- the password is shown nowhere ----------------------------------------------------------


@pytest.fixture
def study(postgresql_url: str, plan: StudyPlan, environment: Environment) -> str:
    """A study with a finished trial in the database; return the storage's URL."""
    space = SearchSpace.from_dict(SPACE)
    plan = replace(plan, space=space.as_dict())
    with Database.open(postgresql_url) as database, own("pets", database, lambda _: None):
        database.save_plan(plan, environment)
        begun = open_study(plan, database)
        begun.tell(begun.ask(space.distributions()), 0.5)
    return postgresql_url


@pytest.mark.parametrize("spelling", ["in the login", "in the query"])
def test_no_command_prints_or_writes_the_password(
    bench: Any, study: str, spelling: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = study
    if spelling == "in the query":
        url = study.replace(f":{ENCODED}@", "@") + f"?password={ENCODED}"
    served: list[Any] = []
    monkeypatch.setattr(
        "optuna_dashboard.run_server", lambda storage, **options: served.append(options)
    )
    for arguments in (
        ["status", "--storage", url],
        ["status", "--json", "--storage", url],
        ["status", "nobody", "--storage", url],
        ["report", "nobody", "--storage", url],
        ["report", "pets", "--storage", url],
        ["dashboard", f"--storage={url}"],
    ):
        _, said = bench(*arguments)
        assert said and NEEDLE not in said, arguments
    assert served and NEEDLE not in repr(served)
    written = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert any(file.name == "report.json" for file in written)
    assert [file for file in written if NEEDLE.encode() in file.read_bytes()] == []


@pytest.mark.parametrize("option", ["--storage {}", "--storage={}"])
def test_an_interrupted_search_repeats_its_command_without_the_password(
    bench: Any, study: str, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise InterruptedRun("stopped: what is finished is stored")

    monkeypatch.setattr(pipeline, "search", interrupted)

    code, said = bench("search", *option.format(study).split())

    assert code == 130
    assert "Go on with: bench search" in said
    assert "postgresql+psycopg://tester:***@127.0.0.1" in said
    assert NEEDLE not in said


def test_the_dashboard_serves_no_password(study: str) -> None:
    import optuna_dashboard

    with Database.open(study) as database:
        application = optuna_dashboard.wsgi(database.storage)
        for path in ("/api/meta", "/api/studies", "/api/studies/1"):
            environ: dict[str, Any] = {"PATH_INFO": path}
            setup_testing_defaults(environ)
            body = b"".join(application(environ, lambda *_: None))
            assert body and NEEDLE.encode() not in body, path


def test_no_table_holds_the_password(study: str) -> None:
    with Database.open(study) as database:
        engine = database.storage.engine
        tables = sa.MetaData()
        tables.reflect(engine)
        with engine.connect() as connection:
            rows = [row for t in tables.sorted_tables for row in connection.execute(sa.select(t))]
        assert rows and NEEDLE not in repr(rows)


def children_of(process: int) -> set[int]:
    """The processes that a process started, and those that they started."""
    found: set[int] = set()
    for listing in Path(f"/proc/{process}/task").glob("*/children"):
        # Whatever ends meanwhile takes its files along.
        with suppress(FileNotFoundError, ProcessLookupError):
            for child in map(int, listing.read_text().split()):
                found |= {child} | children_of(child)
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_real_search_with_workers_hands_no_child_the_password(
    postgresql_url: str, tmp_path: Path
) -> None:
    command = [
        sys.executable, "-m", "cli", "search", str(write_pictures(tmp_path / "pictures")),
        "--study", "tiny", "--trials", "4", "--folds", "2", "--epochs", "1", "--space", "demo",
        "--backbone", "test_resnet", "--image-size", "32", "--batch-size", "8", "--crop", "none",
        "--device", "cpu", "--no-pretrained", "--quick-latency", "--workers", "2", "--json",
        "--workspace", str(tmp_path / "runs"), "--storage", postgresql_url,
    ]  # fmt: skip
    shown: dict[int, list[bytes]] = defaultdict(list)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        for line in process.stdout:  # each line is a moment to look at
            assert NEEDLE.encode() not in line
            for child in children_of(process.pid):
                with suppress(FileNotFoundError, ProcessLookupError):
                    shown[child].append(Path(f"/proc/{child}/cmdline").read_bytes())
    assert process.returncode == 0
    # What was forked a moment ago shows its parent's, and its own the next time.
    forked = b"".join(os.fsencode(word) + b"\0" for word in command)
    commands = {words[-1] for words in shown.values() if words != [forked]}
    assert any(b"multiprocessing" in words for words in commands)
    assert [words for words in commands if NEEDLE.encode() in words] == []
    files = [file for file in (tmp_path / "runs").rglob("*") if file.is_file()]
    assert any(file.suffix == ".onnx" for file in files)
    assert [file for file in files if NEEDLE.encode() in file.read_bytes()] == []
