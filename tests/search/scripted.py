"""A trainer that trains nothing, in a module of its own because workers import it.

It tells at once what real training takes minutes for, and does what real training cannot be made
to do: hang, die, and tell what its worker was given. The number of a trial says which.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Generator
from dataclasses import replace
from math import log10
from pathlib import Path

import numpy as np

from bench.records import (
    EpochDone,
    EpochScores,
    Event,
    StudyPlan,
    TrialDone,
    TrialFailed,
    TrialJob,
)
from bench.training.folds import FoldResult, fold_file, read_fold, write_fold
from bench.workspace import Workspace
from tests.records import epoch_scores

RAMBLES, FAILS, HANGS, DIES, CONFIDES = 900, 901, 902, 903, 904


class Scripted:
    """Scores depend on the recipe alone. `seconds` holds the process id, so that it can be killed.

    Folds are stored and taken up again as real ones are; those that are, have a loss of -1.
    """

    def __init__(self, plan: StudyPlan, sharing: int) -> None:
        self._plan = plan
        self._sharing = sharing

    def run(self, job: TrialJob) -> Generator[Event, bool, None]:
        match job.number:
            case number if number == RAMBLES:  # more than a pipe holds
                yield TrialFailed(trial=job.number, kind="bad trial code", message="x" * (1 << 24))
                return
            case number if number == FAILS:
                yield TrialFailed(trial=job.number, kind="non-finite loss", message="diverged")
                return
            case number if number >= CONFIDES:
                seen = os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("OMP_NUM_THREADS")
                told = f"sharing {self._sharing}, {seen}"
                yield TrialFailed(trial=job.number, kind="bad trial code", message=told)
                return
            case number if number == HANGS:
                threading.Event().wait()
            case number if number == DIES:
                os.kill(os.getpid(), signal.SIGKILL)
        for fold in range(len(self._plan.split.folds)):
            for scores in self._fold(job, fold):
                if not (yield EpochDone(trial=job.number, scores=scores)):
                    return
        yield TrialDone(trial=job.number)

    def _fold(self, job: TrialJob, fold: int) -> list[EpochScores]:
        place = Workspace(Path(self._plan.workspace))
        file = fold_file(place, self._plan.study, job.number, fold)
        stored = read_fold(file)
        if stored is not None:
            return [self._scored(job, row.fold, row.epoch, -1.0) for row in stored.epochs]
        epochs = [
            self._scored(job, fold, epoch, 1.0) for epoch in range(self._plan.settings.epochs)
        ]
        nothing = np.zeros(0, np.int64)
        write_fold(file, FoldResult("scripted", tuple(epochs), nothing, np.zeros((0, 2), "f4")))
        return epochs

    @staticmethod
    def _scored(job: TrialJob, fold: int, epoch: int, loss: float) -> EpochScores:
        distance = abs(log10(job.recipe.learning_rate) + 3) + 0.1 * job.recipe.freeze_depth
        score = max(0.0, 0.9 - 0.2 * distance + 0.02 * epoch + 0.03 * fold)
        pid = float(os.getpid())
        return epoch_scores(fold, epoch, score, train_loss=loss, loss=loss, seconds=pid)


def make_scripted(plan: StudyPlan, sharing: int) -> Scripted:
    return Scripted(plan, sharing)


class SaysWhere(Scripted):
    """Remarks of each trial on which node of a Ray cluster it was trained."""

    def run(self, job: TrialJob) -> Generator[Event, bool, None]:
        import ray

        events = super().run(job)
        event = next(events)
        while not isinstance(event, TrialDone):
            event = events.send((yield event))
        yield replace(event, remark=ray.get_runtime_context().get_node_id())


def make_saying_where(plan: StudyPlan, sharing: int) -> SaysWhere:
    return SaysWhere(plan, sharing)
