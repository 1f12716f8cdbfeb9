"""Finished folds on disk: what resuming, racing and out-of-fold scores are made from.

Shapes: N validation pictures of a fold, K classes.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.records import EpochScores, from_json, to_json
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
