"""A recorded trial trained again: what it must equal, what is refused, and what is left alone."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from optuna.pruners import BasePruner, NopPruner, ThresholdPruner

import cli
from bench import reproduce as module
from bench.database import Database
from bench.errors import BenchError, DataError, InputError, ReproductionError, WeightsError
from bench.models.weights import refuse_changed_weights
from bench.progress import SilentProgress, make_progress
from bench.records import Conditions, EpochScores, TrialRecord, WeightSource
from bench.reproduce import FoldComparison, Reproduction, reproduce
from bench.results import load_trials
from bench.search.budget import Budget
from bench.search.coordinator import Coordinator, Listener
from bench.search.executors import InlineExecutor
from bench.search.study import open_study
from bench.training.conditions import describe_conditions, threads_as
from bench.training.entries import EntryKey
from bench.training.folds import fold_file, read_fold, write_fold
from bench.training.stored import StoredActivations
from bench.workspace import Workspace, describe_environment
from tests.tiny import make_plan, write_pictures

DEVELOPMENT = 31  # of 39 pictures, 8 of which are the test set
Again = Callable[..., Reproduction]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `pictures` and `runs`, where a study of two trials has been run."""
    folder = tmp_path_factory.mktemp("searched")
    plan = make_plan(write_pictures(folder / "pictures"), folder / "runs")
    plan = replace(plan, cache_bytes=10**9)
    workspace = Workspace(folder / "runs").create()
    with Database.open(workspace.default_storage) as database:
        database.save_plan(plan, describe_environment(None))
        study = open_study(plan, database)
        coordinator = Coordinator(plan, study, database, make_progress(quiet=True))
        coordinator.run(InlineExecutor(plan), Budget(trials=2))
    return folder


@pytest.fixture
def runs(searched: Path, tmp_path: Path) -> Path:
    """A copy of that workspace, to be tampered with."""
    return shutil.copytree(searched / "runs", tmp_path / "runs")


@pytest.fixture
def database(runs: Path) -> Iterator[Database]:
    with Database.open(Workspace(runs).default_storage) as opened:
        yield opened


@pytest.fixture
def again(runs: Path, database: Database) -> Again:
    def train_again(trial: str = "1", *, fresh: bool = False) -> Reproduction:
        return reproduce(
            "tiny",
            trial,
            workspace=Workspace(runs),
            database=database,
            say=lambda _text: None,
            fresh=fresh,
        )

    return train_again


@pytest.fixture
def recorded_as(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., TrialRecord]], None]:
    """Stands in for states that real training comes to by chance: it alters what was recorded."""

    def alter(change: Callable[[TrialRecord], TrialRecord]) -> None:
        monkeypatch.setattr(
            module, "load_trials", lambda *given: tuple(map(change, load_trials(*given)))
        )

    return alter


# --- the verdict ----------------------------------------------------------------------------


@pytest.mark.parametrize("fresh", [False, True])
def test_on_the_same_machine_scores_and_predictions_are_equal_to_the_last_bit(
    again: Again, fresh: bool
) -> None:
    reproduction = again("1", fresh=fresh)

    assert reproduction.verdict == "equal to the last bit"
    assert [(fold.epochs, fold.finished) for fold in reproduction.folds] == [(2, True)] * 2
    assert sum(fold.pictures for fold in reproduction.folds) == DEVELOPMENT
    assert reproduction.recorded == reproduction.again
    assert (reproduction.changes, reproduction.remarks) == ((), ())


