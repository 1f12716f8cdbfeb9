"""Take the learning curves of a finished study out of its workspace, small enough to be committed.

Usage: record_curves.py WORKSPACE STUDY --out FILE.npz

The study is one that was run with `--pruner none`: every trial has all its folds and epochs, so
`pruner_replay.py` can ask of each pruner what it would have stopped, and what that would have cost.
No picture, file name or path is kept.

Shapes: T trials, F folds, E epochs, N pictures of all validation parts, fold after fold.
"""

from __future__ import annotations

import argparse
import datetime
import io
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.database import Database
from bench.errors import BenchError, InputError
from bench.records import StudyPlan, TrialRecord
from bench.results import load_plan, load_trials
from bench.search.racing import Floats, groups_by_fold, log_losses
from bench.space import SearchSpace
from bench.training.folds import FoldResult, fold_file, read_fold
from bench.workspace import Workspace, package_versions, write_atomic


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """Where a recording comes from."""

    data: str
    synthetic: bool
    pictures: int  # of the development part: those that are validated on
    classes: int
    groups: int
    backbones: tuple[str, ...]
    image_size: int | None  # pixels; None: the backbone's own
    seed: int
    date: str
    versions: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """The whole learning curves of a study's trials, in the order in which they were run.

    `fold_sizes` cuts N into folds; `groups_n` numbers the group of each picture. The first
    `enqueued` trials are those that every study of the space begins with; `defaults` are the
    untuned recipes among them.
    """

    header: Header
    params: tuple[Mapping[str, Any], ...]
    enqueued: int
    defaults: tuple[int, ...]
    fold_sizes: tuple[int, ...]
    groups_n: npt.NDArray[np.uint16]
    balanced_accuracy_tfe: npt.NDArray[np.float32]
    losses_tn: npt.NDArray[np.float16]  # nats, of each fold's last epoch, clipped as for racing
    mistakes_tn: npt.NDArray[np.bool_]

    @property
    def trials(self) -> int:
        return len(self.params)

    @property
    def folds(self) -> int:
        return len(self.fold_sizes)

    @property
    def epochs(self) -> int:
        """Epochs of one fold."""
        return int(self.balanced_accuracy_tfe.shape[2])

    @property
    def values(self) -> Floats:
        """What each trial is worth, (T,): the mean of its folds' last epochs."""
        values: Floats = self.balanced_accuracy_tfe[:, :, -1].mean(axis=1, dtype=np.float64)
        return values

    def losses(self, trial: int, fold: int) -> Floats:
        return self.losses_tn[trial, self._cut(fold)].astype(np.float64)

    def mistakes(self, trial: int, fold: int) -> Floats:
        """1 where the picture was taken for another class, 0 where it was not."""
        return self.mistakes_tn[trial, self._cut(fold)].astype(np.float64)

    def groups(self, fold: int) -> list[int]:
        return [int(group) for group in self.groups_n[self._cut(fold)]]

    def _cut(self, fold: int) -> slice:
        bounds = list(pairwise(np.cumsum([0, *self.fold_sizes])))
        return slice(*bounds[fold])


def record(workspace: Workspace, name: str) -> Recording:
    """Read a study's trials and the predictions that its trainer stored.

    Raises:
        InputError: there is no such study, or one of its trials did not run to its end.
    """
    if not workspace.database.exists():
        raise InputError(f"{workspace.root} is no workspace: it holds no bench.db")
    database = Database.open(workspace.default_storage)
    try:
        # Its own folder, because a workspace may have been moved since.
        plan = replace(load_plan(database, name), workspace=str(workspace.root))
        trials = load_trials(database, plan)
    finally:
        database.close()
    _refuse_cut_curves(name, trials)
    groups = groups_by_fold(plan)
    number_of = {
        group: number for number, group in enumerate(dict.fromkeys(chain.from_iterable(groups)))
    }
    folds_of = [_read_folds(plan, trial) for trial in trials]
    labels = np.asarray(plan.dataset.labels, dtype=np.int64)
    return Recording(
        header=_header(plan, trials, groups=len(number_of)),
        params=tuple(asdict(trial.recipe) for trial in trials),
        enqueued=_enqueued(plan, trials),
        defaults=tuple(number for number, trial in enumerate(trials) if trial.is_default),
        fold_sizes=tuple(len(fold) for fold in groups),
        groups_n=np.asarray([number_of[g] for fold in groups for g in fold], dtype=np.uint16),
        balanced_accuracy_tfe=np.asarray([_curves(plan, trial) for trial in trials], np.float32),
        losses_tn=np.asarray(
            [
                np.concatenate([log_losses(labels[f.pictures], f.probabilities_nk) for f in folds])
                for folds in folds_of
            ],
            np.float16,
        ),
        mistakes_tn=np.asarray(
            [
                np.concatenate([f.probabilities_nk.argmax(1) != labels[f.pictures] for f in folds])
                for folds in folds_of
            ]
        ),
    )


