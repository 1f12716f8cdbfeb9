"""Whether picture files are still those that a study was begun with."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from bench.errors import DataError
from bench.records import Dataset
from bench.words import some


def refuse_changed_pictures(dataset: Dataset, indices: Sequence[int]) -> None:
    """Compare the bytes of some pictures with what was recorded of them.

    Raises:
        DataError: some are gone or have changed; the message names them.
    """
    changed = []
    for index in indices:
        file = dataset.picture_path(index)
        fault = fault_of(file, dataset.pictures[index].sha256)
        if fault is not None:
            changed.append(f"{file} {fault}")
    if changed:
        raise DataError(
            f"{len(changed)} of {len(indices)} pictures are not those that the search began with: "
            f"{some(changed)}: put the old pictures back"
        )


def fault_of(file: Path, sha256: str) -> str | None:
    """Say what is other about a file than was recorded of it, if anything is."""
    try:
        found = hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None if found == sha256 else "has changed since the search began"
