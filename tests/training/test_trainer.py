from __future__ import annotations

import errno
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.data.splits import make_split
from bench.errors import (
    BenchError,
    DataError,
    NonFiniteLossError,
    ShortOfMemoryError,
    WorkspaceError,
)
from bench.metrics import score_epoch
from bench.records import (
    Conditions,
    EpochDone,
    Event,
    Recipe,
    StudyPlan,
    TrialDone,
    TrialFailed,
    TrialJob,
)
from bench.training import trainer as trainer_module
from bench.training.conditions import describe_conditions
from bench.training.folds import fold_file, fold_seed, read_fold, training_identity, write_fold
from bench.training.trainer import Trainer
from bench.workspace import Workspace
from tests.tiny import BACKBONE, all_events, make_plan, timeless, write_pictures

RECIPE = Recipe(backbone=BACKBONE, learning_rate=1e-3, freeze_depth=2, batch_norm="updating")
JOB = TrialJob(number=4, recipe=RECIPE)
EPOCHS = [(0, 0), (0, 1), (1, 0), (1, 1)]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def small_plan(pictures: Path, tmp_path: Path) -> StudyPlan:
    return make_plan(pictures, tmp_path / "runs")


@pytest.fixture
def elsewhere(small_plan: StudyPlan, tmp_path: Path) -> Callable[[str], StudyPlan]:
    """The same plan in another workspace, which knows nothing of the first."""
    return lambda name: replace(small_plan, workspace=str(tmp_path / name))


def run(plan: StudyPlan, job: TrialJob = JOB) -> list[Event]:
    return all_events(Trainer(plan), job)


def test_a_trainings_identity_is_what_its_numbers_depend_on(small_plan: StudyPlan) -> None:
    """Finished folds of older studies are found again, however steps are launched today."""

    def identity(**changes: Any) -> str:
        arithmetic = replace(small_plan.arithmetic[BACKBONE], **changes)
        return training_identity(replace(small_plan, arithmetic={BACKBONE: arithmetic}), RECIPE)

    assert identity(graphs=True) == identity() == identity(reason="measured again")
    assert identity(channels_last=True) != identity() != identity(dtype="bfloat16")


def told_again(events: list[Event]) -> list[Event]:
    """What is read back was not trained just now, so it tells no conditions."""
    return [replace(e, conditions=None) if isinstance(e, EpochDone) else e for e in events]


def no_training(*_: Any) -> Any:
    raise AssertionError("what is finished is not trained again")


# --- the order of events --------------------------------------------------------------------


def test_a_trial_tells_each_epoch_of_each_fold_and_then_that_it_is_done(
    small_plan: StudyPlan,
) -> None:
    *epochs, last = run(small_plan)

    told = [event.scores for event in epochs if isinstance(event, EpochDone)]
    assert len(told) == len(epochs)
    assert [(scores.fold, scores.epoch) for scores in told] == EPOCHS
    assert {event.trial for event in epochs} == {4}
    assert last == TrialDone(trial=4)


@pytest.mark.parametrize("stop_after", [1, 2, 3, 4])
def test_a_trial_told_to_stop_says_nothing_more(small_plan: StudyPlan, stop_after: int) -> None:
    events = Trainer(small_plan).run(JOB)

    next(events)
    for _ in range(stop_after - 1):
        assert isinstance(events.send(True), EpochDone)
    with pytest.raises(StopIteration):
        events.send(False)