def _refuse_cut_curves(name: str, trials: Sequence[TrialRecord]) -> None:
    others = sorted({trial.state for trial in trials} - {"COMPLETE"})
    if others or not trials:
        raise InputError(
            f"a recording takes whole curves, and the study {name!r} has "
            + (f"trials that are {' and '.join(others)}" if others else "no trials")
            + ": run it to its end with --pruner none"
        )


def _enqueued(plan: StudyPlan, trials: Sequence[TrialRecord]) -> int:
    space = SearchSpace.from_dict(plan.space)
    first = [space.recipe(params) for params in space.first_params()]
    return sum(trial.recipe in first for trial in trials[: len(first)])


def _header(plan: StudyPlan, trials: Sequence[TrialRecord], *, groups: int) -> Header:
    return Header(
        data=plan.dataset.name,
        synthetic=plan.dataset.synthetic,
        pictures=len(plan.split.development),
        classes=len(plan.dataset.classes),
        groups=groups,
        backbones=tuple(sorted({trial.recipe.backbone for trial in trials})),
        image_size=plan.settings.image_size,
        seed=plan.settings.seed,
        date=datetime.date.today().isoformat(),
        versions=package_versions(),
    )


def _curves(plan: StudyPlan, trial: TrialRecord) -> Floats:
    scores = {(row.fold, row.epoch): row.balanced_accuracy for row in trial.epochs}
    folds, epochs = range(len(plan.split.folds)), range(plan.settings.epochs)
    return np.asarray([[scores[fold, epoch] for epoch in epochs] for fold in folds])


def _read_folds(plan: StudyPlan, trial: TrialRecord) -> list[FoldResult]:
    results = []
    for fold in range(len(plan.split.folds)):
        file = fold_file(Workspace(Path(plan.workspace)), plan.study, trial.number, fold)
        result = read_fold(file)
        if result is None:
            raise InputError(f"{file} is missing or damaged: without it there is nothing to record")
        results.append(result)
    return results


def save(recording: Recording, file: Path) -> None:
    """Write a recording as one compressed file, atomically."""
    described = {
        "header": asdict(recording.header),
        "params": recording.params,
        "enqueued": recording.enqueued,
        "defaults": recording.defaults,
        "fold_sizes": recording.fold_sizes,
    }
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        described=np.frombuffer(json.dumps(described).encode(), dtype=np.uint8),
        groups_n=recording.groups_n,
        balanced_accuracy_tfe=recording.balanced_accuracy_tfe,
        losses_tn=recording.losses_tn,
        mistakes_tn=recording.mistakes_tn,
    )
    write_atomic(file, buffer.getvalue())


def load(file: Path) -> Recording:
    """Read what `save` wrote."""
    with np.load(file) as stored:
        described = json.loads(stored["described"].tobytes())
        header = described["header"]
        return Recording(
            header=Header(**header | {"backbones": tuple(header["backbones"])}),
            params=tuple(described["params"]),
            enqueued=described["enqueued"],
            defaults=tuple(described["defaults"]),
            fold_sizes=tuple(described["fold_sizes"]),
            groups_n=stored["groups_n"],
            balanced_accuracy_tfe=stored["balanced_accuracy_tfe"],
            losses_tn=stored["losses_tn"],
            mistakes_tn=stored["mistakes_tn"],
        )


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workspace", type=Path)
    parser.add_argument("study")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    try:
        recording = record(Workspace(options.workspace), options.study)
    except BenchError as error:
        sys.exit(f"record_curves.py: {error}")
    save(recording, options.out)
    print(
        f"{options.out}: {recording.trials} trials of {recording.folds} folds of "
        f"{recording.epochs} epochs, {recording.header.pictures} pictures, "
        f"{options.out.stat().st_size / 1000:.0f} kB"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
