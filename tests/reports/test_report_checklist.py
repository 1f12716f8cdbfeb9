"""The checklist: 32 items, each answered by the records, and otherwise when they are others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from bench.records import BrokenPicture, StudyReport
from reports.checklist import ITEMS, Answer, checklist
from tests.reports.conftest import MakeReport

Change = Callable[[StudyReport], StudyReport]


def answer(report: StudyReport, number: str) -> Answer:
    (item,) = (item for item in ITEMS if item.number == number)
    return item.rule(report)


def data(**changes: Any) -> Change:
    return lambda report: replace(report, dataset=replace(report.dataset, **changes))


def split(**changes: Any) -> Change:
    return lambda report: replace(report, split=replace(report.split, **changes))


def unversioned(report: StudyReport) -> StudyReport:
    return replace(report, environment=replace(report.environment, versions={}))


def versioned(report: StudyReport) -> StudyReport:
    versions = {"bench": "0.1.0", "torch": "2.0"}
    return replace(report, environment=replace(report.environment, versions=versions))


def unpromoted(report: StudyReport) -> StudyReport:
    return replace(report, models=())


def without_default(report: StudyReport) -> StudyReport:
    return replace(report, models=tuple(m for m in report.models if m.role != "default"))


def one_trial(report: StudyReport) -> StudyReport:
    return replace(report, trials=report.trials[:1])


def with_copy_across_the_split(report: StudyReport) -> StudyReport:
    pictures = list(report.dataset.pictures)
    tested, trained = report.split.test[0], report.split.folds[0][0]
    pictures[trained] = replace(pictures[trained], sha256=pictures[tested].sha256)
    return data(pictures=tuple(pictures))(report)


def with_group_across_the_split(report: StudyReport) -> StudyReport:
    pictures = list(report.dataset.pictures)
    for index in (report.split.test[0], report.split.folds[0][0]):
        pictures[index] = replace(pictures[index], group="one recording")
    return data(pictures=tuple(pictures))(report)


def with_a_group_for_one(report: StudyReport) -> StudyReport:
    first, *others = report.dataset.pictures
    return data(pictures=(replace(first, group="alone"), *others))(report)


def each_in_a_group_of_its_own(report: StudyReport) -> StudyReport:
    pictures = tuple(replace(p, group=p.path) for p in report.dataset.pictures)
    return data(pictures=pictures)(report)


def with_a_class_untested(report: StudyReport) -> StudyReport:
    labels = report.dataset.labels
    return split(test=tuple(i for i in report.split.test if labels[i] != 1))(report)


def with_a_fold_in_the_test_set(report: StudyReport) -> StudyReport:
    return split(test=(*report.split.test, report.split.folds[0][0]))(report)


def two_test_pictures(report: StudyReport) -> StudyReport:
    """Too few to resample: no interval can be given."""
    models = []
    for model in report.models:
        given = model.predictions
        few = replace(
            given,
            indices=given.indices[:2],
            labels=given.labels[:2],
            probabilities=given.probabilities[:2],
        )
        models.append(replace(model, predictions=few))
    return replace(report, models=tuple(models))


def answering_alike(report: StudyReport) -> StudyReport:
    """The default recipe's model is right and wrong where the winner is."""
    (answers, *_) = (model.predictions for model in report.models)
    models = tuple(replace(model, predictions=answers) for model in report.models)
    return replace(report, models=models)


def unchanged(report: StudyReport) -> StudyReport:
    return report


