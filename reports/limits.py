"""What the evidence of a study does not support, one sentence each, as far as records tell."""

from __future__ import annotations

from bench.records import CONFLICT_MEANING, ModelRecord, StudyReport, ungrouped_remark
from bench.words import counted
from reports.findings import RANDOM_WEIGHTS
from reports.scores import groups_given, tested_score
from reports.splits import straddling

FEW_PICTURES = 30  # test pictures of a class below which its recall is hardly known


def limits(report: StudyReport, model: ModelRecord) -> tuple[str, ...]:
    """What a reader of the model's scores must know before believing them of other pictures."""
    dataset, split = report.dataset, report.split
    found = []
    if dataset.synthetic:
        found.append("The pictures are synthetic: no score says anything of real pictures.")
    if model.weights == RANDOM_WEIGHTS:
        found.append("Training began from random weights: pretrained ones would score far higher.")
    if not groups_given(dataset):
        found.append(
            "No groups were given: if pictures of one source stand on both sides of the split, "
            "the scores are too high and the intervals too narrow."
        )
    elif (alone := ungrouped_remark(dataset)) is not None:
        found.append(f"{alone}.")
    if parted := straddling(dataset, split).in_words:
        found.append(
            f"On both sides of the split: {' and '.join(parted)}. So the scores are too high."
        )
    if dataset.conflicts:
        found.append(
            f"{counted(len(dataset.conflicts), 'pair')} of duplicates carry different labels, "
            f"in training or in the test: {CONFLICT_MEANING}."
        )
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
