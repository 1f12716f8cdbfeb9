"""The whole story once, on a tiny set: search, promote, predict, report, go on."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from PIL import Image

import cli
from bench import pipeline
from bench.data import pixel_cache
from bench.database import Database
from bench.errors import (
    BenchError,
    DeviceError,
    ExportError,
    NonFiniteLossError,
    ParityError,
    ShortOfMemoryError,
    StorageError,
    WeightsError,
    WorkspaceError,
)
from bench.latency.measuring import LatencyProtocol
from bench.progress import make_progress
from bench.promote import latencies, promotion, seeds
from bench.promote.further import FurtherProtocol
from bench.promote.precisions import VariantChoice
from bench.promote.retrain import retrain
from bench.promote.select import Candidate, select
from bench.records import (
    ModelRecord,
    ProtocolScores,
    StudyPlan,
    StudyReport,
    WeightSource,
    from_json,
    ranked,
)
from bench.results import load_plan
from bench.runtime.predictor import Predictor
from bench.runtime.preprocess import PictureSource, open_rgb
from bench.training import trainer
from bench.workspace import Workspace
from tests.command import Outcome
from tests.measured import fake_measurement
from tests.tiny import BACKBONE, CLASSES, write_pictures


@dataclass(frozen=True)
class Place:
    """Where the story happens, what it said, and what it decoded more than once."""

    pictures: Path
    workspace: Path
    first: Outcome
    decoded_again: Sequence[object]

    @property
    def report(self) -> StudyReport:
        return from_json(self.first.out, StudyReport)


def bench(*arguments: str) -> Outcome:
    """Run the command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    before = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["bench", *arguments])
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                cli.main()
            except SystemExit as ended:
                code = int(ended.code or 0)
    signal.signal(signal.SIGTERM, before)
    return Outcome(code, out.getvalue(), err.getvalue())


TRIALS = "3"  # with the third, the default recipe is among them


def search(pictures: Path, workspace: Path, *more: str) -> Outcome:
    return bench(
        "search", str(pictures), "--study", "tiny", "--space", "demo", "--backbone", BACKBONE,
        "--folds", "2", "--epochs", "1", "--image-size", "32", "--batch-size", "8",
        "--device", "cpu", "--crop", "none", "--pruner", "none", "--no-pretrained", "--json",
        "--variants", "fp32", "--workspace", str(workspace), *more,
    )  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def no_measurement() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latencies, "measure_many", fake_measurement)
        patch.setattr(latencies, "cuda_works", lambda: (False, "not here"))
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, no_measurement: None) -> Place:
    folder = tmp_path_factory.mktemp("story")
    pictures = write_pictures(folder / "pictures")
    decoded_again: list[object] = []

    def decode_again(source: PictureSource) -> Image.Image:
        decoded_again.append(source)
        return open_rgb(source)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pixel_cache, "open_rgb", decode_again)
        first = search(pictures, folder / "runs", "--trials", TRIALS)
    assert first.code == 0, first.err
    return Place(pictures, folder / "runs", first, decoded_again)


def test_each_picture_is_decoded_once_before_and_in_the_trials(place: Place) -> None:
    assert not place.decoded_again
    assert place.first.err.count("storing") == 1


# --- the first run --------------------------------------------------------------------------


def test_standard_output_is_one_json_document_and_the_rest_went_to_standard_error(
    place: Place,
) -> None:
    document = json.loads(place.first.out)

    assert document["study"] == "tiny"
    assert "39 pictures of 3 classes" in place.first.err
    assert "trial   0  complete" in place.first.err


def test_a_given_space_is_told_with_what_it_takes_pictures_for(place: Place) -> None:
    assert "search space: demo (spectrograms: no flips, no colour changes)\n" in place.first.err


def test_every_stage_is_told_when_it_begins(place: Place) -> None:
    models = len(place.report.models)
    stages = (
        cli.LOADING,
        "study: tiny",
        f"reading the pictures of {place.pictures}",
        "looking for duplicates among 39 pictures",
        "data: pictures, 39 pictures of 3 classes",
        "trial   0  complete",
        f"model 1 of {models}: promoting {BACKBONE}-best",
        f"model 1 of {models}: training on all ",
        f"model 1 of {models}: exporting",
        f"model 1 of {models}: verifying",
        f"model 1 of {models}: scoring the file on ",
        f"model {models} of {models}: promoting",
        "measuring latency: 3 rows of 5 processes each",
    )

    told = place.first.err
    at = [told.find(stage) for stage in stages]
    assert -1 not in at
    assert told.startswith(cli.LOADING)
    assert at[:-2] == sorted(at[:-2])


