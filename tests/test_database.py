"""The rules of the database: what goes in comes out, on SQLite as on PostgreSQL."""

from __future__ import annotations

import errno
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa

from bench.database import Database, safe_url
from bench.errors import InputError
from bench.records import Conditions, LatencyRow, ProtocolScores
from tests.records import epoch_scores


@pytest.fixture
def reopened(storage_url: str, database: Database) -> Iterator[Database]:
    """A second opening of the same storage, as another process makes it."""
    with Database.open(storage_url) as opened:
        yield opened


def ask(database: Database, query: str) -> list[Any]:
    with database.storage.engine.connect() as connection:
        return list(connection.execute(sa.text(query)).scalars())


# --- what goes in comes out -----------------------------------------------------------------


def test_a_plan_and_its_environment_come_back(database, reopened, plan, environment):
    database.save_plan(plan, environment)
    assert reopened.load_plan("pets") == plan
    assert reopened.load_environment("pets") == environment
    assert reopened.studies() == ("pets",)


def test_what_was_never_stored_is_not_there(database):
    assert database.studies() == ()
    assert database.load_plan("pets") is None
    assert database.load_environment("pets") is None
    assert database.load_epochs("pets") == {}
    assert database.load_models("pets") == ()
    assert database.load_latencies(["pets/models/best/model.onnx"]) == ()
    assert database.load_latencies([]) == ()


def test_conditions_of_a_fold_outlive_epochs_told_again_and_go_with_the_study(database, reopened):
    then = Conditions(
        cpu="Test CPU",
        instructions="AVX2",
        threads=2,
        blas_threads=1,
        gpu=None,
        versions={"a": "1"},
    )
    database.save_epoch("pets", 3, epoch_scores(0, 0), then)
    database.save_epoch("pets", 3, epoch_scores(0, 1), then)
    database.save_epoch("pets", 3, epoch_scores(0, 0))
    database.save_epoch("pets", 3, epoch_scores(1, 0))
    assert reopened.load_conditions("pets", 3) == {0: then}
    assert reopened.load_conditions("pets", 4) == {}
    trained_anew = replace(then, threads=4)
    database.save_epoch("pets", 3, epoch_scores(0, 0), trained_anew)
    assert reopened.load_conditions("pets", 3) == {0: trained_anew}
    database.drop_epochs("pets")
    assert reopened.load_conditions("pets", 3) == {}


def test_a_plan_stored_again_replaces_itself(database, plan, environment):
    database.save_plan(plan, environment)
    later = replace(plan, notes=("another remark",))
    database.save_plan(later, environment)
    assert database.load_plan("pets") == later
    assert database.studies() == ("pets",)


def test_studies_are_listed_oldest_first_and_may_share_a_data_set(database, plan, environment):
    for name in ("zebra", "ant", "mole"):
        database.save_plan(replace(plan, study=name), environment)
    assert database.studies() == ("zebra", "ant", "mole")


def test_a_study_that_is_being_prepared_has_a_name_until_it_has_a_plan_or_is_refused(
    database, reopened, plan, environment
):
    for name in ("ant", "pets", "refused"):
        database.save_preparing(name)
        database.save_preparing(name)
    database.drop_preparing("refused")
    assert reopened.studies() == ("ant", "pets")
    assert reopened.load_plan("pets") is None

    database.save_plan(plan, environment)
    assert reopened.studies() == ("ant", "pets")
    database.drop_preparing("ant")
    database.drop_preparing("pets")
    assert reopened.studies() == ("pets",)


def test_a_data_set_and_a_split_are_stored_once_under_their_fingerprints(
    database, plan, environment
):
    for name in ("first", "second"):
        database.save_plan(replace(plan, study=name), environment)
    assert ask(database, "SELECT fingerprint FROM bench_datasets") == [plan.dataset.fingerprint]
    assert ask(database, "SELECT fingerprint FROM bench_splits") == [plan.split.fingerprint]


