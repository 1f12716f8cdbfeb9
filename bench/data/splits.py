"""A locked test set and cross-validation folds: stratified, group-aware, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Literal

import numpy as np
import numpy.typing as npt

from bench.data.groups import group_numbers, is_tied
from bench.data.sources import check_classes
from bench.errors import DataError
from bench.records import Dataset, Protocol, Split
from bench.words import counted

Indices = npt.NDArray[np.int64]
# By index into `Dataset.pictures`; what is in no part is left out.
Parts = Mapping[int, Literal["train", "test"]]

# StratifiedGroupKFold is greedy: a few seeds are tried and the most even cut is kept.
_ATTEMPTS = 10
# A test fraction is met by whole pieces of this many, or of more when it is smaller than one.
_PIECES = 10


def make_split(
    dataset: Dataset,
    *,
    folds: int,
    test_fraction: float,
    seed: int,
    protocol: Protocol | None = None,
    parts: Parts | None = None,
) -> Split:
    """Set a test part aside, then cut the rest into `folds` validation parts.

    Without a protocol it is the most honest that the data allow (`default_protocol`). Pictures
    that are tied always stay together, except under `random`. `file` and
    `gtzan-filtered` take the test part from `parts`, by default from what came with the data (a
    manifest's split column or a `test` folder); pictures that `parts` does not name are left out.

    Raises:
        DataError: too few classes, pictures or groups for the split that was asked for.
    """
    if folds < 2:
        raise DataError(f"--folds must be at least 2, not {folds}")
    check_test_fraction(test_fraction)
    check_classes(dataset.root, dataset.classes)
    protocol = protocol or default_protocol(dataset)
    labels = np.asarray(dataset.labels, dtype=np.int64)
    groups = np.arange(len(labels)) if protocol == "random" else group_numbers(dataset)
    if protocol == "grouped" and len(np.unique(groups)) == len(groups):
        raise DataError(
            "--protocol grouped needs groups, and nothing ties these pictures: give --groups "
            "FILE.csv, --group-pattern REGEX or a groups.csv, or take --protocol random"
        )
    given = _given_parts(dataset, parts) if protocol in ("file", "gtzan-filtered") else None
    everything = np.arange(len(labels)) if given is None else np.asarray(sorted(given))
    # One more than the folds, because the test set needs its share as well.
    _check_sources(
        dataset,
        groups,
        everything,
        least=folds + 1,
        what=f"{folds} folds and a test set",
        remedy="add pictures, remove the class, or use fewer --folds",
    )
    if given is not None:
        in_test = np.asarray([given[index] == "test" for index in everything.tolist()])
        _check_given_groups(dataset, groups, everything[in_test], everything[~in_test])
        test = everything[in_test]
        remedy = "move pictures from test to train, or use fewer --folds"
    else:
        test = _choose_test(labels, groups, test_fraction, folds, seed)
        remedy = "use fewer --folds or a smaller --test-fraction"
    development = np.setdiff1d(everything, test)
    what = f"{folds} folds beside the test set"
    _check_sources(dataset, groups, development, least=folds, what=what, remedy=remedy)
    split = Split(
        dataset_fingerprint=dataset.fingerprint,
        seed=seed,
        test=_as_tuple(test),
        folds=tuple(map(_as_tuple, _even_folds(labels, groups, development, folds, seed))),
        protocol=protocol,
        left_out=_as_tuple(np.setdiff1d(np.arange(len(labels)), everything)),
    )
    check_split(dataset, split)
    return split


def check_test_fraction(test_fraction: float) -> None:
    """Refuse a share of the test set that leaves one side next to nothing.

    Raises:
        DataError: it is none above 0 and at most 0.5.
    """
    if not 0 < test_fraction <= 0.5:
        raise DataError(f"--test-fraction must lie above 0 and at most 0.5, not {test_fraction}")


def default_protocol(dataset: Dataset) -> Protocol:
    """`file` where a test part came with the data, `grouped` where pictures are tied, `random`."""
    if any(picture.given_split == "test" for picture in dataset.pictures):
        return "file"
    return "grouped" if is_tied(dataset) else "random"


def check_split(dataset: Dataset, split: Split) -> None:
    """Prove that a split is sound: disjoint, complete, every class in every part, groups whole.

    A split of the protocol `random` tears groups on purpose.

    Raises:
        DataError: it is not; the message names the part and the class or group.
    """
    parts = {"the test set": split.test}
    parts |= {f"fold {k + 1}": fold for k, fold in enumerate(split.folds)}
    members = sorted(index for part in (*parts.values(), split.left_out) for index in part)
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
        for index in part if split.protocol != "random" else ():
            picture = dataset.pictures[index]
            if owner.setdefault(f"file {picture.sha256}", name) != name:
                raise DataError(
                    f"{picture.path} in {name} is the same file as one in "
                    f"{owner[f'file {picture.sha256}']}"
                )
            group = f"group {picture.group}"
            if picture.group is not None and owner.setdefault(group, name) != name:
                raise DataError(
                    f"the group {picture.group!r} stands in {owner[group]} and in {name}"
                )


def _given_parts(dataset: Dataset, parts: Parts | None) -> Parts:
    """The part of each picture that has one; without a list, what is not for the test trains."""
    if parts is not None:
        return parts
    if not any(picture.given_split == "test" for picture in dataset.pictures):
        raise DataError(
            f"--protocol file needs a test part, and {dataset.root} comes with none: give --parts "
            "FILE.csv (path,part), a manifest with a split column, or folders train/ and test/"
        )
    return {i: p.given_split or "train" for i, p in enumerate(dataset.pictures)}


def _check_sources(
    dataset: Dataset, groups: Indices, among: Indices, *, least: int, what: str, remedy: str
) -> None:
    labels = np.asarray(dataset.labels, dtype=np.int64)
    total = len(dataset.classes)
    pictures = np.bincount(labels[among], minlength=total)
    sources = _count_sources(labels[among], groups[among], total)
    faults = []
    for label in np.flatnonzero(sources < least):
        has = counted(int(pictures[label]), "picture")
        if sources[label] < pictures[label]:
            has += f" of {counted(int(sources[label]), 'group')}"
        faults.append(f"{dataset.classes[label]} has {has}")
    if faults:
        raise DataError(
            f"{what} need at least {least} pictures (of different groups) of each class; "
            f"{'; '.join(faults)}: {remedy}"
        )


def _count_sources(labels: Indices, groups: Indices, total: int) -> Indices:
    """Count the groups that hold each of `total` classes; a picture without one counts itself."""
    pairs = np.unique(np.stack([labels, groups]), axis=1)
    return np.bincount(pairs[0], minlength=total)


def _check_given_groups(dataset: Dataset, groups: Indices, test: Indices, train: Indices) -> None:
    both = np.intersect1d(groups[test], groups[train])
    if len(both):
        picture = dataset.pictures[int(np.flatnonzero(np.isin(groups, both))[0])]
        if picture.group is None:
            tie = f"copies of {picture.path}"
        else:
            tie = f"pictures of the group {picture.group!r}"
        raise DataError(
            f"the given split has {tie} in test and in train: "
            "move them to one side, or take --protocol grouped (where only the audit ties them, "
            "--no-tie-duplicates lets them stand)"
        )


def _choose_test(
    labels: Indices, groups: Indices, fraction: float, folds: int, seed: int
) -> Indices:
    """Choose the part whose share of every class comes closest to `fraction`.

    A part that holds every class, and leaves enough sources of each for the folds, goes first.
    """
    everything = np.arange(len(labels))
    per_class = np.bincount(labels)
    sources = _count_sources(labels, groups, len(per_class))
    taken, pieces = _nearest_share(fraction, int(sources.min()))
    best, least = everything[:0], (len(labels), np.inf)
    for attempt in range(_ATTEMPTS):
        parts = _stratified_parts(labels, groups, everything, pieces, seed + attempt)
        for first in range(pieces):
            part = np.concatenate([parts[(first + k) % pieces] for k in range(taken)])
            rest = np.setdiff1d(everything, part)
            counts = np.bincount(labels[part], minlength=len(per_class))
            left = _count_sources(labels[rest], groups[rest], len(per_class))
            lacking = int(((counts == 0) | (left < folds)).sum())
            unevenness = float(np.abs(counts / per_class - fraction).max())
            if (lacking, unevenness) < least:
                best, least = part, (lacking, unevenness)
    return best


def _nearest_share(fraction: float, most: int) -> tuple[int, int]:
    """Return (taken, pieces): the nearest to `fraction` that at most `most` pieces allow."""
    share = Fraction(fraction).limit_denominator(min(most, max(_PIECES, round(1 / fraction))))
    return (share.numerator, share.denominator) if share else (1, most)


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
    # Takes seconds to import, which whoever asks for an impossible split need not wait for.
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    if len(np.unique(groups[among])) == len(among):
        single = StratifiedKFold(n_splits=parts, shuffle=True, random_state=seed)
        cuts = single.split(among, labels[among])
    else:
        grouped = StratifiedGroupKFold(n_splits=parts, shuffle=True, random_state=seed)
        cuts = grouped.split(among, labels[among], groups=groups[among])
    return [among[held_out] for _, held_out in cuts]


def _as_tuple(indices: Indices | Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted(int(index) for index in indices))
