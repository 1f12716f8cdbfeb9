"""How pictures were shared out between training and testing, in words."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from bench.records import Dataset, Split, StudyReport, how_split
from bench.words import counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Straddling:
    """How much of what belongs together stands in more than one part of a split."""

    files: int  # sets of identical ones
    groups: int

    @property
    def in_words(self) -> tuple[str, ...]:
        """``('1 set of identical files', '2 groups')``; empty where nothing is parted."""
        told = []
        if self.files:
            told.append(counted(self.files, "set of identical files", "sets of identical files"))
        if self.groups:
            told.append(counted(self.groups, "group"))
        return tuple(told)


def protocol_name(report: StudyReport) -> str:
    """What the split is: `grouped` is the word for groups that somebody named, and for no others.

    Where nobody did, a split of that protocol keeps nothing together but duplicates.
    """
    protocol = report.split.protocol
    if protocol == "grouped" and report.dataset.ties_are_found:
        return how_split(protocol, report.dataset)
    return protocol or "not recorded"


def groups_in_words(report: StudyReport) -> str:
    """How many groups there are, where they come from, and whether the split keeps them whole."""
    dataset = report.dataset
    names = dataset.sets if dataset.ties_are_found else [p.group for p in dataset.pictures]
    members = Counter(name for name in names if name is not None)
    if not members:
        return "none: every picture stands alone"
    pictures = counted(members.total(), "picture")
    if dataset.ties_are_found:
        text = f"none given; {pictures} tied in {counted(len(members), 'set')} of found duplicates"
    else:
        text = f"{counted(len(members), 'group')} over {pictures}"
    return f"{text}; {_kept_whole(report)}"


def _kept_whole(report: StudyReport) -> str:
    if report.split.protocol == "random":
        return "ignored by the random split"
    parted = straddling(report.dataset, report.split).groups
    return f"{parted:,} on both sides of the split" if parted else "none straddles a split"


def straddling(dataset: Dataset, split: Split) -> Straddling:
    """Count groups, and sets of identical files, that stand in more than one part of a split."""
    parts: Sequence[Sequence[int]] = (split.test, *split.folds)
    files: dict[str, set[int]] = defaultdict(set)
    groups: dict[str, set[int]] = defaultdict(set)
    for number, part in enumerate(parts):
        for index in part:
            picture = dataset.pictures[index]
            files[picture.sha256].add(number)
            if picture.group is not None:
                groups[picture.group].add(number)
    return Straddling(
        files=sum(len(found) > 1 for found in files.values()),
        groups=sum(len(found) > 1 for found in groups.values()),
    )
