"""The written report: complete at every stage of a study, and the same for the same record."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bench.errors import InputError
from bench.records import GTZAN_GENRES, StudyReport, from_json
from reports import figures
from reports.markdown import ReportPaths, write_report
from reports.summary import answers, headlines
from tests.records import latency_row, process_sample, variant_record
from tests.reports.conftest import conflicting, with_temperature

MakeReport = Callable[..., StudyReport]


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands in for the drawing, which takes nearly all the time, where only words matter."""
    for name in ("confusion", "curves", "gallery", "history", "parameters", "reliability"):
        monkeypatch.setattr(figures, name, lambda *arguments: b"a picture")


def linked_figures(paths: ReportPaths) -> set[Path]:
    text = paths.markdown.read_text("utf-8")
    return {paths.markdown.parent / link for link in re.findall(r"\]\((figures/[^)]+)\)", text)}


def test_a_promoted_study_gets_every_section_and_links_every_figure(
    make_report: MakeReport, tmp_path: Path
) -> None:
    report = make_report(pictures_on_disk=True)
    paths = write_report([report], tmp_path / "report")
    text = paths.markdown.read_text("utf-8")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == [
        "Comparison",
        "The winner: best",
        "Confusions",
        "Examples",
        "Calibration",
        "Latency",
        "Parity",
        "Using the model",
        "Trials",
        "Data",
        "Machine and settings",
        "Checklist (after REFORMS)",
    ]
    assert {path.name for path in paths.figures} == {
        "confusion-1-best.png",
        "confusion-2-default.png",
        "curves.png",
        "history.png",
        "mistakes.png",
        "parameters.png",
        "reliability-1-best.png",
        "reliability-2-default.png",
        "right.png",
    }
    assert linked_figures(paths) == set(paths.figures)
    assert all(path.is_file() for path in paths.figures)
    assert from_json(paths.json.read_bytes(), StudyReport) == report


@pytest.mark.usefixtures("undrawn")
def test_the_first_lines_say_what_won_and_by_how_much(
    make_report: MakeReport, tmp_path: Path
) -> None:
    report = make_report(
        per_class=80,
        grouped=True,
        winner_accuracy=0.9,
        default_accuracy=0.2,
        seed_accuracies=(0.8,),
    )
    text = write_report([report], tmp_path).markdown.read_text("utf-8")
    head = text.split("##")[0].replace("\\", "")
    told, seeds, intervals, data = head.strip().split("\n\n")[1:]
    lines = [re.fullmatch(r"- \*\*(.+?):\*\* (.+)", line) for line in told.split("\n")]
    answers = {line[1]: line[2] for line in lines if line is not None}
    assert answers["Model"].startswith(
        "best (tf_efficientnet_lite0, trial 2), chosen by cross-validation alone"
    )
    assert answers["How good"].startswith(
        "balanced accuracy 90.0 % on the locked test set of 60 pictures in 30 groups"
    )
    assert "guessing gives 33.3 %" in answers["How good"]
    assert re.match(r"the 95 % interval of that score is [\d.]+ to [\d.]+ %", answers["How sure"])
    assert (
        "In cross-validation over 3 folds it scored 81.0 % (95 % interval: 72.8 to 89.2 %): "
        "-9.0 points (95 % interval: "
    ) in answers["How sure"]
    assert "luck" not in answers["How sure"]
    gain = answers["What tuning gained"]
    assert gain.startswith("Tuning beat the default recipe beyond chance")
    assert "90.0 against 20.0 %, +70.0 points (95 % interval: " in gain
    assert answers["How fast"] == (
        "10.1 ms for one picture (median, the network alone, fp32) on Test CPU with 2 threads."
    )
    assert answers["File"] == "demo/models/best/model.onnx (94.0 MB)."
    assert "Trained with 2 seeds it scored 90.0, 80.0 %" in seeds
    assert "resamples whole groups" in intervals
    assert "has 240 pictures in 3 classes" in data
    assert "synthetic" not in text
    assert "best over the seeds of its training" in text


@pytest.mark.usefixtures("undrawn")
def test_why_there_is_no_interval_is_said_once_in_the_first_lines(
    make_report: MakeReport, tmp_path: Path
) -> None:
    report = make_report(per_class=8, winner_accuracy=0.3, default_accuracy=0.2)
    head = write_report([report], tmp_path).markdown.read_text("utf-8").split("##")[0]
    assert head.count("only 2 pictures of a class were tested, 3 are needed") == 1
    assert head.count("(no interval either)") == 2
    assert "The best of 12 trials owes part of that to luck; its test score does not." in head


@pytest.mark.usefixtures("undrawn")
def test_what_is_the_same_in_all_rows_of_a_wide_table_is_told_once(
    make_report: MakeReport, tmp_path: Path
) -> None:
    text = write_report([make_report()], tmp_path).markdown.read_text("utf-8")
    latency = text.split("## Latency")[1].split("\n## ")[0]
    assert latency.count("CPUExecutionProvider") == 2  # in two tables of four rows each
    assert "In all rows: device = cpu: Test CPU; provider proved = CPUExecutionProvider;" in latency