def test_a_trial_run_to_its_end_scores_each_folds_last_epoch(small_plan: StudyPlan) -> None:
    scores = {
        event.scores.fold: event.scores.balanced_accuracy
        for event in run(small_plan)
        if isinstance(event, EpochDone)
    }
    assert Trainer(small_plan).fold_scores(JOB) == tuple(scores.values())


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (NonFiniteLossError("nan"), NonFiniteLossError),
        (MemoryError("no room"), ShortOfMemoryError),
        (OSError(errno.ENOSPC, "no room"), WorkspaceError),
        (OSError("no disk"), BenchError),
    ],
)
def test_a_trial_that_fails_has_no_scores(
    small_plan: StudyPlan,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    kind: type[BenchError],
) -> None:
    def fails(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(trainer_module, "fit", fails)
    with pytest.raises(BenchError, match=re.escape(str(error))) as caught:
        Trainer(small_plan).fold_scores(JOB)
    assert type(caught.value) is kind


# --- finished folds -------------------------------------------------------------------------


def test_finished_folds_are_told_again_and_not_trained_again(
    small_plan: StudyPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(small_plan)
    monkeypatch.setattr(trainer_module, "fit", no_training)

    assert run(small_plan) == told_again(first)


def test_what_was_trained_just_now_tells_under_which_conditions(small_plan: StudyPlan) -> None:
    def told() -> list[Conditions | None]:
        return [event.conditions for event in run(small_plan) if isinstance(event, EpochDone)]

    assert told() == [describe_conditions("cpu")] * 4
    assert told() == [None] * 4


def test_folds_may_be_stored_elsewhere(small_plan: StudyPlan, tmp_path: Path) -> None:
    aside = Workspace(tmp_path / "aside")

    all_events(Trainer(small_plan, folds_in=aside), JOB)

    assert fold_file(aside, "tiny", JOB.number, 0).exists()
    assert not fold_file(Workspace(Path(small_plan.workspace)), "tiny", JOB.number, 0).exists()


def test_a_fold_whose_file_is_missing_is_trained_again_with_the_same_scores(
    small_plan: StudyPlan,
) -> None:
    first = run(small_plan)
    fold_file(Workspace(Path(small_plan.workspace)), small_plan.study, 4, 1).unlink()

    again = run(small_plan)

    assert again[:2] == told_again(first[:2])
    assert [timeless(event) for event in again] == [timeless(event) for event in first]


@pytest.mark.parametrize(("epochs_heard", "stored"), [(1, []), (2, [0]), (3, [0]), (4, [0, 1])])
def test_a_fold_is_stored_before_its_last_epoch_is_told_and_not_earlier(
    small_plan: StudyPlan, epochs_heard: int, stored: list[int]
) -> None:
    events = Trainer(small_plan).run(JOB)
    next(events)
    for _ in range(epochs_heard - 1):
        events.send(True)
    events.close()

    place = Workspace(Path(small_plan.workspace))
    files = [fold_file(place, small_plan.study, 4, fold) for fold in (0, 1)]
    assert [fold for fold, file in enumerate(files) if file.exists()] == stored


def test_a_trial_interrupted_in_a_fold_ends_as_an_undisturbed_one(
    small_plan: StudyPlan, elsewhere: Callable[[str], StudyPlan]
) -> None:
    interrupted = Trainer(small_plan).run(JOB)
    next(interrupted)
    interrupted.send(True)
    interrupted.send(True)
    interrupted.close()

    again = run(small_plan)

    undisturbed = run(elsewhere("undisturbed"))
    assert [timeless(event) for event in again] == [timeless(event) for event in undisturbed]


def changed_recipe(plan: StudyPlan) -> tuple[StudyPlan, Recipe]:
    return plan, replace(RECIPE, learning_rate=5e-3)


def changed_settings(plan: StudyPlan) -> tuple[StudyPlan, Recipe]:
    return replace(plan, settings=replace(plan.settings, seed=9)), RECIPE


def changed_store(plan: StudyPlan) -> tuple[StudyPlan, Recipe]:
    return replace(plan, settings=replace(plan.settings, store="half")), RECIPE


def changed_split(plan: StudyPlan) -> tuple[StudyPlan, Recipe]:
    return replace(plan, split=make_split(plan.dataset, folds=2, test_fraction=0.3, seed=5)), RECIPE


@pytest.mark.parametrize("change", [changed_recipe, changed_settings, changed_store, changed_split])
def test_a_fold_that_another_study_of_that_name_left_behind_is_not_believed(
    small_plan: StudyPlan,
    elsewhere: Callable[[str], StudyPlan],
    change: Callable[[StudyPlan], tuple[StudyPlan, Recipe]],
) -> None:
    """A database can be deleted or changed with --storage while the workspace stays."""
    run(small_plan)

    plan, recipe = change(small_plan)
    again = run(plan, replace(JOB, recipe=recipe))

    fresh, _ = change(elsewhere("fresh"))
    expected = run(fresh, replace(JOB, recipe=recipe))
    assert [timeless(event) for event in again] == [timeless(event) for event in expected]


def test_a_stored_fold_holds_the_predictions_that_its_last_scores_are_made_of(
    small_plan: StudyPlan,
) -> None:
    run(small_plan)
    labels = np.asarray(small_plan.dataset.labels)

    for fold, validation in enumerate(small_plan.split.folds):
        file = fold_file(Workspace(Path(small_plan.workspace)), small_plan.study, 4, fold)
        stored = read_fold(file)
        assert stored is not None
        assert stored.pictures.tolist() == list(validation)
        last = stored.epochs[-1]
        assert last == score_epoch(
            labels[stored.pictures],
            stored.probabilities_nk,
            fold=fold,
            epoch=1,
            train_loss=last.train_loss,
            seconds=last.seconds,
        )


def test_a_fold_that_was_never_finished_reads_as_none(tmp_path: Path) -> None:
    assert read_fold(tmp_path / "fold-0.npz") is None


# --- what the scores depend on --------------------------------------------------------------


def test_scores_do_not_depend_on_what_was_trained_before(
    small_plan: StudyPlan, elsewhere: Callable[[str], StudyPlan]
) -> None:
    busy = Trainer(small_plan)
    all_events(busy, TrialJob(number=0, recipe=replace(RECIPE, freeze_depth=0)))
    stopped = busy.run(TrialJob(number=1, recipe=replace(RECIPE, augmentation="strong")))
    next(stopped)
    stopped.close()
    after_others = all_events(busy, JOB)

    alone = run(elsewhere("alone"))
    assert [timeless(event) for event in after_others] == [timeless(event) for event in alone]


def test_studies_of_one_workspace_with_different_test_sets_do_not_share_rows(
    small_plan: StudyPlan, elsewhere: Callable[[str], StudyPlan]
) -> None:
    other_split = make_split(small_plan.dataset, folds=2, test_fraction=0.4, seed=0)
    assert other_split.test != small_plan.split.test

    def other(plan: StudyPlan) -> StudyPlan:
        return replace(plan, study="other", split=other_split, cache_bytes=10**9)

    run(replace(small_plan, cache_bytes=10**9))
    beside = run(other(small_plan))

    alone = run(other(elsewhere("alone")))
    assert [timeless(event) for event in beside] == [timeless(event) for event in alone]


def test_a_trials_number_gives_it_a_seed_of_its_own(small_plan: StudyPlan) -> None:
    four, five = run(small_plan), run(small_plan, replace(JOB, number=5))

    assert isinstance(four[0], EpochDone)
    assert isinstance(five[0], EpochDone)
    assert four[0].scores.train_loss != five[0].scores.train_loss


def test_every_seed_trial_and_fold_has_its_own_seed_and_always_the_same() -> None:
    seeds = [fold_seed(*place) for place in np.ndindex(3, 4, 5)]

    assert len(set(seeds)) == 60
    assert seeds == [fold_seed(*place) for place in np.ndindex(3, 4, 5)]


# --- errors ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError("no room"), "out of memory"),
        (torch.OutOfMemoryError("no room"), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 GB"), "out of memory"),
        (RuntimeError("CUDA error: out of memory"), "out of memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), "out of memory"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "out of memory"),
        (OSError(errno.ENOSPC, "No space left on device"), "workspace"),
        (OSError(errno.EROFS, "Read-only file system"), "workspace"),
        (DataError("a picture is gone"), "bad input"),
        (RuntimeError("some shape"), "bad trial code"),
    ],
)
def test_an_error_becomes_a_failed_trial_with_a_kind(
    small_plan: StudyPlan, monkeypatch: pytest.MonkeyPatch, error: Exception, kind: str
) -> None:
    def failing(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(trainer_module, "fit", failing)

    (failed,) = run(small_plan)
    assert isinstance(failed, TrialFailed)
    assert (failed.trial, failed.kind) == (4, kind)
    assert str(error) in failed.message
    assert ("Traceback" in failed.message) == (kind == "bad trial code"), "defects can be found"


def test_a_fold_without_room_begins_again_with_smaller_micro_batches_and_says_so(
    small_plan: StudyPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit, tried = trainer_module.fit, []

    def cramped(*args: Any) -> Any:
        micro_batches = args[0].micro_batches
        tried.append(micro_batches)
        if micro_batches < 4:
            raise torch.OutOfMemoryError("no room")
        return fit(*args)

    monkeypatch.setattr(trainer_module, "fit", cramped)
    *epochs, last = run(small_plan)

    assert tried == [1, 2, 4, 4], "the second fold begins where the first one found room"
    assert len(epochs) == len(EPOCHS)
    assert isinstance(last, TrialDone)
    assert last.remark is not None and "4 micro-batches" in last.remark


def test_an_interrupted_trial_goes_on_with_the_micro_batches_of_its_finished_folds(
    small_plan: StudyPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(small_plan)
    workspace = Workspace(Path(small_plan.workspace))
    first, second = (fold_file(workspace, small_plan.study, 4, fold) for fold in (0, 1))
    stored = read_fold(first)
    assert stored is not None
    write_fold(first, replace(stored, micro_batches=2))
    second.unlink()
    fit, used = trainer_module.fit, []

    def noting(*args: Any) -> Any:
        used.append(args[0].micro_batches)
        return fit(*args)

    monkeypatch.setattr(trainer_module, "fit", noting)
    *epochs, last = run(small_plan)

    assert used == [2]
    assert len(epochs) == len(whole) - 1
    assert isinstance(last, TrialDone)
    assert last.remark is not None and "2 micro-batches" in last.remark


def test_steps_that_could_not_be_recorded_are_told(
    small_plan: StudyPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(small_plan)
    with monkeypatch.context() as patch:
        patch.setattr(trainer_module.Learner, "refused", True)
        last = all_events(trainer, JOB)[-1]

    assert isinstance(last, TrialDone)
    assert last.remark == "steps could not be recorded as CUDA graphs: they took longer"
    assert not trainer.learners, "what was recorded before reads an older state of randomness"

    next_one = all_events(trainer, replace(JOB, number=5))[-1]
    assert isinstance(next_one, TrialDone)
    assert next_one.remark is None

    with monkeypatch.context() as patch:
        patch.setattr(trainer_module.Learner, "refused", True)
        stopped = trainer.run(replace(JOB, number=6))
        next(stopped)
        with pytest.raises(StopIteration):
            stopped.send(False)
    assert not trainer.learners, "nor after a trial that was pruned within its first fold"


def test_a_learner_that_failed_within_a_step_trains_nothing_more(
    small_plan: StudyPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(small_plan)
    monkeypatch.setattr(trainer_module.Learner, "step", lambda *_: 1 / 0)

    assert isinstance(all_events(trainer, JOB)[-1], TrialFailed)
    assert not trainer.learners


def test_a_closed_trainer_keeps_nothing_and_trains_on_alike(
    small_plan: StudyPlan, elsewhere: Callable[[str], StudyPlan]
) -> None:
    trainer = Trainer(small_plan)
    all_events(trainer, replace(JOB, number=0))
    trainer.close()
    assert not trainer.learners

    after = all_events(trainer, JOB)
    assert [timeless(event) for event in after] == [
        timeless(event) for event in run(elsewhere("alone"))
    ]


def test_a_loss_that_is_no_number_becomes_a_failed_trial(small_plan: StudyPlan) -> None:
    last = run(small_plan, replace(JOB, recipe=replace(RECIPE, learning_rate=1e30)))[-1]

    assert isinstance(last, TrialFailed)
    assert last.kind == "non-finite loss"
    assert "narrow the range of learning rates" in last.message


def test_ctrl_c_is_not_a_failed_trial(
    small_plan: StudyPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer_module, "fit", interrupted)

    with pytest.raises(KeyboardInterrupt):
        run(small_plan)
