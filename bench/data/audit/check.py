"""The whole audit of a data set, and its findings in words."""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import dataclass
from typing import Any

from bench.data.audit.duplicates import search_duplicates, ties_of_pairs
from bench.data.audit.guesses import guess_groups
from bench.data.audit.labels import check_labels
from bench.data.audit.shortcuts import find_shortcuts
from bench.data.audit.thumbnails import Features, make_thumbnails
from bench.data.groups import UNGROUPED_REMEDY, group_numbers, join
from bench.data.sources import more_classes
from bench.data.splits import DEFAULT_FOLDS, scarce_classes, scarce_remedy
from bench.records import CONFLICT_MEANING, Audit, Dataset, Pair, ungrouped_remark
from bench.steps import SILENT, Steps
from bench.words import counted

# Pictures of the largest class for one of the smallest, from which classes are out of balance.
_LEAST_RATIO = 3.0

SMALL_PICTURES = "small grey pictures"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One kind of thing found: how often, what it is, counted in words, and what to do.

    `details` holds one JSON object a pair, picture or class, the worst first.
    """

    kind: str
    count: int
    what: str
    remedy: str
    details: tuple[dict[str, Any], ...]


def audit(dataset: Dataset, features: Features | None = None, steps: Steps = SILENT) -> Audit:
    """Look for what would make scores of this data set mislead.

    Labels are judged by a linear probe on `features`, by default on small grey pictures. `steps`
    hears how far it is.

    Raises:
        DataError: a picture that could be read before can no longer be.
    """
    thumbnails = make_thumbnails(dataset, features, steps=steps)
    search = search_duplicates(dataset, thumbnails, steps)
    steps.begin("judging labels and looking for shortcuts")
    return Audit(
        pairs=search.pairs,
        thresholds=search.thresholds,
        blank=search.blank,
        group_guess=guess_groups(dataset),
        shortcuts=find_shortcuts(dataset, thumbnails),
        labels=check_labels(
            dataset,
            thumbnails.flat_nf() if thumbnails.features_nf is None else thumbnails.features_nf,
            group_numbers(join(dataset, ties_of_pairs(search.pairs))),
            features=features.name if features else SMALL_PICTURES,
        ),
    )


def findings(dataset: Dataset, found: Audit) -> tuple[Finding, ...]:
    """Put an audit into words, the gravest first; a clean data set gives none.

    Pairs within one given group are no finding: they stay together already.
    """
    told = (
        _one_class(dataset),
        _scarce(dataset, found),
        _broken(dataset),
        _ungrouped(dataset),
        _conflicts(dataset, found),
        _given_split(dataset, found),
        *_loose_pairs(dataset, found),
        _suspicious(dataset, found),
        *_shortcuts(dataset, found),
        _group_guess(found),
        _blank(dataset, found),
        _imbalance(dataset),
    )
    return tuple(finding for finding in told if finding is not None)


def worst_pairs(dataset: Dataset, found: Audit) -> tuple[Pair, ...]:
    """Return the pairs that are findings: other labels first, then by correlation.

    Identical files come last, because there is nothing to be judged in them.
    """
    pairs = [
        pair for pair in found.pairs if _is_conflict(dataset, pair) or _is_loose(dataset, pair)
    ]

    def rank(pair: Pair) -> tuple[bool, bool, float]:
        return not _is_conflict(dataset, pair), pair.kind == "identical", -pair.correlation

    return tuple(sorted(pairs, key=rank))


# --- pairs ----------------------------------------------------------------------------------


def _is_conflict(dataset: Dataset, pair: Pair) -> bool:
    return dataset.pictures[pair.first].label != dataset.pictures[pair.second].label


def _is_loose(dataset: Dataset, pair: Pair) -> bool:
    group = dataset.pictures[pair.first].group
    return group is None or group != dataset.pictures[pair.second].group


def _described(dataset: Dataset, pair: Pair) -> dict[str, Any]:
    first, second = dataset.pictures[pair.first], dataset.pictures[pair.second]
    return {
        "first": first.path,
        "second": second.path,
        "kind": pair.kind,
        "correlation": round(pair.correlation, 3),
        "shift": round(pair.shift, 3),
        "first_label": dataset.classes[first.label],
        "second_label": dataset.classes[second.label],
    }


def _of_pairs(
    dataset: Dataset, kind: str, pairs: list[Pair], what: str, remedy: str
) -> Finding | None:
    if not pairs:
        return None
    worst = sorted(pairs, key=lambda pair: -pair.correlation)
    details = tuple(_described(dataset, pair) for pair in worst)
    what = f"{counted(len(pairs), 'pair')} {what}"
    return Finding(kind=kind, count=len(pairs), what=what, remedy=remedy, details=details)


def _conflicts(dataset: Dataset, found: Audit) -> Finding | None:
    return _of_pairs(
        dataset,
        "conflicting labels",
        [pair for pair in found.pairs if _is_conflict(dataset, pair)],
        f"of pictures of the same thing with different labels: {CONFLICT_MEANING}",
        "correct the label that is wrong; where both are right, keep the thing in one class or "
        "remove both, for no classifier can tell them apart",
    )


def _given_split(dataset: Dataset, found: Audit) -> Finding | None:
    return _of_pairs(
        dataset,
        "leaks of the given split",
        [
            pair
            for pair in found.pairs
            if dataset.pictures[pair.first].given_split != dataset.pictures[pair.second].given_split
        ],
        "with one picture in test and one in train",
        "move them to one side, or leave the given split out",
    )


def _loose_pairs(dataset: Dataset, found: Audit) -> list[Finding | None]:
    meanings = {
        "identical": "of the same file",
        "copy": "of the same thing, saved twice or repeated",
        "cropped": "of a picture and a part of it",
        "shifted": "of the same recording, shifted in time",
    }
    loose = [pair for pair in found.pairs if _is_loose(dataset, pair)]
    return [
        _of_pairs(
            dataset,
            f"duplicates: {kind}",
            [pair for pair in loose if pair.kind == kind],
            what,
            "`bench search` ties them by itself; better to remove one, or to name their groups",
        )
        for kind, what in meanings.items()
    ]


# --- labels, classes, pictures --------------------------------------------------------------


def _suspicious(dataset: Dataset, found: Audit) -> Finding | None:
    check = found.labels
    if not check.suspicious:
        return None
    return Finding(
        kind="suspicious labels",
        count=len(check.suspicious),
        what=f"{counted(len(check.suspicious), 'picture')} more like another class to a linear "
        f"probe on {check.features} "
        f"(balanced accuracy {check.balanced_accuracy:.2f})",
        remedy="look at each; the probe errs as well",
        details=tuple(
            {
                "picture": dataset.pictures[suspect.picture].path,
                "label": dataset.classes[dataset.pictures[suspect.picture].label],
                "predicted": dataset.classes[suspect.predicted],
                "probability_of_label": round(suspect.given_probability, 4),
                "probability_of_predicted": round(suspect.predicted_probability, 4),
            }
            for suspect in check.suspicious
        ),
    )


def _shortcuts(dataset: Dataset, found: Audit) -> list[Finding]:
    told = []
    for facet in dict.fromkeys(shortcut.facet for shortcut in found.shortcuts):
        shortcuts = [shortcut for shortcut in found.shortcuts if shortcut.facet == facet]
        classes = counted(len(shortcuts), "class", "classes")
        told.append(
            Finding(
                kind=f"shortcut: {facet}",
                count=len(shortcuts),
                what=f"{classes} told from the others by {facet} alone",
                remedy="save all pictures in one way, or cut the frame off with --crop",
                details=tuple(
                    {
                        "class": dataset.classes[shortcut.label],
                        "recall": round(shortcut.recall, 3),
                        "false_alarms": round(shortcut.false_alarms, 3),
                    }
                    for shortcut in sorted(shortcuts, key=lambda s: s.false_alarms - s.recall)
                ),
            )
        )
    return told


def _group_guess(found: Audit) -> Finding | None:
    guess = found.group_guess
    if guess is None:
        return None
    return Finding(
        kind="groups in file names",
        count=guess.groups,
        what=f"{counted(guess.groups, 'group')} in the names of "
        f"{counted(guess.pictures, 'picture')}, such as {guess.example}",
        remedy=f"if a name is a source: --group-pattern {shlex.quote(guess.pattern)}",
        details=({"pattern": guess.pattern, "example": guess.example},),
    )


def _one_class(dataset: Dataset) -> Finding | None:
    if len(dataset.classes) > 1:
        return None
    return Finding(
        kind="one class",
        count=1,
        what=f"{dataset.classes[0]} is the only class, and a classifier needs at least two",
        remedy=more_classes(
            dataset.root, dataset.classes[0], [picture.path for picture in dataset.pictures]
        ),
        details=({"class": dataset.classes[0], "pictures": len(dataset.pictures)},),
    )


def _scarce(dataset: Dataset, found: Audit) -> Finding | None:
    """The classes that a search would refuse, which ties duplicates first."""
    scarce = scarce_classes(join(dataset, ties_of_pairs(found.pairs)))
    if not scarce:
        return None
    return Finding(
        kind="classes too small for a search",
        count=len(scarce),
        what=f"{counted(len(scarce), 'class', 'classes')} with fewer than the "
        f"{DEFAULT_FOLDS + 1} pictures (of different groups) that {DEFAULT_FOLDS} folds and a "
        "test set need, which `bench search` refuses",
        remedy=scarce_remedy(scarce, DEFAULT_FOLDS),
        details=tuple(
            {"class": each.name, "pictures": each.pictures, "groups": each.groups}
            for each in sorted(scarce, key=lambda each: each.groups)
        ),
    )


def _broken(dataset: Dataset) -> Finding | None:
    if not dataset.broken:
        return None
    return Finding(
        kind="broken pictures",
        count=len(dataset.broken),
        what=f"{counted(len(dataset.broken), 'file')} that cannot be read, left out by a search",
        remedy="mend them or take them out",
        details=tuple({"picture": each.path, "reason": each.reason} for each in dataset.broken),
    )


def _ungrouped(dataset: Dataset) -> Finding | None:
    remark = ungrouped_remark(dataset)
    if remark is None:
        return None
    alone = tuple(picture.path for picture in dataset.pictures if picture.group is None)
    return Finding(
        kind="pictures without a group",
        count=len(alone),
        what=remark,
        remedy=UNGROUPED_REMEDY,
        details=tuple({"picture": path} for path in alone),
    )


def _blank(dataset: Dataset, found: Audit) -> Finding | None:
    if not found.blank:
        return None
    return Finding(
        kind="blank pictures",
        count=len(found.blank),
        what=f"{counted(len(found.blank), 'picture')} of next to nothing",
        remedy="remove them, or mend what made them",
        details=tuple({"picture": dataset.pictures[index].path} for index in found.blank),
    )


def _imbalance(dataset: Dataset) -> Finding | None:
    counts = Counter(dict(zip(dataset.classes, dataset.counts, strict=True)))
    (largest, most), (smallest, least) = counts.most_common()[0], counts.most_common()[-1]
    if most < _LEAST_RATIO * least:
        return None
    return Finding(
        kind="imbalance",
        count=1,
        what=f"{largest} has {counted(most, 'picture')}, {smallest} {least:,}",
        remedy="judge by balanced accuracy, and add pictures of the small classes",
        details=({"class": smallest, "pictures": least}, {"class": largest, "pictures": most}),
    )
