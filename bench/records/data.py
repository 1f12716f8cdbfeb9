"""Records of pictures: data sets, splits, and what the audit finds."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.records.codec import fingerprint_of
from bench.records.names import GTZAN_GENRES, Box, PairKind, Protocol, ShortcutFacet, SourceKind
from bench.words import counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One readable picture; `path` is relative to the data set's root, with forward slashes."""

    path: str
    label: int
    sha256: str
    width: int
    height: int
    mode: str
    group: str | None = None
    given_split: Literal["train", "test"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenPicture:
    """A file that looked like a picture and could not be decoded; left out of everything."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TiedBy:
    """How many pictures one rule ties to another picture, and how many sets they make.

    `found` says that they are tied because they show the same thing, not because a group was given.
    """

    rule: str
    pictures: int
    groups: int
    found: bool = False

    def __str__(self) -> str:
        pictures, groups = counted(self.pictures, "picture"), counted(self.groups, "group")
        return f"{self.rule}: {pictures} tied in {groups}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Pictures by class, as found on disk. `crop` is (left, top, right, bottom) in pixels."""

    name: str
    root: str
    kind: SourceKind
    classes: tuple[str, ...]
    pictures: tuple[Picture, ...]
    broken: tuple[BrokenPicture, ...] = ()
    crop: Box | None = None
    synthetic: bool = False
    tied: tuple[TiedBy, ...] = ()  # by rule, before what they tie was joined into groups
    # Duplicates that carry different labels, as indices of pictures, the lower first.
    conflicts: tuple[tuple[int, int], ...] = ()

    @property
    def fingerprint(self) -> str:
        """Identity of the content: classes, labels, groups, bytes and crop, not the place."""
        return fingerprint_of(
            (
                self.classes,
                [(p.path, p.label, p.group, p.given_split, p.sha256) for p in self.pictures],
                self.crop,
            )
        )

    @property
    def labels(self) -> tuple[int, ...]:
        return tuple(picture.label for picture in self.pictures)

    @property
    def counts(self) -> tuple[int, ...]:
        """Pictures of each class, in the order of `classes`."""
        labels = self.labels
        return tuple(labels.count(index) for index in range(len(self.classes)))

    @property
    def is_gtzan(self) -> bool:
        """Whether the classes are exactly GTZAN's ten genres."""
        return self.classes == GTZAN_GENRES

    @property
    def sets(self) -> tuple[str | None, ...]:
        """Name of the set that each picture stays with; None for one that is alone.

        A set is named after its group; copies that nothing else ties, after the first of them.
        """
        copies: dict[str, list[str]] = {}
        for picture in self.pictures:
            copies.setdefault(picture.sha256, []).append(picture.path)
        return tuple(
            picture.group or (paths[0] if len(paths := copies[picture.sha256]) > 1 else None)
            for picture in self.pictures
        )

    @property
    def ties_are_found(self) -> bool:
        """Whether pictures are tied, and only because they show the same thing."""
        return bool(self.tied) and all(tied.found for tied in self.tied)

    def picture_path(self, index: int) -> Path:
        return Path(self.root) / self.pictures[index].path


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two pictures that show the same thing, as indices into `Dataset.pictures`.

    kind: "identical" files; a "copy" of the whole picture, saved anew; one "cropped" out of the
        other; or "shifted", the same recording later on.
    correlation: of the detail of both, aligned, where they overlap.
    shift: how much later the content of `first` stands in `second`, as a share of the width.
    """

    first: int
    second: int
    kind: PairKind
    correlation: float
    shift: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupGuess:
    """Groups that file names suggest: `pattern` finds a group's name in a picture's path."""

    pattern: str
    groups: int
    pictures: int
    example: str  # a group's name


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortcut:
    """A class that can be told from the others without looking at what a picture shows.

    `recall` and `false_alarms` are shares of the class and of all others that a small tree,
    which saw nothing but `facet`, called by the class's name.
    """

    label: int
    facet: ShortcutFacet
    recall: float
    false_alarms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SuspiciousLabel:
    """A picture whose out-of-fold prediction speaks against its label, with both probabilities."""

    picture: int
    predicted: int
    given_probability: float
    predicted_probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelCheck:
    """What a linear probe on `features` says of the labels.

    `suspicious` is empty where the probe knows too little to accuse anybody: `note` says so.
    """

    features: str
    balanced_accuracy: float
    suspicious: tuple[SuspiciousLabel, ...]
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What was found in a data set; `thresholds` are the scores asked of pairs, by class."""

    pairs: tuple[Pair, ...]
    thresholds: tuple[float, ...]
    blank: tuple[int, ...]
    group_guess: GroupGuess | None
    shortcuts: tuple[Shortcut, ...]
    labels: LabelCheck


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A locked test set, and the validation part of each cross-validation fold.

    All numbers are indices into `Dataset.pictures`. The training part of fold `k` is every
    picture that is neither in `test`, `left_out` nor in `folds[k]`.
    """

    dataset_fingerprint: str
    seed: int
    test: tuple[int, ...]
    folds: tuple[tuple[int, ...], ...]
    protocol: Protocol | None = None  # None: stored before protocols had names
    left_out: tuple[int, ...] = ()  # pictures that a published protocol does not use

    @property
    def fingerprint(self) -> str:
        return fingerprint_of((self.dataset_fingerprint, self.test, self.folds))

    @property
    def development(self) -> tuple[int, ...]:
        """Every picture of the folds, in ascending order."""
        return tuple(sorted(index for fold in self.folds for index in fold))

    def training_part(self, fold: int) -> tuple[int, ...]:
        return tuple(sorted(i for k, part in enumerate(self.folds) if k != fold for i in part))


# What the different labels of one pair of duplicates mean: a thing may have several classes.
CONFLICT_MEANING = "one label of each is wrong, or what it shows belongs to both classes"


def describe_conflicts(dataset: Dataset, what: str) -> str:
    """How many pairs of duplicates carry different labels (`what` names these), with one of them.

    The data set has such pairs.
    """
    first, second = (dataset.pictures[index] for index in dataset.conflicts[0])
    pairs = counted(
        len(dataset.conflicts), "pair of duplicates carries", "pairs of duplicates carry"
    )
    return (
        f"{pairs} {what}, such as {first.path} ({dataset.classes[first.label]}) and "
        f"{second.path} ({dataset.classes[second.label]})"
    )


def ungrouped_remark(dataset: Dataset) -> str | None:
    """What a person should know of pictures without a group where others have one, or None."""
    alone = sum(picture.group is None for picture in dataset.pictures)
    if alone in (0, len(dataset.pictures)):
        return None
    return (
        f"{alone:,} of {len(dataset.pictures):,} pictures {'has' if alone == 1 else 'have'} no "
        "group: each counts as a source of its own, so pieces of one recording or source among "
        "them may stand on both sides of a split, which inflates scores"
    )


def how_split(protocol: Protocol, dataset: Dataset) -> str:
    """What a protocol does with the pictures of a data set, in words, for people."""
    if protocol == "grouped" and dataset.ties_are_found:
        sizes = Counter(name for name in dataset.sets if name is not None).values()
        duplicates = sum(size for size in sizes if size > 1)
        return f"by class, with {counted(duplicates, 'found duplicate')} kept together"
    words: dict[Protocol, str] = {
        "grouped": "no group stands on both sides of a split",
        "gtzan-filtered": "the fault-filtered parts share no artist and no replica",
        "file": "the test part that came with the data is kept",
        "random": "every picture is drawn by itself",
    }
    return words[protocol]
