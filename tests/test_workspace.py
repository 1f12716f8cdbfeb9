"""The rules of the run folder: names, whole files, and the description of the machine."""

from __future__ import annotations

import os
import platform
import random
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bench.database import Database
from bench.errors import InputError
from bench.workspace import (
    Workspace,
    as_study_name,
    atomic_path,
    check_study_name,
    describe_environment,
    package_versions,
    usable_cores,
    write_atomic,
)

# --- whole files ----------------------------------------------------------------------------


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_with_the_folders_above_it(tmp_path):
    target = tmp_path / "a" / "b" / "mark.json"
    write_atomic(target, b"new")
    assert target.read_bytes() == b"new"
    assert names_in(target.parent) == ["mark.json"]


def test_a_file_is_replaced_whole(tmp_path):
    target = tmp_path / "mark.json"
    write_atomic(target, b"a long old content")
    write_atomic(target, b"new")
    assert target.read_bytes() == b"new"


@pytest.mark.parametrize("old", [None, b"old"])
def test_a_block_that_fails_leaves_what_was_there_and_nothing_else(tmp_path, old):
    target = tmp_path / "mark.json"
    if old is not None:
        target.write_bytes(old)
    with pytest.raises(RuntimeError, match="power cut"), atomic_path(target) as temporary:
        temporary.write_bytes(b"half of the n")
        raise RuntimeError("power cut")
    assert names_in(tmp_path) == ([] if old is None else ["mark.json"])
    assert old is None or target.read_bytes() == old


def test_the_file_has_its_final_name_only_after_the_block(tmp_path):
    target = tmp_path / "model.onnx"
    with atomic_path(target) as temporary:
        temporary.write_bytes(b"new")
        assert temporary.parent == target.parent
        assert not target.exists()
    assert target.read_bytes() == b"new"


# --- names ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "0", "gtzan", "GTZAN-v1.2_b", "2026-01-01", "reports"])
def test_a_study_may_be_named(name):
    assert check_study_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        ".hidden",
        "-dash",
        "_line",
        "a/b",
        "../up",
        "a b",
        "a\\b",
        "name\n",
        "é",
        "artifacts",
        "cache",
        "report",
        "bench.db",
        "bench.db-wal",
        "bench.db-shm",
    ],
)
def test_a_study_may_not_be_named(name):
    with pytest.raises(InputError, match=r"a study's name is letters, digits.*; not ") as caught:
        check_study_name(name)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("gtzan", "gtzan"),
        ("my pictures (2)", "my-pictures-2"),
        ("..", "study"),
        ("", "study"),
        ("музыка", "study"),
        ("_x_", "x"),
        ("cache", "cache-study"),
        ("bench.db", "bench.db-study"),
    ],
)
def test_any_text_becomes_a_study_name(text, name):
    assert as_study_name(text) == name


def test_a_name_made_of_any_text_is_valid():
    chance = random.Random(0)
    for _ in range(500):
        text = "".join(chance.choices("ab9._- /\\\n\0éß", k=chance.randint(0, 8)))
        check_study_name(as_study_name(text))


# --- the folder -----------------------------------------------------------------------------


def test_a_workspace_is_laid_out_as_it_says(tmp_path):
    workspace = Workspace(tmp_path / "runs")
    places = {
        workspace.artifacts: "artifacts",
        workspace.cache: "cache",
        workspace.demo: "cache/demo",
        workspace.study("pets"): "pets",
        workspace.trial("pets", 7): "pets/trials/00007",
        workspace.model("pets", "best"): "pets/models/best",
        workspace.report("pets"): "pets/report",
        workspace.joint_report: "report",
    }
    for place, relative in places.items():
        assert place == tmp_path / "runs" / relative
    assert workspace.default_storage == f"sqlite:///{tmp_path}/runs/bench.db"


@pytest.mark.parametrize("name", ["runs", "50% done", "100%25", "a b?c#d"])
def test_the_database_lies_in_the_workspace_whatever_its_name(tmp_path, name):
    workspace = Workspace(tmp_path / name).create()
    Database.open(workspace.default_storage).close()
    assert workspace.database.is_file()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_every_place_of_a_study_is_under_a_checked_name(tmp_path):
    workspace = Workspace(tmp_path)
    for place in (
        lambda: workspace.study(".."),
        lambda: workspace.trial("..", 0),
        lambda: workspace.model("..", "best"),
        lambda: workspace.report(".."),
    ):
        with pytest.raises(InputError):
            place()


def test_a_workspace_is_created_once_and_left_empty(tmp_path):
    workspace = Workspace(tmp_path / "a" / "runs")
    assert workspace.create() == workspace == workspace.create()
    assert names_in(workspace.root) == []


def test_a_workspace_that_cannot_be_made_is_refused_with_the_remedy(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"file/runs cannot be written to .*--workspace or BENCH"):
        Workspace(tmp_path / "file" / "runs").create()


# --- the machine ----------------------------------------------------------------------------


def test_the_environment_names_the_machine_and_the_versions():
    environment = describe_environment("Test GPU")
    assert environment.gpu == "Test GPU"
    assert environment.python == platform.python_version()
    assert environment.cpu
    assert environment.cores == usable_cores() >= 1
    assert environment.memory_bytes > 2**27
    made = datetime.fromisoformat(environment.created)
    assert made.tzinfo == UTC
    assert environment.versions == package_versions()


def test_the_versions_are_those_of_the_packages_that_results_depend_on():
    versions = package_versions()
    assert {"bench", "torch", "timm", "optuna", "numpy", "scikit-learn"} <= versions.keys()
    assert {"onnxruntime", "onnxruntime-gpu"} & versions.keys()
    assert all(versions.values())


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no CPU affinity here")
def test_cores_are_those_that_this_process_may_use():
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
