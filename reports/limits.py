"""What the evidence of a study does not support, one sentence each, as far as records tell."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

from bench.records import Dataset, ModelRecord, Split, StudyReport
from reports.findings import RANDOM_WEIGHTS
from reports.scores import tested_score

FEW_PICTURES = 30  # test pictures of a class below which its recall is hardly known

Kept = Literal["identical files", "groups"]


def limits(report: StudyReport, model: ModelRecord) -> tuple[str, ...]:
    """What a reader of the model's scores must know before believing them of other pictures."""
    dataset, split = report.dataset, report.split
    found = []
    if dataset.synthetic:
        found.append("The pictures are synthetic: no score says anything of real pictures.")
    if model.weights == RANDOM_WEIGHTS:
        found.append("Training began from random weights: pretrained ones would score far higher.")
    if not has_groups(dataset):
        found.append(
            "No groups were given: if pictures of one source stand on both sides of the split, "
            "the scores are too high and the intervals too narrow."
        )
    found += [
        f"{count} {kept} stand on both sides of the split, so the scores are too high."
        for kept, count in straddling(dataset, split).items()
        if count
    ]
    if (lacking := tested_score(report, model).why_not) is not None:
        found.append(f"The test score has no interval: {lacking}.")
    scarce = [row.name for row in model.test.per_class if row.support < FEW_PICTURES]
    if scarce:
        found.append(
            f"Fewer than {FEW_PICTURES} test pictures of {', '.join(scarce)}: the recall of such a "
            "class is hardly known."
        )
    if split.protocol != "file":
        found.append(
            "The test pictures come from the same source as the training pictures: nothing was "
            "measured on pictures of another source, device or time."
        )
    if report.ended is not None:
        found.append(f"The search ended early: {report.ended}.")
    found.append(
        "Whatever a picture shows, the file answers with one of its classes: it was given no "
        "picture of any other kind, and does not say when it cannot know."
    )
    return tuple(found)


def has_groups(dataset: Dataset) -> bool:
    return any(picture.group is not None for picture in dataset.pictures)


def straddling(dataset: Dataset, split: Split) -> dict[Kept, int]:
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
    return {
        "identical files": sum(len(found) > 1 for found in files.values()),
        "groups": sum(len(found) > 1 for found in groups.values()),
    }