def test_stored_activations_are_read_unless_it_is_to_be_fresh(
    again: Again, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[object] = []
    compute = StoredActivations._compute

    def counted(self: StoredActivations, wanted: EntryKey) -> None:
        computed.append(wanted)
        compute(self, wanted)

    monkeypatch.setattr(StoredActivations, "_compute", counted)

    again()
    assert not computed
    again(fresh=True)
    assert computed


def test_the_best_trial_has_a_name(again: Again, database: Database) -> None:
    plan = database.load_plan("tiny")
    assert plan is not None
    best = max(load_trials(database, plan), key=lambda trial: (trial.value or 0.0, -trial.number))

    assert again("best").trial == best.number


@pytest.mark.parametrize(
    ("off", "spread", "verdict"),
    [
        (1e-15, 0.0, "different"),
        (1e-15, 0.1, "within the fold spread"),
        (0.09, 0.1, "within the fold spread"),
        (0.11, 0.1, "different"),
        (-0.11, 0.1, "different"),
        (1e-15, None, "different"),
    ],
)
def test_what_is_not_equal_must_lie_within_the_spread_over_the_folds(
    off: float, spread: float | None, verdict: str
) -> None:
    folds = tuple(
        FoldComparison(
            fold=fold,
            epochs=2,
            finished=True,
            recorded=again + off,
            again=again,
            scores_equal=False,
        )
        for fold, again in enumerate((0.5, 0.75))
    )
    reproduction = Reproduction(
        study="tiny",
        trial=1,
        state="COMPLETE",
        folds=folds,
        spread=spread,
        changes=(),
        remarks=(),
    )

    assert reproduction.verdict == verdict
    if verdict != "different":
        reproduction.refuse_difference()
        return
    with pytest.raises(ReproductionError, match=r"trial 1 of 'tiny' is not reproduced.*--fresh"):
        reproduction.refuse_difference()
    with pytest.raises(ReproductionError, match=r"torch: 1\.0 -> 2\.0; put that back"):
        replace(reproduction, changes=("torch: 1.0 -> 2.0",)).refuse_difference()


def test_one_stored_number_that_is_another_is_seen(again: Again, recorded_as: Any) -> None:
    def off_by_one_bit(trial: TrialRecord) -> TrialRecord:
        *rows, last = trial.epochs
        loss = float(np.nextafter(last.train_loss, np.inf))
        return replace(trial, epochs=(*rows, replace(last, train_loss=loss)))

    recorded_as(off_by_one_bit)

    assert [fold.equal for fold in again().folds] == [True, False]


def test_one_prediction_that_is_another_is_seen(again: Again, runs: Path) -> None:
    file = fold_file(Workspace(runs), "tiny", 1, 0)
    stored = read_fold(file)
    assert stored is not None
    probabilities_nk = stored.probabilities_nk.copy()
    probabilities_nk[3] = np.roll(probabilities_nk[3], 1)
    write_fold(file, replace(stored, probabilities_nk=probabilities_nk))

    first, second = again().folds

    assert (first.scores_equal, first.equal, first.other_answers) == (True, False, 1)
    assert first.max_abs_difference > 0
    assert second.equal


def test_without_stored_predictions_the_scores_are_compared_and_it_is_said(
    again: Again, runs: Path
) -> None:
    shutil.rmtree(runs / "tiny")

    reproduction = again()

    assert reproduction.verdict == "equal to the last bit"
    assert [fold.pictures for fold in reproduction.folds] == [0, 0]
    assert any("no longer in this workspace" in remark for remark in reproduction.remarks)


# --- what was then, and what is now ---------------------------------------------------------


def test_what_is_other_than_then_is_told(again: Again, database: Database) -> None:
    (scores, *_), then = database.load_epochs("tiny")[1], database.load_conditions("tiny", 1)
    other = replace(then[0], cpu="Another CPU", versions={**then[0].versions, "torch": "1.0"})
    database.save_epoch("tiny", 1, scores, other)

    assert set(again().changes) == {
        f"CPU: Another CPU -> {then[0].cpu}",
        f"torch: 1.0 -> {then[0].versions['torch']}",
    }


def test_each_fold_gets_the_threads_that_it_had_and_where_it_cannot_that_is_told(
    again: Again, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    (scores, *_), then = database.load_epochs("tiny")[1], database.load_conditions("tiny", 1)
    more = replace(then[0], threads=then[0].threads + 1)
    database.save_epoch("tiny", 1, scores, more)
    asked: list[Conditions] = []

    def without_effect(conditions: Conditions) -> AbstractContextManager[None]:
        asked.append(conditions)
        return nullcontext()

    monkeypatch.setattr(module, "threads_as", without_effect)

    assert again().changes == (f"threads: {more.threads} -> {then[0].threads}",)
    assert asked == [more, more, then[1], then[1]]


def test_a_study_that_recorded_no_conditions_is_trained_with_what_there_is(
    again: Again, database: Database
) -> None:
    with database.storage.engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM bench_conditions"))

    reproduction = again()

    assert reproduction.verdict == "equal to the last bit"
    assert any("was not recorded" in remark for remark in reproduction.remarks)


def test_threads_are_those_of_then_within_the_block_alone() -> None:
    here = describe_conditions("cpu")

    with threads_as(replace(here, threads=here.threads + 1, blas_threads=1)):
        then = describe_conditions("cpu")

    assert (then.threads, then.blas_threads) == (here.threads + 1, 1)
    assert describe_conditions("cpu") == here


# --- trials that did not come to their end --------------------------------------------------


@pytest.mark.parametrize(
    ("state", "kept", "compared"),
    [("PRUNED", 1, [1]), ("PRUNED", 2, [2]), ("INTERRUPTED", 3, [2, 1])],
)
def test_of_an_unfinished_trial_the_epochs_that_there_are_are_compared(
    again: Again, recorded_as: Any, state: Any, kept: int, compared: list[int]
) -> None:
    recorded_as(lambda trial: replace(trial, state=state, epochs=trial.epochs[:kept]))

    reproduction = again()

    assert reproduction.verdict == "equal to the last bit"
    assert [fold.epochs for fold in reproduction.folds] == compared
    assert [bool(fold.pictures) for fold in reproduction.folds] == [n == 2 for n in compared]
    assert state.lower() in reproduction.remarks[0]


class _InterruptedInTheSecondFold(SilentProgress):
    """Ctrl-C after the first epoch of trial 0's second fold."""

    def epoch_scored(self, number: int, scores: EpochScores, mean: float) -> None:
        if (number, scores.fold, scores.epoch) == (0, 1, 0):
            raise KeyboardInterrupt


def test_a_trial_that_was_interrupted_and_one_that_was_pruned_are_reproduced(
    tmp_path: Path,
) -> None:
    plan = make_plan(write_pictures(tmp_path / "pictures"), tmp_path / "runs")
    workspace = Workspace(tmp_path / "runs").create()
    with Database.open(workspace.default_storage) as database:
        database.save_plan(plan, describe_environment(None))

        def run(listener: Listener, pruner: BasePruner, trials: int) -> None:
            study = open_study(plan, database)
            study.pruner = pruner
            coordinator = Coordinator(plan, study, database, listener)
            coordinator.run(InlineExecutor(plan), Budget(trials=trials))

        def again(trial: str) -> Reproduction:
            return reproduce(
                "tiny", trial, workspace=workspace, database=database, say=lambda _text: None
            )

        with pytest.raises(KeyboardInterrupt):
            run(_InterruptedInTheSecondFold(), NopPruner(), trials=1)
        cut_short = again("0")
        run(SilentProgress(), NopPruner(), trials=1)
        gone_on_with = again("0")
        # Every score is above it, so the trial stops after its first epoch.
        run(SilentProgress(), ThresholdPruner(upper=-1.0), trials=2)
        pruned = again("1")

    assert [r.state for r in (cut_short, gone_on_with, pruned)] == [
        "INTERRUPTED", "COMPLETE", "PRUNED",
    ]  # fmt: skip
    assert [[fold.epochs for fold in r.folds] for r in (cut_short, gone_on_with, pruned)] == [
        [2, 1], [2, 2], [1],
    ]  # fmt: skip
    assert {r.verdict for r in (cut_short, gone_on_with, pruned)} == {"equal to the last bit"}


def test_the_spread_of_a_trial_with_one_fold_is_that_of_the_studys_complete_trials(
    again: Again, recorded_as: Any
) -> None:
    def cut(trial: TrialRecord) -> TrialRecord:
        if trial.number == 0:
            return replace(trial, state="PRUNED", epochs=trial.epochs[:1])
        first, *others = trial.epochs
        rows = (first, *(replace(row, balanced_accuracy=0.1 * row.fold) for row in others))
        return replace(trial, epochs=rows)

    recorded_as(cut)

    assert again("0").spread == pytest.approx(0.1 / 2**0.5)


@pytest.mark.parametrize(
    ("change", "trial", "said"),
    [
        ({"state": "FAIL", "error": "non-finite loss: nan"}, "0", "failed.*non-finite loss: nan"),
        ({"state": "RUNNING"}, "0", "is being trained at this moment"),
        ({"epochs": ()}, "0", "no finished epoch"),
        ({"state": "PRUNED"}, "best", "no trial of 'tiny' is complete"),
        ({}, "2", "no trial 2: its trials are 0 to 1"),
        ({}, "first", "number or `best`, not 'first'"),
        ({}, "-1", "number or `best`, not '-1'"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_trained(
    again: Again,
    recorded_as: Any,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    trial: str,
    said: str,
) -> None:
    monkeypatch.setattr(module, "Trainer", None)
    recorded_as(lambda record: replace(record, **change))

    with pytest.raises(InputError, match=said):
        again(trial)


def test_a_trial_that_fails_this_time_says_why(again: Again, monkeypatch: Any) -> None:
    def diverges(*_: Any) -> Any:
        raise BenchError("the loss is nan")

    monkeypatch.setattr("bench.training.trainer.fit", diverges)

    with pytest.raises(ReproductionError, match=r"trial 1 fails now.*the loss is nan"):
        again()


# --- what it was trained on -----------------------------------------------------------------


@pytest.fixture
def own_pictures(database: Database, searched: Path, tmp_path: Path) -> Path:
    """The study moved to a copy of its pictures, which can be spoilt."""
    pictures = shutil.copytree(searched / "pictures", tmp_path / "pictures")
    plan, environment = database.load_plan("tiny"), database.load_environment("tiny")
    assert plan is not None and environment is not None
    moved = replace(plan, dataset=replace(plan.dataset, root=str(pictures)))
    database.save_plan(moved, environment)
    return pictures


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda file: file.write_bytes(file.read_bytes() + b"\0"), "has changed since"),
        (lambda file: file.unlink(), "cannot be read"),
    ],
)
def test_changed_data_are_refused_by_name(
    again: Again, database: Database, own_pictures: Path, spoil: Callable[[Path], Any], said: str
) -> None:
    plan = database.load_plan("tiny")
    assert plan is not None
    file = plan.dataset.picture_path(plan.split.development[0])
    spoil(file)

    with pytest.raises(DataError, match=rf"1 of {DEVELOPMENT} pictures.*{file.name} {said}"):
        again()


def test_a_changed_file_of_weights_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    source = WeightSource(kind="file", detail=str(file), digest="0" * 16)

    with pytest.raises(WeightsError, match="now there is no file: put the old file back"):
        refuse_changed_weights("resnet50", source)
    file.write_bytes(b"other")
    with pytest.raises(WeightsError, match=f"had the sha256 {'0' * 16}"):
        refuse_changed_weights("resnet50", source)
    refuse_changed_weights("resnet50", WeightSource(kind="random"))


# --- what it leaves behind ------------------------------------------------------------------


def contents(runs: Path, database: Database) -> dict[str, object]:
    """Every row of the database, and every file of the study with its time of writing."""
    rows: dict[str, object] = {}
    with database.storage.engine.connect() as connection:
        for table in sa.inspect(connection).get_table_names():
            rows[table] = connection.execute(sa.text(f"SELECT * FROM {table}")).all()
    files = {
        str(file): (file.stat().st_mtime_ns, file.read_bytes())
        for file in (runs / "tiny").rglob("*")
        if file.is_file()
    }
    return {**rows, **files}


@pytest.mark.parametrize("fresh", [False, True])
def test_nothing_in_the_study_is_changed_by_it(
    again: Again, runs: Path, database: Database, fresh: bool
) -> None:
    before = contents(runs, database)

    again(fresh=fresh)

    assert contents(runs, database) == before
    assert "bench_conditions" in before
    assert list((runs / "cache").glob("reproduce-*")) == []


# --- on the command line --------------------------------------------------------------------


def command(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *more: str
) -> tuple[int, str, str]:
    given = ["bench", "reproduce", "tiny", "1", "--workspace", str(runs), *more]
    monkeypatch.setattr(sys, "argv", given)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


def test_the_command_says_how_far_it_is_and_ends_with_the_verdict(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = command(runs, monkeypatch, capsys)
    assert code == 0
    assert out.rstrip().endswith("equal to the last bit")
    assert "fold 2, epoch 2" in err


def test_a_difference_ends_with_1_after_it_was_shown(
    runs: Path,
    recorded_as: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def other_score(trial: TrialRecord) -> TrialRecord:
        rows = (replace(row, balanced_accuracy=row.balanced_accuracy - 2) for row in trial.epochs)
        return replace(trial, epochs=tuple(rows))

    recorded_as(other_score)

    code, out, err = command(runs, monkeypatch, capsys, "--json", "--quiet")

    document = json.loads(out)
    assert (code, document["verdict"]) == (1, "different")
    assert document["recorded"] == pytest.approx(document["again"] - 2)
    assert "is not reproduced" in err
    assert "Traceback" not in err
