"""The model card: written beside each file, out of the records alone."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from bench.records import BrokenPicture, ModelRecord, StudyReport
from reports.cards import card, write_cards
from reports.limits import limits
from tests.reports.conftest import MakeReport, with_protocols


def best(report: StudyReport) -> ModelRecord:
    return next(model for model in report.models if model.name == "best")


def altered(report: StudyReport, **changes: object) -> StudyReport:
    """The study with another winner."""
    models = tuple(
        replace(model, **changes) if model.name == "best" else model  # type: ignore[arg-type]
        for model in report.models
    )
    return replace(report, models=models)


def test_a_card_has_every_section_in_its_order(make_report: MakeReport) -> None:
    report = make_report()

    assert re.findall(r"^## (.*)$", card(report, best(report)), re.MULTILINE) == [
        "Intended use",
        "Limits",
        "Scores",
        "Protocol",
        "Data",
        "Exclusions",
        "Latency",
        "Precisions and parity",
        "Weights and their licence",
        "How to run",
        "How to reproduce",
    ]


def test_its_head_is_yaml_that_names_task_and_score(make_report: MakeReport) -> None:
    report = make_report(synthetic=True)
    model = best(report)

    _, head, _ = card(report, model).split("---\n", 2)

    told = yaml.safe_load(head)
    assert told["pipeline_tag"] == "image-classification"
    assert "synthetic-data" in told["tags"]
    (result,) = told["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == model.test.balanced_accuracy
    assert result["dataset"]["name"] == report.dataset.name


def test_it_tells_of_this_model_and_of_no_other(make_report: MakeReport) -> None:
    report = with_protocols(make_report(seed_accuracies=(0.7,)), 0.9)
    other = next(model for model in report.models if model.name == "default")

    own, others = card(report, best(report)), card(report, other)

    assert "| default |" not in own
    assert "| winner" not in others
    assert "best over the seeds of its training" in own
    assert "seeds of its training" not in others
    assert "bench reproduce demo 2" in own
    assert "bench reproduce demo 0" in others
    assert "the winner" in own
    assert "promoted beside the winner" in others


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"weights": "random"}, "They were random numbers, and carry no licence."),
        ({"weights_license": "apache-2.0"}, "Their licence, as timm names it: apache-2.0."),
        ({"weights_license": ""}, "Their licence is not recorded"),
        ({"parity": ()}, "No other precision was made."),
        ({}, "Latency of the network alone"),
    ],
)
def test_it_says_what_the_record_of_the_model_says(
    make_report: MakeReport, changes: dict[str, object], said: str
) -> None:
    report = altered(make_report(), **changes)

    assert said in card(report, best(report))


def test_what_was_left_out_and_what_was_not_measured_is_said(make_report: MakeReport) -> None:
    report = make_report()
    broken = (BrokenPicture(path="blues/torn.png", reason="cut short"),)
    spoilt = replace(
        report,
        dataset=replace(report.dataset, broken=broken),
        split=replace(report.split, left_out=(1, 2), protocol="gtzan-filtered"),
        latencies=(),
    )

    whole, told = card(report, best(report)), card(spoilt, best(spoilt))

    assert "No file was broken." in whole
    assert "No readable picture was left out." in whole
    assert "blues/torn.png" in told
    assert "In no part, as the protocol gtzan-filtered says: 2 pictures." in told
    assert "Not measured." in told


def test_the_worst_class_stands_first_with_what_it_is_taken_for(make_report: MakeReport) -> None:
    report = make_report()
    scores = best(report).test
    confusion = ((3, 0, 0), (0, 1, 2), (0, 1, 2))
    per_class = tuple(
        replace(row, recall=recall, support=3)
        for row, recall in zip(scores.per_class, (1.0, 1 / 3, 2 / 3), strict=True)
    )
    report = altered(report, test=replace(scores, confusion=confusion, per_class=per_class))

    lines = card(report, best(report)).splitlines()

    start = lines.index("| class | recall, % | test pictures | most often taken for (pictures) |")
    assert lines[start + 2 : start + 5] == [
        "| jazz | 33.3 | 3 | rock (2) |",
        "| rock | 66.7 | 3 | jazz (1) |",
        "| blues | 100.0 | 3 | no other |",
    ]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"synthetic": True}, "synthetic"),
        ({"weights": "random"}, "random weights"),
        ({}, "No groups were given"),
        ({}, "Fewer than 30 test pictures of blues, jazz, rock"),
        ({}, "the same source"),
    ],
)
def test_limits_are_those_that_the_records_show(
    make_report: MakeReport, changed: dict[str, object], said: str
) -> None:
    report = make_report(**changed)

    assert any(said in limit for limit in limits(report, best(report)))


def test_limits_that_do_not_hold_are_not_told(make_report: MakeReport) -> None:
    report = make_report(per_class=160, grouped=True)
    report = replace(report, split=replace(report.split, protocol="file"))

    (only,) = limits(report, best(report))

    assert only.startswith("Whatever a picture shows")


def test_pictures_without_a_group_where_others_have_one_are_a_limit(
    make_report: MakeReport,
) -> None:
    report = make_report(per_class=160, grouped=True)
    first, *rest = report.dataset.pictures
    dataset = replace(report.dataset, pictures=(replace(first, group=None), *rest))
    report = replace(report, dataset=dataset)

    assert any(
        limit.startswith("1 of 480 pictures has no") for limit in limits(report, best(report))
    )


def test_cards_lie_beside_the_files_that_are_there(make_report: MakeReport, tmp_path: Path) -> None:
    report = make_report()
    file = tmp_path / best(report).path
    file.parent.mkdir(parents=True)
    file.write_bytes(b"")

    (written,) = write_cards(report, tmp_path)

    assert written == file.with_name("model.md")
    text = written.read_text("utf-8")
    assert text == card(report, best(report), tmp_path)
    assert str(tmp_path) not in text
    assert 'bench predict "model.onnx" picture.png' in text
    assert "\n\n\n" not in text
    write_cards(altered(report, weights_license="mit"), tmp_path)
    assert "as timm names it: mit" in written.read_text("utf-8")


def test_a_card_names_its_file_as_a_relative_workspace_was_given(make_report: MakeReport) -> None:
    report = make_report()

    text = card(report, best(report), Path("runs"))

    assert 'bench predict "runs/demo/models/best/model.onnx" picture.png' in text


@pytest.mark.parametrize(
    ("changes", "license"),
    [
        ({"weights_license": "apache-2.0"}, "apache-2.0"),
        ({"weights_license": ""}, None),
        ({"weights_license": "apache-2.0", "weights": "random"}, None),
    ],
)
def test_its_head_names_the_licence_of_weights_where_it_is_known(
    make_report: MakeReport, changes: dict[str, object], license: str | None
) -> None:
    report = altered(make_report(), **changes)

    _, head, _ = card(report, best(report)).split("---\n", 2)

    assert yaml.safe_load(head).get("license") == license


def test_a_paragraph_of_a_card_is_one_line(make_report: MakeReport) -> None:
    report = make_report(synthetic=True)

    _, _, body = card(report, best(report)).split("---\n", 2)

    prose = re.sub(r"```.*?```", "", body, flags=re.DOTALL).split("\n\n")
    assert all(
        line.startswith(("|", "- ", ">"))
        for part in prose
        for line in part.strip().splitlines()[1:]
    )


def test_names_that_are_markup_do_not_break_a_card(make_report: MakeReport) -> None:
    report = make_report(names=("a|b", "*c*", "<d>"))

    text = card(report, best(report))

    assert r"a\|b" in text
    assert "<d>" not in text.split("---\n", 2)[2]


def test_a_card_says_which_parameters_it_counts(make_report: MakeReport) -> None:
    report = make_report()

    text = card(report, best(report))

    assert f"{best(report).parameters:,} trained parameters" in text
    assert "`bench inspect` counts the numbers stored in the file instead" in text
