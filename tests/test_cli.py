from __future__ import annotations

import csv
import errno
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

import cli
from bench import __version__, console, pipeline, planning
from bench.data.audit.check import Finding
from bench.errors import WorkspaceError
from tests import graphs
from tests.command import Bench, bench_heard_by
from tests.tiny import BACKBONE, write_pictures


@pytest.fixture
def bench(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Bench:
    """Run the command line in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BENCH_WORKSPACE", raising=False)
    return bench_heard_by(capsys, monkeypatch)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


# --- help -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "option",
    [
        "--study", "--trials", "--space", "--backbone", "--folds", "--epochs", "--image-size",
        "--batch-size", "--workers", "--seed", "--device", "--pruner", "--storage", "--workspace",
        "--test-fraction", "--no-pretrained", "--no-promote", "--quiet", "--json", "--weights",
        "--crop", "--variants", "--tolerance",
    ],
)  # fmt: skip
def test_search_has_the_option(bench: Bench, option: str) -> None:
    told = bench("search", "--help")

    assert told.code == 0
    assert re.search(rf"{option}\b", told.out)


@pytest.mark.parametrize(
    "command",
    [
        "search", "promote", "report", "reproduce", "predict", "inspect", "latency", "status",
        "dashboard",
        "spaces", "doctor", "data check", "data split", "data demo", "data spectrograms",
    ],
)  # fmt: skip
def test_every_command_explains_itself(bench: Bench, command: str) -> None:
    told = bench(*command.split(), "--help")

    assert told.code == 0
    assert command in told.out


def test_the_version_is_told(bench: Bench) -> None:
    told = bench("--version")

    assert (told.code, told.out, told.err) == (0, f"bench {__version__}\n", "")


# --- the audit ------------------------------------------------------------------------------


@pytest.fixture
def doubled(tmp_path: Path) -> Path:
    """A set in which one picture stands in two classes."""
    folder = write_pictures(tmp_path / "doubled")
    (folder / "red" / "twin.png").write_bytes((folder / "blue" / "000.png").read_bytes())
    return folder


def test_data_check_of_clean_pictures_finds_nothing(bench: Bench, pictures: Path) -> None:
    told = bench("data", "check", str(pictures), "--backbone", "none")

    assert told.code == 0
    assert "39 pictures" in told.out
    assert "findings  none" in told.out


def test_findings_are_printed_and_are_no_errors(bench: Bench, doubled: Path) -> None:
    told = bench("data", "check", str(doubled), "--backbone", "none")

    assert told.code == 0
    assert "40x40 (40)" in told.out
    assert "conflicting labels: 1 pair of pictures" in told.out
    assert "blue/000.png [blue] and red/twin.png [red]" in told.out
    assert "or what it shows belongs to both classes" in told.out
    assert "-> correct the label that is wrong; where both are right, keep" in told.out


@pytest.mark.parametrize("quiet", [False, True])
def test_data_check_tells_its_steps_unless_it_is_to_be_quiet(
    quiet: bool, bench: Bench, pictures: Path
) -> None:
    told = bench("data", "check", str(pictures), "--backbone", "none", *["--quiet"] * quiet)

    steps = ("reading the pictures", "39 pictures", "all pairs at all shifts", "judging labels")
    assert [step in told.err for step in steps] == [not quiet] * len(steps)


def test_a_single_class_is_a_finding(bench: Bench, tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "one")
    for name in ("blue", "green"):
        shutil.rmtree(folder / name)

    told = bench("data", "check", str(folder), "--backbone", "none")

    assert told.code == 0, told.err
    assert "one class: red is the only class" in told.out
    assert "-> add a subfolder a class" in told.out


def test_the_worst_suspicious_labels_are_listed_and_the_rest_is_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    suspects = [
        {
            "picture": f"red/{number}.png",
            "label": "red",
            "predicted": "blue",
            "probability_of_label": 0.01,
            "probability_of_predicted": 0.9,
        }
        for number in range(13)
    ]
    console.print_findings(
        [
            Finding(
                kind="suspicious labels",
                count=len(suspects),
                what="13 pictures",
                remedy="look at each",
                details=tuple(suspects),
            )
        ]
    )

    said = capsys.readouterr().out
    assert [f"red/{number}.png: red, or blue? (0.90)" in said for number in range(13)] == (
        [True] * 10 + [False] * 3
    )
    assert "and 3 more: --json lists all" in said


def test_pairs_with_different_labels_are_listed_with_these(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pairs = tuple(
        {
            "first": f"red/{number}.png",
            "second": f"blue/{number}.png",
            "first_label": "red",
            "second_label": "blue",
            "correlation": 0.9,
        }
        for number in range(12)
    )
    finding = Finding(
        kind="conflicting labels", count=12, what="12 pairs", remedy="correct one", details=pairs
    )
    console.print_findings([finding])

    said = capsys.readouterr().out
    assert "red/9.png [red] and blue/9.png [blue] (0.90)" in said
    assert "and 2 more: --json lists all" in said


@pytest.fixture
def littered(lonely: Path) -> Path:
    """That set with an empty class folder, a picture beside it, and a file that is no picture."""
    (lonely / "none").mkdir()
    (lonely / "stray.png").touch()
    (lonely / "red" / "notes.txt").touch()
    return lonely


@pytest.mark.parametrize("command", ["data check", "search"])
def test_what_is_passed_over_is_told_in_one_line(
    command: str, bench: Bench, littered: Path
) -> None:
    options = ["--space", "demo"] if command == "search" else ["--backbone", "none"]

    told = bench(*command.split(), str(littered), *options)

    said = told.err if command == "search" else told.out
    (line,) = [line for line in said.splitlines() if "passed over: " in line]
    assert "1 class folder without a picture: none (add pictures, or remove it)" in line
    assert "1 picture beside the class folders: stray.png (move" in line
    assert "1 file of other kinds: red/notes.txt (convert" in line


def test_what_is_passed_over_stands_in_the_json(bench: Bench, littered: Path) -> None:
    told = bench("data", "check", str(littered), "--backbone", "none", "--json")

    assert json.loads(told.out)["passed_over"] == {
        "empty_classes": ["none"],
        "beside_classes": ["stray.png"],
        "files": ["red/notes.txt"],
    }


@pytest.fixture
def lonely(tmp_path: Path) -> Path:
    """A set in which one class has a single picture."""
    folder = write_pictures(tmp_path / "lonely")
    (folder / "one").mkdir()
    (folder / "red" / "002.png").rename(folder / "one" / "002.png")
    return folder


def test_a_class_too_small_for_a_search_is_a_finding_with_what_it_has(
    bench: Bench, lonely: Path
) -> None:
    told = bench("data", "check", str(lonely), "--backbone", "none")

    assert told.code == 0, told.err
    assert "classes too small for a search: 1 class with fewer than the 6 pictures" in told.out
    assert "     one: 1 picture\n     -> add pictures or remove the class\n" in told.out
    assert "every class, and one has 1 picture" in told.out
    assert "more: --json lists all" not in told.out


def test_a_search_refuses_a_class_that_is_too_small_before_it_looks_for_duplicates(
    bench: Bench, lonely: Path
) -> None:
    told = bench("search", str(lonely), "--space", "demo", "--no-pretrained")

    assert told.code == 2
    assert "one has 1 picture: add pictures or remove the class" in " ".join(told.err.split())
    assert "reading the pictures" in told.err
    assert "looking for duplicates" not in told.err


@pytest.mark.parametrize(
    ("option", "tied"), [("--tie-duplicates", True), ("--no-tie-duplicates", False)]
)
def test_a_split_ties_the_duplicates_that_are_found_unless_told_not_to(
    option: str, tied: bool, bench: Bench, tmp_path: Path
) -> None:
    folder = write_pictures(tmp_path / "again")
    with Image.open(folder / "red" / "002.png") as picture:
        brighter = picture.point(lambda value: min(255, value + 5))
    brighter.save(folder / "red" / "brighter.png")
    told = bench("data", "split", str(folder), option)

    assert told.code == 0, told.err
    rows = csv.DictReader(io.StringIO(told.out))
    groups = {row["path"]: row["group"] for row in rows}
    assert (groups["red/002.png"] == groups["red/brighter.png"] != "") == tied
    assert ("copies found by the audit: 2 pictures tied in 1 group\n" in told.err) == tied
    assert ("by class, with 2 found duplicates kept together" in told.err) == tied


def test_a_split_names_what_ties_copies_and_tells_of_their_labels(
    bench: Bench, doubled: Path
) -> None:
    told = bench("data", "split", str(doubled))

    assert told.code == 0, told.err
    groups = {row["path"]: row["group"] for row in csv.DictReader(io.StringIO(told.out))}
    assert {path for path, group in groups.items() if group} == {"blue/000.png", "red/twin.png"}
    assert groups["blue/000.png"] == groups["red/twin.png"]
    assert "1 pair of duplicates carries different labels" in told.err


def test_the_audit_is_one_json_document_beside_the_facts(
    bench: Bench, doubled: Path, tmp_path: Path
) -> None:
    figures = tmp_path / "figures"
    told = bench(
        "data", "check", str(doubled), "--backbone", "none", "--json", "--out", str(figures)
    )
    document = json.loads(told.out)

    assert document["classes"] == {"blue": 13, "green": 13, "red": 14}
    kinds = {finding["kind"]: finding for finding in document["findings"]}
    assert set(kinds) == {"conflicting labels", "duplicates: identical"}
    assert kinds["conflicting labels"]["details"][0]["second"] == "red/twin.png"
    assert document["labels"]["features"] == "small grey pictures"
    assert [Path(page).name for page in document["figures"]] == ["pairs-01.png"]
    assert (figures / "pairs-01.png").is_file()


# --- recordings -----------------------------------------------------------------------------


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """A class of two recordings, one of which is of a format that libsndfile does not read."""
    soundfile = pytest.importorskip(
        "soundfile", reason="reading sound needs the optional extra `audio`"
    )
    folder = tmp_path / "sound" / "jazz"
    folder.mkdir(parents=True)
    time_s = np.arange(8_000) / 8_000
    soundfile.write(folder / "a.wav", 0.5 * np.sin(2 * np.pi * 440 * time_s), 8_000)
    (folder / "b.m4a").touch()
    return folder.parent


@pytest.mark.parametrize("quiet", [False, True])
def test_drawing_recordings_tells_its_steps_and_what_is_left_out(
    quiet: bool, bench: Bench, recordings: Path
) -> None:
    told = bench(
        "data", "spectrograms", str(recordings), "out", "--clip-s", "0.5", *["--quiet"] * quiet
    )

    assert (told.code, told.out) == (0, "out: 2 pictures of 1 recording\n")
    assert ("drawing jazz, class 1 of 1: 1 recording\n" in told.err) is not quiet
    assert "does not read: jazz/b.m4a; convert" in told.err
    assert told.err.endswith("next: bench data check out\n")


def test_drawing_recordings_is_one_json_document(bench: Bench, recordings: Path) -> None:
    told = bench(
        "data", "spectrograms", str(recordings), "out", "--json", "--clip-s", "0.25",
        "--most-clips", "3", "--group-pattern", r"(\w+)\.wav",
    )  # fmt: skip
    document = json.loads(told.out)

    assert (document["pictures"], document["groups"]) == (3, 1)
    assert [file["path"] for file in document["left_out"]] == ["jazz/b.m4a"]
    assert "next:" not in told.err


# --- bad usage ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        ("serch", ["serch"]),
        ("search --trails 5", ["--trails"]),
        ("search PICTURES --trials 0", ["--trials is at least 1, not 0"]),
        ("search PICTURES --trials many", ["many"]),
        ("search PICTURES --folds 1", ["--folds"]),
        ("search PICTURES --epochs 0", ["--epochs"]),
        ("search PICTURES --image-size 8", ["--image-size"]),
        ("search PICTURES --batch-size 1", ["--batch-size"]),
        ("search PICTURES --workers 0", ["--workers"]),
        ("search PICTURES --seed -1", ["--seed"]),
        ("search no-such-folder", ["no-such-folder", "no such folder or file"]),
        ("search PICTURES --space defualt", ["`defualt`", "did you mean `default`?"]),
        ("search PICTURES --space gone.yaml", ["gone.yaml"]),
        ("search PICTURES --backbone resnet5O", ["'resnet5O'", "did you mean `resnet50`?"]),
        ("search PICTURES --pruner medain", ["'medain'", "did you mean `median`?"]),
        ("search PICTURES --device gpu", ["--device takes auto, cpu or cuda, not 'gpu'"]),
        ("search PICTURES --weights resnet50", ["BACKBONE=FILE", "'resnet50'"]),
        ("search PICTURES --weights test_resnet=gone.pth", ["gone.pth: no such file"]),
        ("search PICTURES --weights resnet50=w.pth", ["resnet50"]),
        ("search PICTURES --crop 1,2,3", ["1,2,3"]),
        ("search PICTURES --crop 0,0,4000,4000", ["4000"]),
        ("search PICTURES --test-fraction 1.5", ["1.5"]),
        ("search PICTURES --test-fraction 0", ["--test-fraction"]),
        ("search PICTURES --folds 40", ["40 folds", "fewer --folds (12 at most)"]),
        ("search PICTURES --variants fp32,int9", ["--variants", "'int9'", "did you mean `int8`?"]),
        ("search PICTURES --tolerance -1", ["--tolerance", "-1"]),
        ("promote nobody --variants bf16", ["--variants takes fp32, fp16, int8, not 'bf16'"]),
        ("search PICTURES --study ../up", ["'../up'"]),
        ("search PICTURES --study cache", ["'cache'"]),
        ("search PICTURES --storage nonsense", ["--storage"]),
        ("search PICTURES --storage mysql://somebody@nowhere/x", ["--storage"]),
        ("promote nobody", ["holds no study yet", "--workspace"]),
        ("report nobody", ["holds no study yet", "--workspace"]),
        ("report", ["no study yet"]),
        ("status nobody", ["holds no study yet", "--workspace"]),
        ("status", ["no study yet"]),
        ("reproduce nobody 0", ["holds no study yet", "--workspace"]),
        ("predict gone.onnx PICTURES", ["gone.onnx"]),
        ("predict gone.onnx PICTURES --device tpu", ["--device", "'tpu'"]),
        ("latency gone.onnx", ["gone.onnx"]),
        ("latency gone.onnx --device cpu,tpu", ["--device", "tpu"]),
        ("latency gone.onnx --batch 1,many", ["--batch", "many"]),
        ("latency gone.onnx --batch 0", ["gone.onnx"]),
        ("spaces nothing", ["`nothing`"]),
        ("data check gone", ["gone"]),
        ("data spectrograms gone out --clip-s 0", ["--clip-s must be longer than 0 s"]),
        ("data spectrograms gone out --most-clips 0", ["--most-clips"]),
        ("data split PICTURES --folds 40", ["40 folds"]),
        ("data split PICTURES --protocol groupd", ["'groupd'", "did you mean `grouped`?"]),
        ("data split PICTURES --protocol random,file", ["one split"]),
        ("data split PICTURES --protocol grouped", ["nothing ties these pictures", "--groups"]),
        ("data split PICTURES --parts gone.csv", ["--parts belongs to --protocol file"]),
        ("data check PICTURES --groups gone.csv", ["gone.csv", "path,group"]),
        ("data check PICTURES --group-pattern cat", ["no capture group"]),
        ("search PICTURES --protocol radnom", ["'radnom'", "did you mean `random`?"]),
        ("search PICTURES --group-pattern (dog)", ["must name a group for every picture"]),
    ],
)
def test_bad_usage_ends_with_code_2_and_says_what_would_do(
    bench: Bench,
    pictures: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: str,
    fragments: list[str],
) -> None:
    def trains(*_: Any) -> None:
        raise AssertionError("bad usage got as far as training")

    monkeypatch.setattr(pipeline, "make_executor", trains)
    given = arguments.replace("PICTURES", str(pictures)).split()
    if given[0] == "search" and "--trails" not in given:
        # What is not at issue is the smallest there is, and fetches nothing.
        defaults = {"--space": "demo", "--backbone": BACKBONE, "--image-size": "32"}
        for option, value in defaults.items():
            if option not in given:
                given += [option, value]
        given.append("--no-pretrained")

    told = bench(*given)

    assert told.code == 2, told.err
    for fragment in fragments:
        assert fragment in told.err
    assert "Traceback" not in told.err
    assert told.out == ""


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        ("--backbone resnet5O", "did you mean `resnet50`?"),
        ("--test-fraction 2", "--test-fraction must lie above 0"),
        ("--image-size 0", "--image-size"),
        ("--device gpu", "--device takes auto, cpu or cuda, not 'gpu'"),
        ("--crop 1,2,3", "--crop takes"),
        ("--protocol radnom", "did you mean `random`?"),
        ("--variants int9", "did you mean `int8`?"),
        ("--timeout soon", "not 'soon'"),
        ("--space defualt", "did you mean `default`?"),
        ("--group-pattern (", "is no regular expression"),
    ],
)
def test_what_is_wrong_with_any_pictures_is_told_before_anything_is_loaded_or_made(
    bench: Bench,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: str,
    fragment: str,
) -> None:
    def opens(*_: Any, **__: Any) -> None:
        raise AssertionError("the database is opened, for which Optuna is loaded")

    monkeypatch.setattr(cli, "_opened", opens)

    told = bench("search", str(pictures), *arguments.split())

    assert told.code == 2, told.err
    assert fragment in told.err
    assert cli.LOADING not in told.err
    assert not (tmp_path / "runs").exists()


def test_a_folder_of_one_class_is_refused_before_anything_is_loaded(
    bench: Bench, tmp_path: Path
) -> None:
    (tmp_path / "pictures" / "cats").mkdir(parents=True)
    (tmp_path / "pictures" / "cats" / "never-opened.png").touch()

    told = bench("search", str(tmp_path / "pictures"))

    assert told.code == 2
    assert "a classifier needs at least two classes" in told.err
    assert cli.LOADING not in told.err


@pytest.mark.parametrize(
    ("command", "missing", "example"),
    [
        ("promote", "study", "bench promote demo"),
        ("reproduce demo", "trial", "bench reproduce demo best"),
        ("predict", "model", "bench predict model.onnx picture.png"),
        ("inspect", "model", "bench inspect model.onnx"),
        ("latency", "models", "bench latency A.onnx B.onnx"),
        ("data check", "data", "bench data check PICTURES"),
        ("data split", "data", "bench data split PICTURES"),
        ("data demo", "out", "bench data demo DEMO"),
        ("data spectrograms", "audio", "bench data spectrograms AUDIO PICTURES"),
    ],
)
def test_a_missing_argument_is_named_with_an_example_of_a_right_call(
    bench: Bench, command: str, missing: str, example: str
) -> None:
    told = bench(*command.split())

    assert told.code == 2
    assert re.search(rf"Missing argument '{missing}\b", told.err, re.IGNORECASE)
    assert f"Example: {example}" in told.err


def test_a_password_is_not_printed(bench: Bench, pictures: Path) -> None:
    told = bench("search", str(pictures), "--storage", "postgresql+nodriver://me:secret@nowhere/x")

    assert told.code == 2
    assert "secret" not in told.err


def test_a_workspace_that_is_a_file_is_refused(
    bench: Bench, pictures: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")

    told = bench("search", str(pictures), "--workspace", str(tmp_path / "file"))

    assert told.code == 2
    assert "--workspace or BENCH_WORKSPACE" in told.err


# --- other ends -----------------------------------------------------------------------------


def interrupted(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_ctrl_c_ends_with_130_and_the_command_that_goes_on(
    bench: Bench, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "make_executor", interrupted)

    told = bench(
        "search", str(pictures), "--space", "demo", "--image-size", "32", "--no-pretrained",
        "--backbone", BACKBONE, "--study", "pets",
    )  # fmt: skip

    assert told.code == 130
    assert "what is finished is stored. Go on with: bench search" in told.err
    assert f"bench search {pictures} --space demo" in told.err
    assert told.err.endswith("--study pets\n")
    assert "Traceback" not in told.err


def test_ctrl_c_while_a_study_is_prepared_leaves_its_name(
    bench: Bench, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "read_pictures", interrupted)

    told = bench("search", str(pictures), "--study", "pets")

    assert told.code == 130
    assert f"Go on with: bench search {pictures} --study pets" in told.err
    assert "'pets' was stopped while it was being prepared" in bench("status").out
    refused = bench("reproduce", "pets", "best")
    assert refused.code == 2
    assert "'pets' was stopped while it was being prepared" in refused.err


def test_a_study_that_cannot_be_prepared_leaves_no_name(bench: Bench, lonely: Path) -> None:
    told = bench("search", str(lonely), "--space", "demo", "--no-pretrained")

    assert told.code == 2
    assert "study: lonely-demo" in told.err
    assert "holds no study yet" in bench("status").err


def test_ctrl_c_before_a_study_has_a_name_names_nothing_to_go_on_with(
    bench: Bench, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "study_name", interrupted)

    told = bench("search", str(pictures))

    assert told.code == 130
    assert told.err.splitlines()[-1] == "stopped"
    assert "Traceback" not in told.err


def test_a_doctor_that_finds_something_bad_ends_with_1(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench import doctor

    finding = doctor.Diagnosis(name="disk", ok=False, detail="full", remedy="make room")
    monkeypatch.setattr(doctor, "diagnose", lambda _workspace: [finding])

    told = bench("doctor")

    assert told.code == 1
    assert "BAD  disk: full" in told.out
    assert "-> make room" in told.out


def test_a_full_disk_is_told_in_one_line(
    bench: Bench, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")  # a write names no file

    monkeypatch.setattr(pipeline, "search", full)

    told = bench("search", str(pictures))

    assert told.code == WorkspaceError.exit_code
    assert "the disk is full" in told.err and "make room" in told.err


@pytest.mark.parametrize("where", ["below a file", "a folder"])
def test_a_file_to_write_is_refused_before_anything_is_measured(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    model, file = tmp_path / "any.onnx", tmp_path / "a file"
    onnx.save(graphs.foreign_classifier(), model)
    file.write_text("")
    monkeypatch.setattr("bench.latency.measuring.measure_many", started)
    out = file / "calls.json" if where == "below a file" else tmp_path

    told = bench("latency", str(model), "--out", str(out))

    assert told.code == 2
    assert "--out" in told.err and "give a" in told.err


@pytest.mark.parametrize(
    ("command", "work"),
    [
        (("report",), "bench.database.Database.open"),
        (("data", "check", "PICTURES"), "bench.data.reading.read_pictures"),
    ],
)
def test_a_folder_to_write_into_is_refused_before_any_work(
    bench: Bench,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
    work: str,
) -> None:
    file = tmp_path / "a file"
    file.write_text("")
    monkeypatch.setattr(work, started)
    words = [str(pictures) if word == "PICTURES" else word for word in command]

    told = bench(*words, "--out", str(file))

    assert told.code == 2
    assert f"--out {file} cannot be written to" in told.err and "give another folder" in told.err


def started(*_: Any, **__: Any) -> Any:
    raise AssertionError("the work began")


def test_a_defect_keeps_its_traceback(
    bench: Bench, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(pipeline, "search", broken)

    with pytest.raises(ZeroDivisionError, match="a defect"):
        bench("search", str(pictures))


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.slow
def test_a_signal_stops_a_search_which_then_goes_on(
    pictures: Path, tmp_path: Path, sent: signal.Signals
) -> None:
    command = [
        sys.executable, "-m", "cli", "search", str(pictures), "--trials", "500",
        "--space", "demo", "--backbone", BACKBONE, "--image-size", "32", "--folds", "2",
        "--epochs", "1", "--no-pretrained", "--no-promote", "--device", "cpu",
        "--workspace", str(tmp_path),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("trial   1"):
                process.send_signal(sent)
                break
        out, err = process.communicate()

    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in err
    assert f"Go on with: bench search {pictures} --trials 500" in err