def test_epochs_come_back_by_trial_in_the_order_of_training(database, reopened):
    told = [(1, 1, 0), (0, 0, 1), (1, 0, 1), (0, 0, 0), (1, 0, 0), (10, 0, 0), (2, 0, 0)]
    for trial, fold, number in told:
        database.save_epoch("pets", trial, epoch_scores(fold, number))
    assert reopened.load_epochs("pets") == {
        0: (epoch_scores(0, 0), epoch_scores(0, 1)),
        1: (epoch_scores(0, 0), epoch_scores(0, 1), epoch_scores(1, 0)),
        2: (epoch_scores(0, 0),),
        10: (epoch_scores(0, 0),),
    }
    assert list(reopened.load_epochs("pets")) == [0, 1, 2, 10]
    assert reopened.load_epochs("other") == {}


def test_an_epoch_told_again_replaces_itself_and_nothing_else(database):
    for trial in (0, 1):
        for fold in (0, 1):
            database.save_epoch("pets", trial, epoch_scores(fold, 0, 0.4))
    database.save_epoch("other", 0, epoch_scores(0, 0, 0.4))
    database.save_epoch("pets", 0, epoch_scores(1, 0, 0.9))
    scores = {
        trial: [row.balanced_accuracy for row in rows]
        for trial, rows in database.load_epochs("pets").items()
    }
    assert scores == {0: [0.4, 0.9], 1: [0.4, 0.4]}
    assert database.load_epochs("other")[0][0].balanced_accuracy == 0.4


def test_models_come_back_by_name_and_the_newest_of_a_name_stands(database, reopened, model_record):
    other = replace(model_record, name="default", role="default", trial=0)
    database.save_model(replace(model_record, trial=99))
    database.save_model(other)
    database.save_model(model_record)
    assert reopened.load_models("pets") == (model_record, other)
    assert reopened.load_models("zoo") == ()


@pytest.mark.parametrize(
    ("keep", "left"),
    [
        (["best", "default"], ["best", "default"]),
        (["best"], ["best"]),
        (["unknown"], []),
        ([], []),
    ],
)
def test_models_that_are_not_kept_are_dropped_from_their_study_alone(
    database, model_record, keep, left
):
    for study in ("pets", "zoo"):
        for name in ("best", "default", "second"):
            database.save_model(replace(model_record, study=study, name=name))
    database.drop_models("pets", keep)
    assert [model.name for model in database.load_models("pets")] == left
    assert len(database.load_models("zoo")) == 3


def faster(row: LatencyRow) -> LatencyRow:
    return replace(
        row, samples=tuple(replace(sample, latencies_ns=(5_000_000,)) for sample in row.samples)
    )


def test_of_two_measurements_of_the_same_thing_the_newest_is_loaded(
    database, reopened, latency_row
):
    database.save_latencies([latency_row])
    database.save_latencies([faster(latency_row)])
    assert reopened.load_latencies([latency_row.path]) == (faster(latency_row),)


@pytest.mark.parametrize(
    "change",
    [
        {"path": "pets/models/best/model.int8.onnx"},
        {"device": "cuda"},
        {"precision": "int8"},
        {"batch_size": 8},
        {"threads": 1},
        {"scope": "end-to-end"},
        {"engine": "torch"},
        {"machine": "Another CPU, 2 cores"},
        {"device_name": "Another CPU"},
        {"options": {"tf32": "off"}},
    ],
)
def test_measurements_of_different_things_stand_side_by_side(database, latency_row, change):
    other = replace(latency_row, **change)
    database.save_latencies([latency_row, other])
    loaded = database.load_latencies([latency_row.path, other.path])
    assert sorted(loaded, key=repr) == sorted([latency_row, other], key=repr)


def test_latencies_of_other_files_are_not_loaded(database, latency_row):
    database.save_latencies([latency_row])
    assert database.load_latencies(["pets/models/default/model.onnx"]) == ()


def test_optunas_tables_lie_beside_ours(database):
    study = optuna.create_study(study_name="pets", storage=database.storage)
    study.tell(study.ask(), 0.5)
    assert optuna.load_study(study_name="pets", storage=database.storage).best_value == 0.5
    tables = sa.inspect(database.storage.engine).get_table_names()
    ours = {"datasets", "splits", "studies", "preparing", "epochs", "models", "protocol_scores",
            "latencies", "owners", "conditions"}  # fmt: skip
    assert {f"bench_{name}" for name in ours} == {t for t in tables if t.startswith("bench_")}
    assert {"studies", "trials", "trial_values"} <= set(tables)