@pytest.mark.parametrize(
    ("number", "change", "status", "evidence"),
    [
        ("1a", unchanged, "for the author", "not what it stands for"),
        ("1a", data(synthetic=True), "done", "synthetic"),
        ("2a", unchanged, "for the author", "where others can get it is not recorded"),
        ("2a", data(synthetic=True), "done", "bench data demo"),
        ("2b", unversioned, "not done", "was not recorded"),
        ("2b", versioned, "done", "bench 0.1.0"),
        ("2c", versioned, "done", "Test CPU, 2 cores"),
        ("2c", unversioned, "not done", "was not recorded"),
        ("2d", unchanged, "done", "demo/models/best/model.onnx"),
        ("2d", unpromoted, "not done", "still locked"),
        ("2e", unchanged, "done", "`bench reproduce demo 2`"),
        ("2e", unpromoted, "not done", "no promoted trial"),
        ("3a", unchanged, "for the author", "is not recorded"),
        ("3a", data(synthetic=True), "done", "generator"),
        ("3d", unchanged, "done", "blues 12, jazz 12, rock 12"),
        ("3d", data(classes=("blues",)), "not done", "one class alone"),
        ("3e", unchanged, "done", "36 pictures without groups, 9 of them in the test set"),
        ("3e", each_in_a_group_of_its_own, "done", "36 pictures in 36 groups"),
        ("3e", with_a_class_untested, "not done", "no picture of jazz"),
        ("3f", unchanged, "done", "0 files could not be decoded"),
        ("3f", with_a_group_for_one, "not done", "others have one: 35"),
        ("3g", unchanged, "for the author", "is not recorded"),
        ("3g", data(synthetic=True), "not done", "generator"),
        ("4a", unchanged, "done", "0 broken files"),
        ("4a", split(left_out=(1, 2), protocol="gtzan-filtered"), "done", "2 pictures"),
        ("4a", split(left_out=(1, 2), protocol="random"), "not done", "gives no reason"),
        ("4b", data(broken=(BrokenPicture(path="a", reason="cut"),)), "done", "left out"),
        ("4b", data(broken=(BrokenPicture(path="a", reason=""),)), "not done", "without a reason"),
        ("4c", unchanged, "done", "squash to 224 pixels"),
        ("4c", unpromoted, "not done", "no model has been promoted"),
        ("5a", unchanged, "done", "23,500,000 parameters"),
        ("5a", unchanged, "done", "cross-entropy with label smoothing 0.125"),
        ("5a", unpromoted, "not done", "no model has been promoted"),
        ("5b", unchanged, "done", "legacy_xception, resnet50"),
        ("5b", one_trial, "for the author", "no other backbone was tried beside resnet50"),
        ("5c", unchanged, "done", "3 folds of cross-validation"),
        ("5c", unpromoted, "not done", "still locked"),
        ("5d", unchanged, "done", "best by cross-validation alone"),
        ("5d", unpromoted, "not done", "no model was chosen"),
        ("5e", unchanged, "done", "tpe, 12 trials over backbone"),
        ("5e", one_trial, "not done", "nothing was tuned"),
        ("5f", unchanged, "done", "the default recipe"),
        ("5f", without_default, "not done", "no default recipe"),
        ("6a", unchanged, "done", "no test picture is in a fold"),
        ("6a", with_a_fold_in_the_test_set, "not done", "in a fold: 1 picture"),
        ("6b", unchanged, "for the author", "was not told"),
        ("6b", each_in_a_group_of_its_own, "done", "no group and no identical files"),
        ("6b", with_copy_across_the_split, "not done", "1 set of identical files"),
        ("6b", with_group_across_the_split, "not done", "split: 1 group"),
        ("7a", unchanged, "done", "balanced accuracy"),
        ("7a", unpromoted, "not done", "still locked"),
        ("7b", unpromoted, "not done", "still locked"),
        ("7b", two_test_pictures, "not done", "has no interval"),
        ("7c", without_default, "not done", "no two models"),
        ("7c", answering_alike, "done", "+0.0 points"),
        ("7c", two_test_pictures, "not done", "cannot be compared: "),
        ("8a", unchanged, "not done", "another source"),
        ("8a", split(protocol="file"), "for the author", "the test part was given"),
        ("8b", unchanged, "for the author", "limits that the records show"),
        ("8b", unpromoted, "for the author", "nothing yet to limit"),
    ],
)  # fmt: skip
def test_an_answer_is_what_the_records_say(
    make_report: MakeReport, number: str, change: Change, status: str, evidence: str
) -> None:
    given = answer(change(make_report()), number)

    assert given.status == status, given.evidence
    assert evidence in given.evidence


def test_intervals_and_tests_are_done_where_there_are_enough_pictures(
    make_report: MakeReport,
) -> None:
    report = make_report(per_class=80)

    assert answer(report, "7b").status == "done"
    assert answer(report, "7c").status == "done"
    assert "against the default recipe" in answer(report, "7c").evidence


def test_every_item_can_be_answered_otherwise_but_those_that_no_record_can_tell_of(
    make_report: MakeReport,
) -> None:
    here, there = make_report(), make_report(trials=0, promoted=False, synthetic=True, grouped=True)
    only_the_author = [
        item.number
        for item in ITEMS
        if item.rule(here) == item.rule(there) and item.rule(here).status == "for the author"
    ]

    assert only_the_author == ["1b", "1c", "3b", "3c", "6c"]


def test_the_32_items_stand_in_their_order_and_are_counted_by_status(
    make_report: MakeReport,
) -> None:
    table = checklist(make_report())

    numbers = [row[0] for row in table.rows]
    assert len(numbers) == 32
    assert numbers == sorted(numbers)
    assert len({row[1] for row in table.rows}) == 8
    for status in ("done", "not done", "for the author"):
        assert f"{sum(row[3] == status for row in table.rows)} {status}" in table.caption
