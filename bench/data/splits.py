"""A locked test set and cross-validation folds: stratified, group-aware, checked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from bench.errors import DataError
from bench.records import Dataset, Split

Indices = npt.NDArray[np.int64]

# StratifiedGroupKFold is greedy: a few seeds are tried and the most even cut is kept.
_ATTEMPTS = 10


def make_split(dataset: Dataset, *, folds: int, test_fraction: float, seed: int) -> Split:
    """Set a test part aside, then cut the rest into `folds` validation parts.

    Pictures of one group always stay together; pictures without a group stand alone. A split
    that came with the data (`test` in a manifest's split column or a `test` folder) is kept.

    Raises:
        DataError: too few classes, pictures or groups for the split that was asked for.
    """
    if folds < 2:
        raise DataError(f"--folds must be at least 2, not {folds}")
    if not 0 < test_fraction <= 0.5:
        raise DataError(f"--test-fraction must lie above 0 and at most 0.5, not {test_fraction}")
    labels = np.asarray(dataset.labels, dtype=np.int64)
    groups = _group_numbers(dataset)
    _check_counts(dataset, groups, folds)
    given = np.asarray([p.given_split == "test" for p in dataset.pictures])
    everything = np.arange(len(labels))
    if given.any():
        _check_given_groups(dataset, groups, given)
        test = everything[given]
    else:
        test = _most_even_part(labels, groups, everything, test_fraction, seed)
    development = np.setdiff1d(everything, test)
    parts = _even_folds(labels, groups, development, folds, seed)
    split = Split(
        dataset_fingerprint=dataset.fingerprint,
        seed=seed,
        test=_as_tuple(test),
        folds=tuple(_as_tuple(part) for part in parts),
    )
    check_split(dataset, split)
    return split


def check_split(dataset: Dataset, split: Split) -> None:
    """Prove that a split is sound: disjoint, complete, every class in every part, groups whole.

    Raises:
        DataError: it is not; the message names the part and the class or group.
    """
    parts = {"the test set": split.test}
    parts |= {f"fold {k + 1}": fold for k, fold in enumerate(split.folds)}
    members = sorted(index for part in parts.values() for index in part)
    if members != list(range(len(dataset.pictures))):
        raise DataError("a split must hold every picture exactly once; this one does not")
    owner: dict[str, str] = {}
    for name, part in parts.items():
        present = {dataset.pictures[index].label for index in part}
        missing = [c for label, c in enumerate(dataset.classes) if label not in present]
        if missing:
            raise DataError(
                f"{name} would hold no picture of {', '.join(missing)}: use fewer --folds, or "
                "add pictures of more groups (recordings, sources) of that class"
            )
        for index in part:
            group = dataset.pictures[index].group
            if group is not None and owner.setdefault(group, name) != name:
                raise DataError(f"the group {group!r} stands in {owner[group]} and in {name}")


def _group_numbers(dataset: Dataset) -> Indices:
    numbers: dict[str, int] = {}
    return np.asarray(
        [
            numbers.setdefault(f"single {i}" if p.group is None else f"group {p.group}", i)
            for i, p in enumerate(dataset.pictures)
        ],
        dtype=np.int64,
    )


def _check_counts(dataset: Dataset, groups: Indices, folds: int) -> None:
    if len(dataset.classes) < 2:
        raise DataError(
            f"{dataset.root}: a classifier needs at least two classes, this data set has "
            f"{len(dataset.classes)} ({', '.join(dataset.classes)}): add a subfolder a class"
        )
    labels = np.asarray(dataset.labels)
    faults = []
    for label, name in enumerate(dataset.classes):
        pictures = int((labels == label).sum())
        sources = len(np.unique(groups[labels == label]))
        # One more than the folds, because the test set needs its share as well.
        if sources < folds + 1:
            of_groups = f" of {sources} groups" if sources < pictures else ""
            faults.append(f"{name} has {pictures} pictures{of_groups}")
    if faults:
        raise DataError(
            f"{folds} folds and a test set need at least {folds + 1} pictures (of different "
            f"groups) of each class; {'; '.join(faults)}: add pictures, remove the class, or "
            "use fewer --folds"
        )


def _check_given_groups(dataset: Dataset, groups: Indices, given: npt.NDArray[np.bool_]) -> None:
    both = set(groups[given].tolist()) & set(groups[~given].tolist())
    if both:
        picture = dataset.pictures[min(both)]
        raise DataError(
            f"the given split has pictures of the group {picture.group!r} in test and in train: "
            "move them to one side, or leave the split column out"
        )


def _most_even_part(
    labels: Indices, groups: Indices, among: Indices, fraction: float, seed: int
) -> Indices:
    """Choose the part whose share of every class comes closest to `fraction`."""
    per_class = np.bincount(labels[among])
    best, least = among[:0], np.inf
    for attempt in range(_ATTEMPTS):
        for part in _stratified_parts(labels, groups, among, round(1 / fraction), seed + attempt):
            counts = np.bincount(labels[part], minlength=len(per_class))
            unevenness = float(np.abs(counts / per_class - fraction).max())
            if unevenness < least:
                best, least = part, unevenness
    return best


def _even_folds(
    labels: Indices, groups: Indices, among: Indices, folds: int, seed: int
) -> list[Indices]:
    """Choose the cut whose folds share out every class most evenly."""
    per_class = np.bincount(labels[among])
    best: list[Indices] = []
    least = np.inf
    for attempt in range(_ATTEMPTS):
        parts = _stratified_parts(labels, groups, among, folds, seed + attempt)
        counts = np.stack([np.bincount(labels[p], minlength=len(per_class)) for p in parts])
        unevenness = float(np.abs(counts / per_class - 1 / folds).max())
        if unevenness < least:
            best, least = parts, unevenness
    return best


def _stratified_parts(
    labels: Indices, groups: Indices, among: Indices, parts: int, seed: int
) -> list[Indices]:
    single = len(np.unique(groups[among])) == len(among)
    kind = StratifiedKFold if single else StratifiedGroupKFold
    splitter = kind(n_splits=parts, shuffle=True, random_state=seed)
    return [
        among[held_out]
        for _, held_out in splitter.split(among, labels[among], groups=groups[among])
    ]


def _as_tuple(indices: Indices | Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted(int(index) for index in indices))