def test_the_trials_asked_for_are_finished_the_head_alone_and_then_the_default(
    place: Place,
) -> None:
    trials = place.report.trials

    assert [(trial.number, trial.state) for trial in trials] == [(n, "COMPLETE") for n in range(3)]
    assert [trial.recipe.freeze_depth for trial in trials] == [5, 4, 4]
    assert [trial.recipe.augmentation for trial in trials] == ["none", "none", "light"]
    assert [trial.is_default for trial in trials] == [False, False, True]
    for trial in trials:
        assert trial.recipe.backbone == BACKBONE
        assert len(trial.epochs) == 2
        assert trial.value == pytest.approx(trial.cv_mean)


def test_the_best_and_the_default_recipe_are_promoted_and_tested_on_the_locked_set(
    place: Place,
) -> None:
    report = place.report
    best = max(report.trials, key=lambda trial: (trial.value or 0.0, -trial.number))

    trials = {model.role: model.trial for model in report.models}
    default = {} if best.number == 2 else {"default": 2}
    assert trials == {"best": best.number, **default}
    for model in report.models:
        assert model.predictions.indices == report.split.test
        assert model.weights == "random"
        assert [check.batch_size for check in model.parity] == [1, 4, 17]
        assert (place.workspace / model.path).stat().st_size == model.size_bytes


def test_the_settings_are_those_of_the_command_line(place: Place) -> None:
    settings = place.report.settings

    assert (settings.epochs, settings.batch_size, settings.image_size) == (1, 8, 32)
    assert (settings.pretrained, settings.pruner, settings.seed) == (False, "none", 0)
    assert len(place.report.split.folds) == 2


def test_random_weights_are_noted(place: Place) -> None:
    assert any("Random weights: test_resnet" in note for note in place.report.notes)


def test_one_file_of_each_graph_is_measured(place: Place) -> None:
    rows = [(row.device, row.scope, row.batch_size) for row in place.report.latencies]

    assert rows == [("cpu", "model", 1), ("cpu", "model", 8), ("cpu", "end-to-end", 1)]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_what_was_searched_on_a_gpu_is_not_promoted_without_one(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        pipeline, "load_plan", lambda *given: replace(load_plan(*given), device="cuda")
    )
    with pytest.raises(DeviceError, match="cuda"):
        promoted_again(place)