@pytest.mark.usefixtures("undrawn")
def test_the_first_lines_tell_of_smaller_files_and_of_the_whole_way(
    make_report: MakeReport, tmp_path: Path
) -> None:
    report = make_report()
    default, best = report.models
    variant = variant_record(size_bytes=24_000_000, test=best.test)
    int8 = process_sample(5_000_000)
    best = replace(best, variants=(variant,))
    rows = (
        latency_row(architecture_key=best.architecture_key, model=best.name, scope="end-to-end"),
        latency_row(int8, architecture_key=best.variant_key(variant), precision="int8"),
    )
    report = replace(report, models=(default, best), latencies=(*report.latencies, *rows))
    head = write_report([report], tmp_path).markdown.read_text("utf-8").split("##")[0]
    assert "; 5.00 ms in int8; 1.00 ms from picture file to label." in head
    assert "; in int8: pets/models/best/model.int8.onnx (24.0 MB, " in head
    assert "no file should be chosen by its test score." in head
    unmeasured = write_report([replace(report, latencies=())], tmp_path).markdown
    assert "- **How fast:** not measured." in unmeasured.read_text("utf-8")


@pytest.mark.parametrize(("int8_ns", "said"), [(5_000_000, False), (20_000_000, True)])
def test_a_smaller_file_that_is_no_faster_is_said_to_be_none(
    make_report: MakeReport, int8_ns: int, said: bool
) -> None:
    report = make_report()
    default, best = report.models
    variant = variant_record(size_bytes=24_000_000, test=best.test)
    fp32 = latency_row(
        process_sample(10_000_000), architecture_key=best.architecture_key, model=best.name
    )
    int8 = latency_row(
        process_sample(int8_ns), architecture_key=best.variant_key(variant), precision="int8"
    )
    report = replace(
        report, models=(default, replace(best, variants=(variant,))), latencies=(fp32, int8)
    )
    fast = next(line.answer for line in answers(report) if line.question == "How fast")
    assert ("in int8 (no faster here: use the main file)" in fast) is said


@pytest.mark.usefixtures("undrawn")
def test_files_are_named_as_one_types_them_where_bench_was_run(
    make_report: MakeReport, tmp_path: Path
) -> None:
    report = make_report()
    paths = write_report([report], tmp_path, root=Path("runs"))
    text = paths.markdown.read_text("utf-8")
    assert "- **File:** runs/demo/models/best/model.onnx (94.0 MB)." in text
    assert 'bench predict "runs/demo/models/best/model.onnx" picture.png' in text
    assert text.count("demo/models/best/model.onnx") == text.count("runs/demo/models/best/model.")
    assert from_json(paths.json.read_bytes(), StudyReport) == report


@pytest.mark.parametrize("promoted", [True, False])
def test_headlines_are_the_first_lines_of_the_report(
    make_report: MakeReport, promoted: bool
) -> None:
    told = headlines(make_report(promoted=promoted))
    if promoted:
        assert len(told) == 6
        assert told[-1] == "File: demo/models/best/model.onnx (94.0 MB)."
    else:
        assert told[0].startswith("No model has been promoted yet")


@pytest.mark.usefixtures("undrawn")
def test_duplicates_with_different_labels_are_told_at_the_top_and_listed_with_the_data(
    make_report: MakeReport, tmp_path: Path
) -> None:
    report = conflicting(make_report(), pairs=2)
    for study in (report, replace(report, models=())):
        text = write_report([study], tmp_path).markdown.read_text("utf-8")
        head, data = text.split("##")[0], text.split("## Data")[1]
        assert "2 pairs of duplicates carry different ones, such as 0/0.png (blues)" in head
        assert "one label of each is wrong, or what it shows belongs to both classes" in head
        assert "`bench data check`" in head
        assert "| 0/0.png | blues | 1/1.png | jazz |" in data
    clean = write_report([make_report()], tmp_path).markdown.read_text("utf-8")
    assert "duplicates carry" not in clean
    assert "Duplicates with different labels" not in clean


@pytest.mark.usefixtures("undrawn")
def test_calibration_is_told_in_the_text_and_in_the_json(
    make_report: MakeReport, tmp_path: Path
) -> None:
    report = with_temperature(make_report(), 1.5, None)
    paths = write_report([report], tmp_path)
    assert "**Calibration, before and after the temperature**" in paths.markdown.read_text("utf-8")
    models = from_json(paths.json.read_bytes(), StudyReport).models
    assert {model.temperature for model in models} == {1.5}


@pytest.mark.usefixtures("undrawn")
def test_a_suspected_leak_is_the_first_thing_that_is_said(
    make_report: MakeReport, tmp_path: Path
) -> None:
    report = make_report(names=GTZAN_GENRES, winner_accuracy=1.0)
    text = write_report([report], tmp_path).markdown.read_text("utf-8")
    assert text.split("\n\n")[1].startswith("Look for a leak: 100.0 % on GTZAN.")


