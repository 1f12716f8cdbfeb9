"""One trial, fold after fold, as a generator of events that is told after each to go on or stop."""

from __future__ import annotations

import time
import traceback
from collections.abc import Generator, Iterator
from pathlib import Path

import numpy as np
import torch

from bench.errors import BenchError, NonFiniteLossError, ShortOfMemoryError, WorkspaceError
from bench.metrics import score_epoch
from bench.models.staged import StagedModel
from bench.records import (
    PARTS,
    EpochDone,
    EpochScores,
    Event,
    FailureKind,
    Protocol,
    Recipe,
    StudyPlan,
    TrialDone,
    TrialFailed,
    TrialJob,
)
from bench.training.activations import ActivationStore, Indices
from bench.training.conditions import describe_conditions
from bench.training.folds import (
    FoldResult,
    fold_file,
    fold_seed,
    read_own_fold,
    training_identity,
    write_fold,
)
from bench.training.learner import Learner
from bench.training.learners import LearnerPool
from bench.training.loop import Schedule, fit
from bench.training.memory import is_out_of_memory, keep_freed_memory, release_memory
from bench.training.networks import StudyNetworks
from bench.training.start import Start, find_start
from bench.workspace import DISK_ERRORS, Workspace

TrialEvents = Generator[Event, bool, None]

# What the kinds of failures are as errors, where they are nothing more special.
_ERRORS: dict[FailureKind, type[BenchError]] = {
    "non-finite loss": NonFiniteLossError,
    "out of memory": ShortOfMemoryError,
    "workspace": WorkspaceError,
}