def test_sqlite_is_opened_with_write_ahead_logging(tmp_path):
    with Database.open(f"sqlite:///{tmp_path / 'bench.db'}") as database:
        assert ask(database, "PRAGMA journal_mode") == ["wal"]


@pytest.mark.parametrize("name", ["with {braces}.db", "with space.db"])
def test_an_sqlite_file_may_have_any_name(tmp_path, name):
    with Database.open(f"sqlite:///{tmp_path / name}"):
        assert (tmp_path / name).exists()


def test_a_reader_is_not_kept_waiting_by_another_opening(
    database, reopened, plan, environment, model_record
):
    database.save_plan(plan, environment)
    assert reopened.load_plan("pets") is not None
    reopened.save_model(model_record)
    assert database.load_models("pets") == (model_record,)


# Opens the database when its input ends, so that several can be let go at one moment.
OPENER = """
import sys
from bench.database import Database
print("ready", flush=True)
Database.open(sys.stdin.read()).close()
"""


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_processes_that_open_an_empty_storage_at_once_all_can(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'bench.db'}"
    if kind == "postgresql":
        server = request.getfixturevalue("postgresql")
        server.ask("CREATE DATABASE fresh")
        url = server.url("fresh")
    with ExitStack() as stack:
        opening = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", OPENER],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for _ in range(3)
        ]
        for process in opening:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(url)
            process.stdin.flush()
            assert process.stdout.readline() == "ready\n"
        for process in opening:
            assert process.stdin is not None
            process.stdin.close()
        assert [process.wait() for process in opening] == [0, 0, 0]


# --- refusals -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "",
        "runs/bench.db",
        "sqlite:////no/such/folder/bench.db",
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "nosuch://me:secret@localhost/bench",
        "me:secret@localhost/bench",
        "postgresql://me:secret@localhost:port/bench",
        "nosuch://me:pa/secret@localhost:5432/bench",
        "nosuch://localhost/bench?user=me&password=secret",
    ],
)
def test_a_url_that_cannot_work_is_refused_with_the_remedy_and_without_its_password(url):
    with pytest.raises(
        InputError, match=r"^--storage .*; give a SQLAlchemy URL such as "
    ) as caught:
        Database.open(url)
    assert "secret" not in str(caught.value)


def test_a_folder_that_may_not_be_written_to_is_refused_with_what_it_takes(tmp_path, monkeypatch):
    def denied(**_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", denied)
    with pytest.raises(InputError, match=r"cannot be written to \(Permission denied\): even who"):
        Database.open(f"sqlite:///{tmp_path / 'bench.db'}")


def test_a_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("not a database " * 100)
    with pytest.raises(InputError, match="file is not a database"):
        Database.open(f"sqlite:///{tmp_path / 'notes.txt'}")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:///runs/bench.db", "sqlite:///runs/bench.db"),
        ("postgresql://me@host/bench", "postgresql://me@host/bench"),
        ("postgresql://me:secret@host:5432/bench", "postgresql://me:***@host:5432/bench"),
        ("postgresql://me:pa%2Fsecret@host/bench", "postgresql://me:***@host/bench"),
        ("postgresql://host/b?sslpassword=secret", "postgresql://host/b?sslpassword=%2A%2A%2A"),
        ("secret", "(not a URL)"),
        ("postgresql://me:pa/secret@host:1/bench", "postgresql://me:***@host:1/bench"),
        ("postgresql://me:secret@host:port/bench", "(not a URL)"),
    ],
)
def test_a_url_is_shown_without_its_password(url, shown):
    assert safe_url(url) == shown


def test_protocol_scores_come_back_and_replace_themselves(database, reopened, model_record):
    scores = ProtocolScores(
        study="pets",
        model="resnet50-best",
        trial=3,
        protocol="random",
        fold_scores=(0.5, 0.7),
        test=model_record.test,
        predictions=model_record.predictions,
        seconds=1.5,
        identity="ab",
    )
    newer = replace(scores, fold_scores=(0.6, 0.8))
    for one in (scores, newer, replace(scores, protocol="file")):
        database.save_protocol_scores(one)
    database.save_protocol_scores(replace(scores, study="others"))
    assert reopened.load_protocol_scores("pets") == (replace(scores, protocol="file"), newer)