@pytest.mark.usefixtures("undrawn")
def test_a_limit_that_ended_the_search_is_told_at_the_top(
    make_report: MakeReport, tmp_path: Path
) -> None:
    report = replace(make_report(), ended="--timeout 30m was over after 3 of 50 trials")
    head = write_report([report], tmp_path).markdown.read_text("utf-8").split("##")[0]
    assert "The search ended early: --timeout 30m was over after 3 of 50 trials" in head


@pytest.mark.usefixtures("undrawn")
def test_missing_picture_files_are_told_and_do_no_harm(
    make_report: MakeReport, tmp_path: Path
) -> None:
    paths = write_report([make_report()], tmp_path)
    assert "their files can no longer be read" in paths.markdown.read_text("utf-8")
    assert not {"mistakes.png", "right.png"} & {path.name for path in paths.figures}


@pytest.mark.usefixtures("undrawn")
def test_a_study_without_promoted_models_reports_its_trials(
    make_report: MakeReport, tmp_path: Path
) -> None:
    text = write_report([make_report(promoted=False)], tmp_path).markdown.read_text("utf-8")
    assert "No model has been promoted yet, so the test set is still locked" in text
    assert "bench promote demo" in text
    assert "**Trials**" in text
    assert " %, was there after 30 s." in text
    assert "## Comparison" not in text


@pytest.mark.parametrize("trials", [0, 1])
def test_a_study_without_a_finished_trial_still_tells_of_its_data(
    make_report: MakeReport, tmp_path: Path, trials: int
) -> None:
    report = make_report(promoted=False, trials=trials)
    running = tuple(replace(t, state="RUNNING", value=None, epochs=()) for t in report.trials)
    paths = write_report([replace(report, trials=running)], tmp_path)
    text = paths.markdown.read_text("utf-8")
    assert "No trial is complete yet" in text
    assert ("No trial has been begun" in text) is (trials == 0)
    assert "## Data" in text
    assert paths.figures == ()


@pytest.mark.usefixtures("undrawn")
def test_synthetic_data_random_weights_and_notes_are_said_at_the_top_and_in_every_caption(
    make_report: MakeReport, tmp_path: Path
) -> None:
    notes = ("random weights: no pretrained ones were found", "# two epochs only")
    report = replace(make_report(synthetic=True, weights="random"), notes=notes)
    text = write_report([report], tmp_path).markdown.read_text("utf-8")
    head = text.split("##")[0]
    assert "**The data are synthetic.**" in head
    assert "> random weights: no pretrained ones were found" in head
    assert r"> \# two epochs only" in head
    captions = re.findall(r"^\*{1,2}([^*\n]+)\*{1,2}$", text, re.MULTILINE)
    assert len(captions) > 12
    assert all("synthetic data; random weights" in caption for caption in captions)


@pytest.mark.usefixtures("undrawn")
def test_several_studies_are_compared_first_and_keep_their_figures_apart(
    make_report: MakeReport, tmp_path: Path
) -> None:
    one = make_report(trials=3)
    two = replace(make_report(promoted=False, trials=3), study="other|study")
    paths = write_report([one, two], tmp_path)
    text = paths.markdown.read_text("utf-8")
    assert re.findall(r"^##? (.*)$", text, re.MULTILINE) == [
        "Report on 2 studies",
        "demo",
        r"other\|study",
    ]
    assert text.index("**Studies**") < text.index("## demo")
    assert linked_figures(paths) == set(paths.figures)
    assert {path.parent.name for path in paths.figures} == {"01", "02"}
    assert from_json(paths.json.read_bytes(), tuple[StudyReport, ...]) == (one, two)


def test_the_same_record_gives_the_same_files_and_leaves_no_temporary_ones(
    make_report: MakeReport, tmp_path: Path
) -> None:
    report = make_report(trials=4, pictures_on_disk=True)
    out = tmp_path / "report"

    def written() -> dict[Path, bytes]:
        write_report([report], out)
        return {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    first = written()
    assert first == written()
    assert {path.suffix for path in first} == {".md", ".json", ".png"}


@pytest.mark.usefixtures("undrawn")
def test_names_that_are_markup_do_not_break_the_document(
    make_report: MakeReport, tmp_path: Path
) -> None:
    report = make_report(names=("a|b", "`c`", "two\nlines"), trials=3)
    text = write_report([report], tmp_path).markdown.read_text("utf-8")
    assert r"| a\|b | 12 | 9 | 3 |" in text
    assert r"| \`c\` | 12 | 9 | 3 |" in text
    assert "| two lines | 12 | 9 | 3 |" in text


def test_a_report_of_no_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least one study"):
        write_report([], tmp_path)


def test_reports_load_neither_torch_nor_optuna_nor_a_database() -> None:
    code = (
        "import sys, reports.markdown; "
        "print({'torch', 'optuna', 'sqlalchemy', 'matplotlib.pyplot'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert result.stdout.strip() == b"set()"