class Trainer:
    """Trains trials of one study; keeps its networks and learners between them.

    With `further_protocol` the plan's split is that protocol's, and its folds are stored apart.
    Folds are stored in the plan's workspace, or in the one of `folds_in`, where others than the
    study's are to be found.
    """

    def __init__(
        self,
        plan: StudyPlan,
        *,
        workers: int = 1,
        further_protocol: Protocol | None = None,
        folds_in: Workspace | None = None,
    ) -> None:
        if plan.device == "cpu":
            keep_freed_memory()
        else:
            release_memory(plan.device)  # learners of an earlier one lie in reference cycles
        self.plan = plan
        self._further_protocol = further_protocol
        self._folds_in = folds_in or Workspace(Path(plan.workspace))
        self._labels = np.asarray(plan.dataset.labels, dtype=np.int64)
        self._starts: dict[tuple[str, int, bytes], Start] = {}
        self.networks = StudyNetworks(plan, workers=workers)
        self.learners = LearnerPool(self.networks)

    def run(self, job: TrialJob) -> TrialEvents:
        """Yield an `EpochDone` an epoch, then `TrialDone`; or `TrialFailed`, whatever happens.

        Send False to stop. Folds that an interrupted run has finished are not trained again:
        their stored epochs are told once more, in the same order. A fold that runs out of memory
        begins again with twice as many micro-batches a batch, down to two pictures in each.
        """
        micro_batches, fold, refused = 1, 0, False
        try:
            while fold < len(self.plan.split.folds):
                finished = self._finished_fold(job, fold)
                try:
                    if finished is None:
                        epochs = self._train_fold(job, fold, micro_batches)
                    else:
                        micro_batches = max(micro_batches, finished.micro_batches)
                        epochs = _told_again(job, finished)
                    for event in epochs:
                        go_on = yield event
                        if not go_on:
                            return
                    fold += 1
                    refused = self.learners.drop_refused() or refused
                    continue
                except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                    more = self.micro_batches_after(error, job.recipe, micro_batches)
                    if more is None:
                        raise
                    micro_batches = more
                # Not before here: the error holds the failed step and all its tensors.
                self.release_memory()
            yield TrialDone(trial=job.number, remark=self._remark(micro_batches, refused))
        except Exception as error:
            if not isinstance(error, NonFiniteLossError):
                self.learners.clear()  # one may have stopped within a step
            kind = _kind_of(error)
            # The message of a foreseen error says all; any other is a defect to be found.
            foreseen = isinstance(error, BenchError) or kind != "bad trial code"
            message = str(error) if foreseen else traceback.format_exc()
            yield TrialFailed(trial=job.number, kind=kind, message=message)
        finally:
            self.learners.drop_refused()  # of a trial that was stopped too

    def micro_batches_after(
        self, error: Exception, recipe: Recipe, micro_batches: int
    ) -> int | None:
        """Return with how many micro-batches a batch to begin again after an error.

        None where that does not help: memory was not what was missing, or each has two pictures
        already. The caller calls `release_memory` when it has let go of the error.
        """
        if not is_out_of_memory(error):
            return None
        # On a GPU it may be what is kept for other trials that leaves no room.
        if self.plan.device == "cuda":
            others = self.learners.has_others(recipe, micro_batches)
            self.learners.clear()
            if self.networks.give_up_memory() or others:
                return micro_batches
        return 2 * micro_batches if self.plan.settings.batch_size >= 4 * micro_batches else None

    def release_memory(self) -> None:
        """Give back what failed or finished work left in the training device's memory."""
        release_memory(self.plan.device)

    def fold_scores(self, job: TrialJob) -> tuple[float, ...]:
        """Run a trial to its end; return the balanced accuracy of each fold's last epoch.

        Raises:
            NonFiniteLossError: training diverged.
            ShortOfMemoryError: there is too little memory.
            WorkspaceError: the disk is full or cannot be written.
            BenchError: it failed otherwise.
        """
        last: dict[int, float] = {}
        events = self.run(job)
        event = next(events)
        while isinstance(event, EpochDone):
            last[event.scores.fold] = event.scores.balanced_accuracy
            event = events.send(True)
        if isinstance(event, TrialFailed):
            raise _ERRORS.get(event.kind, BenchError)(f"{event.kind}: {event.message}")
        return tuple(last[fold] for fold in sorted(last))

    def close(self) -> None:
        """Give back what is kept in memory, so that others find it."""
        self.learners.clear()
        self._starts.clear()
        self.networks.close()
        self.release_memory()

    def prepare(
        self, recipe: Recipe, train: Indices, seed: int, micro_batches: int = 1
    ) -> tuple[Learner, ActivationStore]:
        """Set a learner to where training on some pictures begins; also return what feeds it.

        The learner is good until the next one is asked for.
        """
        learner = self.learners.get(recipe, micro_batches)
        learner.model.copy_weights(self.networks.template(recipe.backbone))
        self.networks.draw_head(learner.model, seed)
        activations = self.networks.activations(recipe.backbone, learner.boundary)
        if self.plan.settings.linear_probe:
            start = self._start(recipe, train, learner.model, learner.boundary)
            start.apply(learner.model)
        return learner, activations

    def _start(self, recipe: Recipe, train: Indices, model: StagedModel, boundary: int) -> Start:
        """Where training on these pictures begins: the same for every trial, or every one that
        adapts the same normalisations.
        """
        adapts = bool(model.updating_norms())
        key = (recipe.backbone, recipe.freeze_depth if adapts else PARTS, train.tobytes())
        if key not in self._starts:
            at = boundary if adapts else PARTS
            self._starts[key] = find_start(
                model,
                self.networks.activations(recipe.backbone, at),
                at,
                self._labels,
                train,
                self.plan.settings.batch_size,
                self.plan.arithmetic[recipe.backbone],
            )
        return self._starts[key]

    def _remark(self, micro_batches: int, refused: bool) -> str | None:
        """What a trial's reader should know of how it was trained."""
        remarks = []
        if micro_batches > 1:
            remarks.append(
                f"out of memory at {self.plan.settings.batch_size} pictures a batch: gradients "
                f"were accumulated over {micro_batches} micro-batches"
            )
        if refused:
            remarks.append("steps could not be recorded as CUDA graphs: they took longer")
        return "; ".join(remarks) or None

    # --- folds ------------------------------------------------------------------------------

    def _fold_file(self, job: TrialJob, fold: int) -> Path:
        return fold_file(self._folds_in, self.plan.study, job.number, fold, self._further_protocol)

    def _finished_fold(self, job: TrialJob, fold: int) -> FoldResult | None:
        """What an earlier run stored of a fold, if it was the same training."""
        return read_own_fold(self._fold_file(job, fold), self.plan, job.recipe)

    def _train_fold(self, job: TrialJob, fold: int, micro_batches: int) -> Iterator[EpochDone]:
        settings, recipe = self.plan.settings, job.recipe
        validation = np.asarray(self.plan.split.folds[fold], dtype=np.int64)
        train = np.asarray(self.plan.split.training_part(fold), dtype=np.int64)
        seed = fold_seed(settings.seed, job.number, fold)
        learner, activations = self.prepare(recipe, train, seed, micro_batches)
        epochs: list[EpochScores] = []
        conditions = describe_conditions(self.plan.device)
        started = time.perf_counter()
        for outcome in fit(
            learner,
            activations,
            self._labels,
            train,
            validation,
            recipe,
            Schedule(epochs=settings.epochs, batch_size=settings.batch_size, seed=seed),
        ):
            assert outcome.probabilities_nk is not None
            now = time.perf_counter()
            epochs.append(
                score_epoch(
                    self._labels[validation],
                    outcome.probabilities_nk,
                    fold=fold,
                    epoch=outcome.epoch,
                    train_loss=outcome.train_loss,
                    seconds=now - started,
                )
            )
            started = now
            if len(epochs) == settings.epochs:
                # Stored before the last epoch is told: what the study knows of can be read.
                result = FoldResult(
                    identity=training_identity(self.plan, recipe),
                    epochs=tuple(epochs),
                    pictures=validation,
                    probabilities_nk=outcome.probabilities_nk,
                    micro_batches=learner.micro_batches,
                )
                write_fold(self._fold_file(job, fold), result)
            yield EpochDone(trial=job.number, scores=epochs[-1], conditions=conditions)


def _told_again(job: TrialJob, finished: FoldResult) -> Iterator[EpochDone]:
    for scores in finished.epochs:
        yield EpochDone(trial=job.number, scores=scores)


def _kind_of(error: Exception) -> FailureKind:
    if is_out_of_memory(error):
        return "out of memory"
    if isinstance(error, NonFiniteLossError):
        return "non-finite loss"
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        return "workspace"
    return "bad input" if isinstance(error, BenchError) else "bad trial code"
