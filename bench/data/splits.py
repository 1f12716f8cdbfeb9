"""A locked test set and cross-validation folds: stratified, group-aware, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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

# What a search takes where neither it nor its space says otherwise.
DEFAULT_FOLDS = 5
# Cross-validation with fewer trains on nothing.
LEAST_FOLDS = 2

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
    if folds < LEAST_FOLDS:
        raise DataError(f"--folds must be at least {LEAST_FOLDS}, not {folds}")
    check_test_fraction(test_fraction)
    check_classes(dataset.root, dataset.classes, [picture.path for picture in dataset.pictures])
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
    _check_sources(dataset, groups, everything, folds)
    if given is not None:
        in_test = np.asarray([given[index] == "test" for index in everything.tolist()])
        _check_given_groups(dataset, groups, everything[in_test], everything[~in_test])
        test = everything[in_test]
        remedies = ("move pictures from test to train",)
    else:
        test = _choose_test(labels, groups, test_fraction, folds, seed)
        remedies = ("take a smaller --test-fraction",)
    development = np.setdiff1d(everything, test)
    _check_development(dataset, groups, development, folds, remedies)
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


@dataclass(frozen=True, slots=True)
class ScarceClass:
    """A class of too few pictures, or of pictures of too few groups, for a split."""

    name: str
    pictures: int
    groups: int  # a picture that nothing ties is one by itself

    @property
    def holdings(self) -> str:
        """What it has, such as `27 pictures of 3 groups`."""
        has = counted(self.pictures, "picture")
        return has + (f" of {counted(self.groups, 'group')}" * (self.groups < self.pictures))


def scarce_classes(dataset: Dataset, folds: int = DEFAULT_FOLDS) -> tuple[ScarceClass, ...]:
    """The classes of which `folds` folds and a test set cannot have a group each."""
    return _scarce(dataset, group_numbers(dataset), np.arange(len(dataset.pictures)), folds + 1)


def scarce_remedy(scarce: Sequence[ScarceClass], folds: int) -> str:
    """What helps where `scarce` are too small for `folds` folds and a test set."""
    return _listed("add pictures", "remove the class", *_fewer_folds(scarce, folds, beside=1))


def refuse_scarce_classes(
    dataset: Dataset, protocols: Sequence[Protocol] = (), *, folds: int
) -> None:
    """Refuse what no split can be made of, whatever else is found to tie pictures.

    Raises:
        DataError: a class has too few pictures or groups.
    """
    everything = np.arange(len(dataset.pictures))
    groups = everything if set(protocols) == {"random"} else group_numbers(dataset)
    _check_sources(dataset, groups, everything, folds)


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
            remedies = ["add pictures of more groups (recordings, sources) of that class"]
            if name == "the test set" and split.protocol in ("file", "gtzan-filtered"):
                remedies = ["move pictures of that class from train to test"]
            elif len(split.folds) > LEAST_FOLDS:
                remedies.append("use fewer --folds")
            raise DataError(
                f"{name} would hold no picture of {', '.join(missing)}: {_listed(*remedies)}"
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


def _check_sources(dataset: Dataset, groups: Indices, among: Indices, folds: int) -> None:
    # One more than the folds, because the test set needs its share as well.
    scarce = _scarce(dataset, groups, among, folds + 1)
    _refuse(scarce, f"{folds} folds and a test set", folds + 1, scarce_remedy(scarce, folds))


def _check_development(
    dataset: Dataset, groups: Indices, among: Indices, folds: int, remedies: Sequence[str]
) -> None:
    scarce = _scarce(dataset, groups, among, folds)
    remedy = _listed(*remedies, *_fewer_folds(scarce, folds, beside=0))
    _refuse(scarce, f"{folds} folds beside the test set", folds, remedy)


def _scarce(
    dataset: Dataset, groups: Indices, among: Indices, least: int
) -> tuple[ScarceClass, ...]:
    labels = np.asarray(dataset.labels, dtype=np.int64)
    total = len(dataset.classes)
    pictures = np.bincount(labels[among], minlength=total)
    sources = _count_sources(labels[among], groups[among], total)
    return tuple(
        ScarceClass(dataset.classes[label], int(pictures[label]), int(sources[label]))
        for label in np.flatnonzero(sources < least)
    )


def _refuse(scarce: Sequence[ScarceClass], what: str, least: int, remedy: str) -> None:
    if scarce:
        has = "; ".join(f"{each.name} has {each.holdings}" for each in scarce)
        raise DataError(
            f"{what} need at least {least} pictures (of different groups) of each class; "
            f"{has}: {remedy}"
        )


def _fewer_folds(scarce: Sequence[ScarceClass], folds: int, *, beside: int) -> tuple[str, ...]:
    """The remedy of fewer folds, where it is one: `beside` groups of each class go elsewhere."""
    most = min((each.groups for each in scarce), default=folds) - beside
    return (f"use fewer --folds ({most} at most)",) if LEAST_FOLDS <= most < folds else ()


def _listed(*remedies: str) -> str:
    """Return `a`, `a or b`, `a, b or c`."""
    *first, last = remedies
    return f"{', '.join(first)} or {last}" if first else last


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
