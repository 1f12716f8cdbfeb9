"""Finished folds on disk: what resuming, racing and out-of-fold scores are made from.

Shapes: N validation pictures of a fold, K classes.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.records import EpochScores, Recipe, StudyPlan, fingerprint_of, from_json, to_json
from bench.training.conditions import NUMERICS
from bench.workspace import Workspace, write_atomic


@dataclass(frozen=True, slots=True)
class FoldResult:
    """A finished fold: its epochs, and out-of-fold predictions of its validation part.

    identity: that of the training which gave it (`training_identity`).
    epochs: the scores of each, in their order.
    pictures: (N,) indices into the data set.
    probabilities_nk: of the last epoch.
    micro_batches: into how many each batch had to be cut, for want of memory.
    """

    identity: str
    epochs: tuple[EpochScores, ...]
    pictures: npt.NDArray[np.int64]
    probabilities_nk: npt.NDArray[np.float32]
    micro_batches: int = 1


def fold_file(
    workspace: Workspace, study: str, trial: int, fold: int, further_protocol: str | None = None
) -> Path:
    return workspace.trial(study, trial, further_protocol) / f"fold-{fold}.npz"


def read_own_fold(file: Path, plan: StudyPlan, recipe: Recipe) -> FoldResult | None:
    """Read a finished fold; None also where it is that of another training, whoever stored it."""
    result = read_fold(file)
    same = result is not None and result.identity == training_identity(plan, recipe)
    return result if same else None


def write_fold(file: Path, result: FoldResult) -> None:
    """Store a finished fold atomically."""
    buffer = io.BytesIO()
    np.savez(
        buffer,
        identity=np.asarray(result.identity),
        epochs=np.frombuffer(to_json(result.epochs), dtype=np.uint8),
        pictures=result.pictures,
        probabilities=result.probabilities_nk,
        micro_batches=np.asarray(result.micro_batches),
    )
    write_atomic(file, buffer.getvalue())


def read_fold(file: Path) -> FoldResult | None:
    """Read a finished fold; None when there is none, or it is damaged or of another version."""
    try:
        return _read(file)
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None


def _read(file: Path) -> FoldResult:
    with np.load(file) as stored:
        return FoldResult(
            identity=str(stored["identity"]),
            epochs=from_json(stored["epochs"].tobytes(), tuple[EpochScores, ...]),
            pictures=stored["pictures"],
            probabilities_nk=stored["probabilities"],
            # Early versions did not store it.
            micro_batches=int(stored["micro_batches"]) if "micro_batches" in stored else 1,
        )


def fold_seed(seed: int, trial: int, fold: int) -> int:
    """A seed that depends on nothing but the study's seed, the trial and the fold."""
    return int(np.random.SeedSequence([seed, trial, fold]).generate_state(1)[0])


def training_identity(plan: StudyPlan, recipe: Recipe) -> str:
    """Identity of all that a training's numbers depend on besides its seed.

    A workspace can outlive its database, and a study's name can be used again.
    """
    arithmetic = plan.arithmetic[recipe.backbone]
    return fingerprint_of(
        (
            recipe,
            replace(plan.settings, pruner=""),
            plan.split.fingerprint,
            plan.weights[recipe.backbone],
            NUMERICS,
            # By name, for recorded steps give the same numbers: `graphs` is none of it.
            {
                "channels_last": arithmetic.channels_last,
                "device": arithmetic.device,
                "dtype": arithmetic.dtype,
                "reason": "",
            },
        )
    )
