"""Train a recorded trial once more and compare: to the last bit, within the fold spread, or not.

The trial is trained as the search trained it: the same recipe, seeds, folds, arithmetic and number
of threads, from the same starting weights, on pictures whose bytes are checked first. It is
trained in a folder of its own, which is removed: nothing in the study is changed by it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Literal

import numpy as np

from bench.data.unchanged import refuse_changed_pictures
from bench.database import Database
from bench.errors import InputError, ReproductionError
from bench.models.weights import refuse_changed_weights
from bench.records import (
    Conditions,
    EpochDone,
    EpochScores,
    StudyPlan,
    TrialFailed,
    TrialJob,
    TrialRecord,
    best_trial,
)
from bench.results import load_plan, load_trials
from bench.training.arithmetic import choose_device
from bench.training.conditions import threads_as
from bench.training.folds import FoldResult, fold_file, read_own_fold
from bench.training.trainer import Trainer
from bench.workspace import Workspace

Verdict = Literal["equal to the last bit", "within the fold spread", "different"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldComparison:
    """One fold as it was recorded and as it came out again, up to the last recorded epoch.

    `pictures` counts those whose predictions could be compared, 0 where none are stored: those of
    a fold that was not finished never are.
    """

    fold: int
    epochs: int
    finished: bool
    recorded: float  # balanced accuracy of the last epoch that was compared
    again: float
    scores_equal: bool  # all scores and losses of all epochs, to the last bit
    pictures: int = 0
    other_answers: int = 0  # pictures that were given another class
    max_abs_difference: float = 0.0  # of a class probability

    @property
    def equal(self) -> bool:
        return self.scores_equal and self.max_abs_difference == 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reproduction:
    """What came of training a trial again.

    `spread` is the standard deviation over the trial's folds or, of a trial without two finished
    folds, the mean of those of the study's complete trials; None where there is neither.
    `changes` are conditions that are other ones now.
    """

    study: str
    trial: int
    state: str
    folds: tuple[FoldComparison, ...]
    spread: float | None
    changes: tuple[str, ...]
    remarks: tuple[str, ...]

    @property
    def recorded(self) -> float:
        return fmean(fold.recorded for fold in self.folds)

    @property
    def again(self) -> float:
        return fmean(fold.again for fold in self.folds)

    @property
    def verdict(self) -> Verdict:
        if all(fold.equal for fold in self.folds):
            return "equal to the last bit"
        if self.spread is not None and abs(self.again - self.recorded) <= self.spread:
            return "within the fold spread"
        return "different"

    def refuse_difference(self) -> None:
        """Make an error of the verdict `different`.

        Raises:
            ReproductionError: the scores differ by more than the spread over the folds.
        """
        if self.verdict != "different":
            return
        spread = "unknown" if self.spread is None else f"{self.spread:.3f}"
        if self.changes:
            remedy = f"other than then: {', '.join(self.changes)}; put that back, and try again"
        else:
            remedy = (
                "nothing that was recorded is other than then; try again with --fresh, which "
                "trusts no stored activations"
            )
        raise ReproductionError(
            f"trial {self.trial} of {self.study!r} is not reproduced: {self.recorded:.3f} was "
            f"recorded, {self.again:.3f} came out, and the spread over the folds is {spread}; "
            f"{remedy}"
        )


def reproduce(
    study: str,
    trial: str,
    *,
    workspace: Workspace,
    database: Database,
    say: Callable[[str], None],
    fresh: bool = False,
) -> Reproduction:
    """Train a trial again and compare it with its records.

    Args:
        study: a study's name.
        trial: a trial's number, or `best`.
        workspace: where the study's folds and stored activations lie.
        database: where the study is recorded.
        say: is told how far it is.
        fresh: decode the pictures and compute activations anew, instead of reading stored ones.

    Raises:
        InputError: there is no such study or trial, or nothing of the trial to compare with.
        DataError: pictures are gone or have changed.
        WeightsError: the file of starting weights is gone or has changed.
        DeviceError: the study was run on CUDA, which is not here.
        ReproductionError: the trial fails this time.
    """
    plan = replace(load_plan(database, study), workspace=str(workspace.root))
    trials = load_trials(database, plan)
    record = _comparable(_find(trials, trial, study), study)
    choose_device(plan.device)
    refuse_changed_pictures(plan.dataset, plan.split.development)
    refuse_changed_weights(record.recipe.backbone, plan.weights[record.recipe.backbone])
    recorded = database.load_conditions(study, record.number)
    workspace.cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=workspace.cache, prefix="reproduce-") as folder:
        aside = Workspace(Path(folder))
        again = _train_again(
            Trainer(replace(plan, workspace=folder) if fresh else plan, folds_in=aside),
            record,
            recorded,
            say,
        )
        folds = tuple(_compare(plan, record, again, aside))
    return Reproduction(
        study=study,
        trial=record.number,
        state=record.state,
        folds=folds,
        spread=_spread(record, trials, plan),
        changes=tuple(_changes(recorded, again.conditions)),
        remarks=tuple(_remarks(record, recorded, folds, plan)),
    )


# --- which trial ----------------------------------------------------------------------------


def _find(trials: Sequence[TrialRecord], wanted: str, study: str) -> TrialRecord:
    if wanted == "best":
        best = best_trial(trials)
        if best is None:
            raise InputError(f"no trial of {study!r} is complete, so none is the best: name one")
        return best
    if not wanted.isdecimal():
        raise InputError(f"TRIAL is a trial's number or `best`, not {wanted!r}")
    found = next((trial for trial in trials if trial.number == int(wanted)), None)
    if found is None:
        last = max((trial.number for trial in trials), default=None)
        there = "it has none yet" if last is None else f"its trials are 0 to {last}"
        raise InputError(f"{study!r} has no trial {wanted}: {there}")
    return found


def _comparable(trial: TrialRecord, study: str) -> TrialRecord:
    name = f"trial {trial.number} of {study!r}"
    if trial.state == "FAIL":
        raise InputError(f"{name} failed, so there is no score to compare with ({trial.error})")
    if trial.state == "RUNNING":
        raise InputError(f"{name} is being trained at this moment: wait until it has ended")
    if not trial.epochs:
        raise InputError(f"{name} has no finished epoch, so there is nothing to compare with")
    return trial


# --- training -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Again:
    """What a trial gave this time."""

    epochs: dict[tuple[int, int], EpochScores]  # by fold and epoch
    conditions: dict[int, Conditions]  # by fold


def _train_again(
    trainer: Trainer,
    record: TrialRecord,
    recorded: Mapping[int, Conditions],
    say: Callable[[str], None],
) -> _Again:
    """Train as far as the records go, each fold with the number of threads that it had.

    Raises:
        ReproductionError: it fails this time.
    """
    last = record.epochs[-1]
    again = _Again({}, {})
    events = trainer.run(TrialJob(number=record.number, recipe=record.recipe))
    fold = 0
    while True:
        with threads_as(recorded[fold]) if fold in recorded else nullcontext():
            event = events.send(True if again.epochs else None)  # type: ignore[arg-type]
        if isinstance(event, TrialFailed):
            raise ReproductionError(
                f"trial {record.number} fails now ({event.kind}), and did not when it was "
                f"recorded: {event.message}"
            )
        assert isinstance(event, EpochDone)  # it is stopped before it could be done
        scores = event.scores
        again.epochs[scores.fold, scores.epoch] = scores
        if event.conditions is not None:
            again.conditions[scores.fold] = event.conditions
        say(
            f"fold {scores.fold + 1}, epoch {scores.epoch + 1}: balanced accuracy "
            f"{scores.balanced_accuracy:.3f}"
        )
        if (scores.fold, scores.epoch) == (last.fold, last.epoch):
            events.close()
            return again
        fold = scores.fold + (scores.epoch == trainer.plan.settings.epochs - 1)


# --- comparing ------------------------------------------------------------------------------


def _compare(
    plan: StudyPlan, record: TrialRecord, again: _Again, aside: Workspace
) -> list[FoldComparison]:
    comparisons = []
    for fold in sorted({row.fold for row in record.epochs}):
        rows = [row for row in record.epochs if row.fold == fold]
        now = [again.epochs[fold, row.epoch] for row in rows]
        comparison = FoldComparison(
            fold=fold,
            epochs=len(rows),
            finished=len(rows) == plan.settings.epochs,
            recorded=rows[-1].balanced_accuracy,
            again=now[-1].balanced_accuracy,
            scores_equal=[replace(row, seconds=0.0) for row in rows]
            == [replace(row, seconds=0.0) for row in now],
        )
        stored = _predictions(Workspace(Path(plan.workspace)), plan, record, fold)
        if comparison.finished and stored is not None:
            comparison = _with_predictions(
                comparison, stored, _predictions(aside, plan, record, fold)
            )
        comparisons.append(comparison)
    return comparisons


def _predictions(
    workspace: Workspace, plan: StudyPlan, record: TrialRecord, fold: int
) -> FoldResult | None:
    """What a workspace holds of a fold, unless it is of another training of that name."""
    return read_own_fold(fold_file(workspace, plan.study, record.number, fold), plan, record.recipe)


def _with_predictions(
    comparison: FoldComparison, stored: FoldResult, again: FoldResult | None
) -> FoldComparison:
    assert again is not None and np.array_equal(stored.pictures, again.pictures)
    then_nk, now_nk = stored.probabilities_nk, again.probabilities_nk
    return replace(
        comparison,
        pictures=len(then_nk),
        other_answers=int((then_nk.argmax(axis=1) != now_nk.argmax(axis=1)).sum()),
        max_abs_difference=float(np.abs(then_nk - now_nk).max()),
    )


def _spread(record: TrialRecord, trials: Sequence[TrialRecord], plan: StudyPlan) -> float | None:
    finished = {row.fold for row in record.epochs if row.epoch == plan.settings.epochs - 1}
    if len(finished) > 1:
        rows = tuple(row for row in record.epochs if row.fold in finished)
        return replace(record, epochs=rows).cv_sd
    spreads = [t.cv_sd for t in trials if t.state == "COMPLETE" and t.cv_sd is not None]
    return fmean(spreads) if spreads else None


def _changes(recorded: Mapping[int, Conditions], again: Mapping[int, Conditions]) -> list[str]:
    """Conditions that were other ones then, each told once over the folds."""
    changes: dict[str, None] = {}
    for fold, then in recorded.items():
        now = again.get(fold)
        if now is None:
            continue
        facts = (
            ("CPU", then.cpu, now.cpu),
            ("vector instructions", then.instructions, now.instructions),
            ("threads", then.threads, now.threads),
            ("threads of BLAS", then.blas_threads, now.blas_threads),
            ("GPU", then.gpu, now.gpu),
            *(
                (name, then.versions.get(name), now.versions.get(name))
                for name in sorted(then.versions.keys() | now.versions.keys())
            ),
        )
        changes |= {f"{what}: {old} -> {new}": None for what, old, new in facts if old != new}
    return list(changes)


def _remarks(
    record: TrialRecord,
    recorded: Mapping[int, Conditions],
    folds: Sequence[FoldComparison],
    plan: StudyPlan,
) -> list[str]:
    remarks = []
    if record.state != "COMPLETE":
        remarks.append(
            f"The trial is {record.state.lower()}: {len(folds)} of {len(plan.split.folds)} folds "
            "were begun, and what was recorded of them is compared."
        )
    if len(recorded) < len(folds):
        remarks.append(
            "Under which versions, on which CPU and with how many threads it was trained was not "
            "recorded; it was trained again with what there is now."
        )
    if any(fold.finished and not fold.pictures for fold in folds):
        remarks.append(
            "Predictions of finished folds are no longer in this workspace: scores and losses "
            "alone were compared."
        )
    if record.remark is not None:
        remarks.append(f"Recorded of its training: {record.remark}.")
    if plan.device == "cuda":
        remarks.append(
            "It was trained on a GPU, where some sums are added in no fixed order: the last bits "
            "may differ from run to run."
        )
    return remarks