def test_a_study_whose_weights_have_changed_is_not_promoted(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gone = WeightSource(kind="file", detail=str(tmp_path / "gone.pth"), digest="0123456789abcdef")

    def with_weights(*given: Any) -> StudyPlan:
        plan = load_plan(*given)
        return replace(plan, weights=dict.fromkeys(plan.weights, gone))

    monkeypatch.setattr(pipeline, "load_plan", with_weights)
    with pytest.raises(WeightsError, match="now there is no file: put the old file back"):
        promoted_again(place)


def promoted_again(place: Place) -> StudyReport:
    workspace = Workspace(place.workspace)
    with Database.open(workspace.default_storage) as database:
        return pipeline.promote(
            place.report.study,
            workspace=workspace,
            database=database,
            listener=make_progress(quiet=True),
            protocol=LatencyProtocol(processes=1),
            variants=VariantChoice(),
        )


# --- what it left behind --------------------------------------------------------------------


def test_the_model_file_alone_predicts_as_it_was_tested(place: Place) -> None:
    report = place.report
    for model in report.models:
        predictor = Predictor(place.workspace / model.path, device="cpu")
        files = [report.dataset.picture_path(index) for index in report.split.test]

        rows = [list(p.probabilities.values()) for p in predictor.predict(files)]

        assert predictor.classes == CLASSES
        assert predictor.metadata.provenance["trial"] == model.trial
        assert predictor.metadata.provenance["dataset_fingerprint"] == report.dataset.fingerprint
        for row, stored in zip(rows, model.predictions.probabilities, strict=True):
            assert row == pytest.approx(list(stored), abs=1e-6)


def test_predict_prints_a_line_or_a_json_entry_a_picture(place: Place, tmp_path: Path) -> None:
    picture = tmp_path / "one.png"
    Image.new("RGB", (50, 40), (200, 30, 30)).save(picture)
    model = str(place.workspace / place.report.models[0].path)

    plain = bench("predict", model, str(picture), "--device", "cpu", "--top", "2")
    as_json = bench("predict", model, str(picture), "--device", "cpu", "--json")

    assert (plain.code, as_json.code) == (0, 0)
    assert plain.out.startswith(f"{picture}: ")
    assert plain.out.count("  ") == 1
    (entry,) = json.loads(as_json.out)
    assert set(entry["probabilities"]) == set(CLASSES)
    assert entry["label"] == max(entry["probabilities"], key=entry["probabilities"].__getitem__)


def test_the_report_is_written_with_its_figures(place: Place) -> None:
    told = bench("report", "tiny", "--workspace", str(place.workspace), "--json")

    assert told.code == 0, told.err
    paths = json.loads(told.out)
    markdown = Path(paths["report"]).read_text()
    assert "tiny" in markdown
    assert BACKBONE in markdown
    json.loads(Path(paths["json"]).read_text())


def test_the_report_tells_its_first_lines_with_paths_as_one_types_them(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(place.workspace, tmp_path / "runs")
    monkeypatch.chdir(tmp_path)

    told = bench("report", "tiny", "--workspace", "runs")

    assert told.code == 0, told.err
    head, *lines, path = told.out.splitlines()
    assert (head, path) == ("Report on tiny", "runs/tiny/report/report.md")
    assert [line.partition(":")[0] for line in lines] == [
        "Model", "How good", "How sure", "What tuning gained", "How fast", "File",
    ]  # fmt: skip
    named = lines[-1].removeprefix("File: ").partition(" (")[0]
    assert Path(named).is_file()
    assert str(tmp_path) not in Path(named).with_name("model.md").read_text("utf-8")


def test_each_promoted_file_has_a_card_which_the_report_writes_anew(
    place: Place, tmp_path: Path
) -> None:
    workspace = shutil.copytree(place.workspace, tmp_path / "runs")
    cards = {
        model.trial: (workspace / model.path).with_name("model.md") for model in place.report.models
    }
    first = {trial: card.read_text("utf-8") for trial, card in cards.items()}
    for trial, card in cards.items():
        assert f"bench reproduce tiny {trial}\n" in first[trial]
        assert "They were random numbers, and carry no licence." in first[trial]
        card.unlink()

    told = bench("report", "tiny", "--workspace", str(workspace))

    assert told.code == 0, told.err
    assert {trial: card.read_text("utf-8") for trial, card in cards.items()} == first


@pytest.mark.parametrize("kind", [ParityError, ExportError, NonFiniteLossError, ShortOfMemoryError])
def test_a_model_that_fails_does_not_cost_the_others_their_cards(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[BenchError]
) -> None:
    workspace = shutil.copytree(place.workspace, tmp_path / "runs")
    for card in workspace.rglob("model.md"):
        card.unlink()
    kept = ranked(place.report.models)[0]

    def fails_but_for_the_winner(trainer: Any, candidate: Any, *more: Any) -> ModelRecord:
        if candidate.name != kept.name:
            raise kind(f"{candidate.name} came to nothing")
        return promotion.promote_candidate(trainer, candidate, *more)

    monkeypatch.setattr(pipeline, "promote_candidate", fails_but_for_the_winner)
    monkeypatch.setattr(pipeline, "select", lambda trials: (*select(trials), other(trials)))

    def other(trials: Any) -> Any:
        return replace(select(trials)[0], name="another")

    told = bench("promote", "tiny", "--workspace", str(workspace), "--variants", "fp32", "--quiet")

    assert told.code == 1
    failed = f"{BACKBONE}-default came to nothing; another came to nothing"
    assert failed in " ".join(told.err.split())
    assert [card.parent.name for card in workspace.rglob("model.md")] == [kept.name]


def test_status_counts_trials_and_models(place: Place) -> None:
    told = bench("status", "tiny", "--workspace", str(place.workspace), "--json")

    (row,) = json.loads(told.out)
    expected = {"study": "tiny", "complete": 3, "pruned": 0, "fail": 0, "running": 0}
    assert {name: row[name] for name in expected} == expected
    assert row["models"] == len(place.report.models)


def test_a_file_that_differs_from_the_trained_model_ends_the_command_with_1_and_is_not_there(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def differing(*_: Any, **__: Any) -> Any:
        raise ParityError("the exported file differs from the trained model")

    monkeypatch.setattr(promotion, "verify", differing)
    workspace = tmp_path / "runs"
    shutil.copytree(place.workspace, workspace)
    for mark in workspace.rglob("model.json"):
        mark.unlink()

    told = bench("promote", "tiny", "--workspace", str(workspace))

    assert told.code == 1
    assert "differs from the trained model" in told.err
    assert "Traceback" not in told.err
    assert list((workspace / "tiny" / "models").rglob("*.onnx*")) == []


# --- the same command again -----------------------------------------------------------------


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def trained(*_: Any) -> Any:
        raise AssertionError("something was trained")

    monkeypatch.setattr(trainer, "fit", trained)
    monkeypatch.setattr("bench.promote.retrain.fit", trained)


def test_the_same_command_again_trains_nothing_and_says_the_same(
    place: Place, no_training: None
) -> None:
    again = search(place.pictures, place.workspace, "--trials", TRIALS)

    assert again.code == 0, again.err
    report = from_json(again.out, StudyReport)
    assert report.trials == place.report.trials
    assert report.models == place.report.models
    assert report.latencies == place.report.latencies


def test_further_seeds_of_the_winner_are_trained_once_tested_and_kept(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = shutil.copytree(place.workspace, tmp_path / "runs")

    def promoted(*options: str) -> dict[str, ModelRecord]:
        where = ("--workspace", str(workspace), "--variants", "fp32")
        told = bench("promote", "tiny", *where, "--json", *options)
        assert told.code == 0, told.err
        return {model.name: model for model in from_json(told.out, StudyReport).models}

    models = promoted("--seeds", "3")
    winner, *others = ranked(models.values())
    (shipped,) = (model for model in place.report.models if model.name == winner.name)
    assert replace(winner, further_seeds=()) == shipped
    assert [run.number for run in winner.further_seeds] == [1, 2]
    assert all(not model.further_seeds for model in others)
    answers = {
        run.probabilities
        for run in (winner.predictions, *(run.predictions for run in winner.further_seeds))
    }
    assert len(answers) == 3
    for run in winner.further_seeds:
        assert run.predictions.indices == place.report.split.test

    def trained(*_: Any) -> Any:
        raise AssertionError("something was trained")

    monkeypatch.setattr("bench.promote.retrain.fit", trained)
    assert promoted("--seeds", "3") == promoted("--seeds", "2") == promoted() == models


def test_a_seed_that_fails_costs_neither_the_model_nor_the_seeds_before_it(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = shutil.copytree(place.workspace, tmp_path / "runs")
    calls: list[int] = []

    def second_diverges(*arguments: Any, run: int = 0) -> Any:
        calls.append(run)
        if run == 2:
            raise NonFiniteLossError("the loss is nan")
        return retrain(*arguments, run=run)

    monkeypatch.setattr(seeds, "retrain", second_diverges)
    told = bench("promote", "tiny", "--workspace", str(workspace), "--seeds", "4")

    assert (told.code, calls) == (1, [1, 2])
    assert "the loss is nan" in told.err
    with Database.open(Workspace(workspace).default_storage) as database:
        winner = ranked(database.load_models("tiny"))[0]
    assert [run.number for run in winner.further_seeds] == [1]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--epochs", "2"], "setting epochs: 1 -> 2"),
        (["--folds", "3"], "folds"),
        (["--seed", "1"], "setting seed: 0 -> 1"),
        (["--image-size", "64"], "setting image_size: 32 -> 64"),
        (["--pruner", "median"], "setting pruner: none -> median"),
        (["--store", "half"], "setting store: exact -> half"),
        (["--test-fraction", "0.4"], "split: "),
        (["--backbone", "test_convnext"], "parameter `backbone`"),
    ],
)
def test_a_study_is_not_gone_on_with_otherwise_than_it_was_begun(
    place: Place, no_training: None, options: list[str], named: str
) -> None:
    refused = search(place.pictures, place.workspace, "--trials", TRIALS, *options)

    assert refused.code == 2
    assert refused.out == ""
    assert named in refused.err
    assert "Traceback" not in refused.err


def test_a_rounding_store_states_its_error_in_the_output_and_in_the_report(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixel_cache, "open_rgb", no_decoding)
    told = search(place.pictures, tmp_path, "--trials", "1", "--store", "half", "--no-promote")

    assert told.code == 0, told.err
    report = from_json(told.out, StudyReport)
    assert report.settings.store == "half"
    (note,) = [note for note in report.notes if note.startswith("Stored activations")]
    assert BACKBONE in note
    assert note in told.err


def no_decoding(source: PictureSource) -> Image.Image:
    raise AssertionError(f"{source!s} was decoded when it was read")


def test_a_picture_more_is_another_data_set(
    place: Place, no_training: None, tmp_path: Path
) -> None:
    pictures = write_pictures(tmp_path / "pictures", each=14)

    refused = search(pictures, place.workspace, "--trials", TRIALS)

    assert refused.code == 2
    assert "data set: 3 pictures are new or altered" in refused.err


# --- precisions -----------------------------------------------------------------------------


@pytest.mark.slow
def test_int8_is_made_measured_reported_and_not_made_again(
    place: Place, no_training: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An untrained network's answers are close calls: this is about the way, not about the gate.
    asked = ("--trials", TRIALS, "--variants", "fp32,int8", "--tolerance", "100")

    first = search(place.pictures, place.workspace, *asked)

    assert first.code == 0, first.err
    report = from_json(first.out, StudyReport)
    for model in report.models:
        (variant,) = model.variants
        assert (variant.precision, variant.offered) == ("int8", True)
        assert variant.test is not None
        assert 0 < variant.size_bytes < model.size_bytes
        assert (place.workspace / variant.path).stat().st_size == variant.size_bytes
    rows = [(row.precision, row.device, row.batch_size) for row in report.latencies]
    assert {("int8", "cpu", 1), ("int8", "cpu", 8), ("fp32", "cpu", 1)} <= set(rows)

    picture = str(report.dataset.picture_path(0))
    model_file = str(place.workspace / report.models[0].variants[0].path)
    assert bench("predict", model_file, picture, "--device", "cpu").out.startswith(picture)
    told = bench("report", "tiny", "--workspace", str(place.workspace), "--json")
    assert "| int8 |" in Path(json.loads(told.out)["report"]).read_text()

    def made_again(*_: Any, **__: Any) -> None:
        raise AssertionError("a finished variant was made again")

    monkeypatch.setattr("bench.promote.variants.search_int8", made_again)
    again = search(place.pictures, place.workspace, *asked)

    assert again.code == 0, again.err
    assert from_json(again.out, StudyReport).models == report.models


# --- duplicates ------------------------------------------------------------------------------


def test_a_search_ties_the_duplicates_that_it_finds_and_says_so(
    place: Place, tmp_path: Path
) -> None:
    with Image.open(place.pictures / "red" / "002.png") as picture:
        brighter = picture.point(lambda value: min(255, value + 5))
    folder = shutil.copytree(place.pictures, tmp_path / "again")
    brighter.save(folder / "red" / "brighter.png")
    told = search(folder, tmp_path, "--trials", "1", "--no-promote")

    assert told.code == 0, told.err
    report = from_json(told.out, StudyReport)
    assert [str(tied) for tied in report.dataset.tied] == [
        "copies found by the audit: 2 pictures tied in 1 group"
    ]
    assert report.split.protocol == "grouped"
    assert "by class, with 2 found duplicates kept together" in told.err
    assert any(note.startswith("No groups were given") for note in report.notes)
    assert len(list((tmp_path / "cache" / "duplicates").iterdir())) == 1


def test_groups_of_some_pictures_are_told_of_and_recorded(place: Place, tmp_path: Path) -> None:
    groups = tmp_path / "tied.csv"
    groups.write_text("path,group\nred/002.png,a\nblue/000.png,b\n")
    told = search(
        place.pictures, tmp_path, "--trials", "1", "--no-promote", "--groups", str(groups)
    )

    assert told.code == 0, told.err
    notes = from_json(told.out, StudyReport).notes
    (note,) = [note for note in notes if note.startswith("37 of 39 pictures have no group")]
    assert "give each its group in the file of groups" in note
    assert note in told.err
    assert not any(note.startswith("No groups were given") for note in notes)


def test_a_search_tells_and_records_that_duplicates_carry_different_labels(
    place: Place, tmp_path: Path
) -> None:
    folder = shutil.copytree(place.pictures, tmp_path / "again")
    shutil.copy(folder / "blue" / "000.png", folder / "red" / "twin.png")
    told = search(folder, tmp_path, "--trials", "1", "--no-promote")

    assert told.code == 0, told.err
    said = (
        "1 pair of duplicates carries different labels, such as blue/000.png (blue) and "
        "red/twin.png (red): one label of each is wrong, or what it shows belongs to both classes; "
        "`bench data check` shows them"
    )
    assert said in told.err
    dataset = from_json(told.out, StudyReport).dataset
    ((first, second),) = dataset.conflicts
    assert dataset.pictures[first].path == "blue/000.png"
    assert dataset.pictures[second].path == "red/twin.png"


# --- protocols side by side -----------------------------------------------------------------


@pytest.mark.parametrize("fault", ["disk", "lock"])
def test_no_further_recipe_is_trained_where_the_disk_is_full_or_the_lock_is_lost(
    place: Place, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    class Further(FurtherProtocol):
        def scores(self, candidate: Candidate) -> ProtocolScores:
            trained.append(candidate.name)
            if fault == "disk":
                raise WorkspaceError("the disk is full")
            return cast(ProtocolScores, None)

    def lost(*_: object) -> None:
        raise StorageError("the lock was lost")

    trained: list[str] = []

    def with_further_split(*given: Any) -> StudyPlan:
        plan = load_plan(*given)
        return replace(plan, further_splits=(replace(plan.split, protocol="random"),))

    monkeypatch.setattr(pipeline, "load_plan", with_further_split)
    monkeypatch.setattr(pipeline, "FurtherProtocol", Further)
    monkeypatch.setattr(Database, "save_protocol_scores", lost)
    with pytest.raises((WorkspaceError, StorageError)):
        promoted_again(place)

    assert len(trained) == 1


def test_the_winner_is_trained_again_under_a_further_protocol_once(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The numbers of the files are 000 to 038: four groups, each of all classes.
    grouped = ("--group-pattern", r"/0(\d)\d\.png", "--protocol", "random,grouped")
    told = search(place.pictures, tmp_path, "--trials", "1", *grouped)

    assert told.code == 0, told.err
    report = from_json(told.out, StudyReport)
    assert report.split.protocol == "grouped"
    assert [str(tied) for tied in report.dataset.tied] == [
        "--group-pattern: 39 pictures tied in 4 groups"
    ]
    (model,), (scores,) = report.models, report.protocol_scores
    assert (scores.model, scores.trial, scores.protocol) == (model.name, model.trial, "random")
    assert len(scores.fold_scores) == 2
    assert sum(map(sum, scores.test.confusion)) == pytest.approx(0.2 * 39, abs=3)
    folds = tmp_path / "tiny" / "protocols" / "random" / "00000"
    assert {file.name for file in folds.iterdir()} == {"fold-0.npz", "fold-1.npz"}

    def trained(*_: Any) -> Any:
        raise AssertionError("something was trained")

    monkeypatch.setattr(trainer, "fit", trained)
    monkeypatch.setattr("bench.promote.retrain.fit", trained)
    again = search(place.pictures, tmp_path, "--trials", "1", *grouped[:2])
    assert again.code == 0, again.err
    assert from_json(again.out, StudyReport).protocol_scores == report.protocol_scores

    written = bench("report", "tiny", "--workspace", str(tmp_path), "--json")
    markdown = Path(json.loads(written.out)["report"]).read_text()
    assert "A random split would have promised" in markdown
    assert "One recipe under several protocols" in markdown
