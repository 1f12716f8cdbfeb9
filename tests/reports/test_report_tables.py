"""What each table holds, and that nothing a user named can break one."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from bench.records import (
    GTZAN_GENRES,
    BrokenPicture,
    Estimate,
    StudyReport,
    TiedBy,
    ranked,
)
from reports import tables
from reports.latency import study_tables
from reports.scores import NOTHING, legend
from reports.table import READABLE_COLUMNS, Table, escape, ms, without_repeats
from reports.tables.comparison import REFERENCE_LABEL
from reports.tables.trials import ERROR_CHARACTERS
from tests.records import latency_row, process_sample, variant_check, variant_record
from tests.reports.conftest import (
    conflicting,
    tied_by_duplicates,
    with_protocols,
    with_temperature,
)

MakeReport = Callable[..., StudyReport]


def column(table: Table, header: str) -> list[str]:
    place = table.headers.index(header)
    return [row[place] for row in table.rows]


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("plain words, 12.5 %", "plain words, 12.5 %"),
        ("learning_rate", "learning_rate"),
        ("a|b", r"a\|b"),
        ("two\r\nlines\tand a tab", "two lines and a tab"),
        ("`code`", r"\`code\`"),
        ("*bold* _it_", r"\*bold\* \_it\_"),
        ("<b>&amp;", r"\<b\>\&amp;"),
        ("R&B", "R&B"),
        ("$x$ [link](u) ~s~ \\", r"\$x\$ [link\](u) \~s\~ \\"),
        ("38.9 [1.4, 76.4]", "38.9 [1.4, 76.4]"),
        ("[a][b] [c]: d", r"[a\][b] [c\]: d"),
        ("`bench data check` of a_b_", r"`bench data check` of a_b\_"),
        ("`bench report my_study_`, `--out *`", "`bench report my_study_`, `--out *`"),
        ("`bench a|b`", r"\`bench a\|b\`"),
        ("# heading", r"\# heading"),
        ("- item", r"\- item"),
        ("1. item", r"1\. item"),
        ("-1.5", "-1.5"),
    ],
)
def test_text_is_escaped_where_markdown_would_take_it_for_markup(text: str, escaped: str) -> None:
    assert escape(text) == escaped


def test_a_table_has_one_line_a_row_and_aligns_numbers_right() -> None:
    table = Table(
        caption="A | caption",
        headers=("class|name", "n"),
        rows=(("a\nb", "1"), ("`|`", NOTHING)),
        footnotes=("A note.",),
    )
    assert table.to_markdown().split("\n") == [
        r"**A \| caption**",
        "",
        r"| class\|name | n |",
        "| --- | ---: |",
        "| a b | 1 |",
        rf"| \`\|\` | {NOTHING} |",
        "",
        "A note.",
    ]


def test_every_row_of_every_table_is_as_wide_as_its_headers(make_report: MakeReport) -> None:
    report = make_report(names=("a|b", "c\nd", "`e`"))
    winner = report.models[1]
    for table in (
        tables.comparison(report),
        tables.further_scores(report),
        tables.costs(report),
        without_repeats(tables.costs(report)),
        tables.cross_study([report, report]),
        tables.per_class(report, winner),
        tables.confusion(report, winner),
        tables.hyper_parameters(report, winner, report.models[0]),
        tables.parity(report),
        *study_tables(report),
        tables.trial_counts(report),
        tables.trials(report),
        tables.failures(report),
        tables.classes(report),
        tables.data_facts(report),
        tables.broken_files(report),
        tables.conflicts(conflicting(report)),
        tables.study_settings(report),
        tables.machine(report),
    ):
        lines = [line for line in table.to_markdown().split("\n") if line.startswith("|")]
        bars = {len(re.findall(r"(?<!\\)\|", line)) for line in lines}
        assert bars == {len(table.headers) + 1}, table.caption


@pytest.mark.parametrize("make_table", [tables.comparison, tables.trials, tables.data_facts])
def test_captions_carry_the_labels(
    make_report: MakeReport, make_table: Callable[[StudyReport], Table]
) -> None:
    report = make_report(synthetic=True, weights="random")
    assert make_table(report).caption.endswith("(synthetic data; random weights)")
    noted = replace(make_report(), notes=("two epochs only",))
    assert make_table(noted).caption == make_table(make_report()).caption


@pytest.mark.parametrize("make_table", [tables.comparison, tables.trials])
def test_few_folds_are_said_to_be_too_few(
    make_report: MakeReport, make_table: Callable[[StudyReport], Table]
) -> None:
    report = make_report()
    folds = report.split.folds
    more = replace(report, split=replace(report.split, folds=(*folds, *folds)))
    assert any("3 folds are too few" in note for note in make_table(report).footnotes)
    assert not any("too few" in note for note in make_table(more).footnotes)


# --- comparison -----------------------------------------------------------------------------


def test_models_are_sorted_by_cross_validation_and_not_by_test_score(
    make_report: MakeReport,
) -> None:
    table = tables.comparison(make_report(winner_accuracy=0.3, default_accuracy=1.0))
    assert column(table, "model") == ["best", "default"]
    assert column(table, "CV balanced accuracy, %") == [
        "81.0 [72.8, 89.2]",
        "70.0 [61.8, 78.2]",
    ]


def test_published_figures_stand_apart_and_only_beside_real_gtzan(
    make_report: MakeReport,
) -> None:
    table = tables.comparison(make_report(names=GTZAN_GENRES))
    assert column(table, "model") == ["best", "default", "ResNet50 ‡", "Xception ‡"]
    assert column(table, "CV balanced accuracy, %")[2:] == ["67.0 ‡", "78.0 ‡"]
    assert column(table, "test balanced accuracy, %")[2:] == [NOTHING] * 2
    assert f"‡ {REFERENCE_LABEL}." in table.footnotes
    for other in (make_report(), make_report(names=GTZAN_GENRES, synthetic=True)):
        assert len(tables.comparison(other).rows) == 2


def test_a_device_without_measurements_has_no_columns_and_that_is_said(
    make_report: MakeReport,
) -> None:
    table = tables.comparison(make_report())
    assert not any(header.startswith("CUDA") for header in table.headers)
    assert "CUDA: not measured." in table.footnotes


def test_a_model_borrows_the_latency_of_its_graph_and_says_so(make_report: MakeReport) -> None:
    report = make_report()
    default, best = report.models
    twin = replace(best, architecture=default.architecture)
    own = tuple(row for row in report.latencies if row.model == "default")
    shared = replace(report, models=(default, twin), latencies=own)
    for table, name in (
        (tables.comparison(shared), "CPU p50, ms"),
        (tables.costs(shared), "CPU batch 1: p50 / p90 / p99, ms"),
    ):
        cells = column(table, name)
        assert cells == [cells[1] + " †", cells[1]]
        assert any(note.startswith("†") for note in table.footnotes)
    assert any("best, default" in note for note in study_tables(shared)[0].footnotes)
    stranger = replace(twin, image_size=99)
    apart = replace(shared, models=(default, stranger))
    assert column(tables.comparison(apart), "CPU p50, ms")[0] == "not measured"
    assert column(tables.costs(apart), "CPU batch 1: p50 / p90 / p99, ms")[0] == "not measured"


def test_the_comparison_is_of_the_network_alone_on_the_machine_that_was_measured_last(
    make_report: MakeReport,
) -> None:
    report = make_report()
    row = next(r for r in report.latencies if r.model == "best" and r.batch_size == 1)
    old = replace(row, machine="Old CPU, 1 cores")
    new = replace(row, machine="New CPU, 2 cores", samples=row.samples[:1])
    whole = replace(new, scope="end-to-end", samples=row.samples[2:])
    table = tables.comparison(replace(report, latencies=(old, whole, new)))
    assert column(table, "CPU p50, ms")[0] == ms(new.p50_ms)
    assert any("one picture at a time on New CPU, 2 cores" in note for note in table.footnotes)


def test_the_comparison_takes_every_cell_of_a_device_from_one_set_up(
    make_report: MakeReport,
) -> None:
    report = make_report()
    (reference,) = (r for r in report.latencies if r.model == "default" and r.batch_size == 1)
    (other,) = (r for r in report.latencies if r.model == "best" and r.batch_size == 1)
    rows = (replace(other, precision="int8"), reference, replace(other, threads=8))
    table = tables.comparison(replace(report, latencies=rows))
    cells = dict(zip(column(table, "model"), column(table, "CPU p50, ms"), strict=True))
    assert cells["best"] == "not measured"
    assert cells["default"] != "not measured"
    assert any(note.endswith("Other set-ups are in the latency table.") for note in table.footnotes)


# --- what the data do not tell apart ----------------------------------------------------------


def test_a_row_that_the_test_pictures_do_not_tell_from_the_first_is_a_tie(
    make_report: MakeReport,
) -> None:
    table = tables.comparison(make_report(winner_accuracy=0.7, default_accuracy=0.6))
    assert column(table, "test, against the first row") == [NOTHING, "tie: undecided"]
    assert any("order of the two means nothing" in note for note in table.footnotes)


def test_a_row_that_is_told_apart_is_said_to_be_worse(make_report: MakeReport) -> None:
    report = make_report(per_class=80, winner_accuracy=0.9, default_accuracy=0.2)
    verdicts = column(tables.comparison(report), "test, against the first row")
    assert verdicts == [NOTHING, "worse"]
    differences = column(
        tables.further_scores(report), "balanced accuracy against the first row, points"
    )
    assert differences[0] == NOTHING
    assert differences[1].startswith("-70.0 [")


def test_the_first_table_holds_what_decides_and_is_narrow_enough_to_read(
    make_report: MakeReport,
) -> None:
    report = make_report()
    on_gpu = replace(report.latencies[0], device="cuda")
    table = tables.comparison(replace(report, latencies=(*report.latencies, on_gpu)))
    assert table.headers == (
        "model",
        "test balanced accuracy, %",
        "CV balanced accuracy, %",
        "test, against the first row",
        "CPU p50, ms",
        "CUDA p50, ms",
        "file, MB",
    )
    assert len(table.headers) <= READABLE_COLUMNS


def test_a_score_has_its_interval_or_a_mark_whose_reason_stands_below_once(
    make_report: MakeReport,
) -> None:
    report = make_report(winner_accuracy=1.0, default_accuracy=0.5)
    table = tables.comparison(report)
    assert column(table, "test balanced accuracy, %")[0] == "100.0 ¹"
    assert column(table, "CV balanced accuracy, %") == ["81.0 [72.8, 89.2]", "70.0 [61.8, 78.2]"]
    assert table.footnotes[0] == (
        "¹ No 95 % interval: all answers are right, so no resample differs."
    )
    further = tables.further_scores(report)
    for name in ("precision, %", "recall, %", "F1, %", "log-loss, nats"):
        for cell in column(further, name):
            assert re.fullmatch(r"[\d.]+ (\[[\d.]+, [\d.]+\]|[¹²³⁴])", cell), (name, cell)
    reasons = [note for note in further.footnotes if "No 95 % interval" in note]
    assert [note[0] for note in reasons] == list("¹²³⁴")[: len(reasons)]
    assert len({note[1:] for note in reasons}) == len(reasons)


@pytest.mark.parametrize(
    ("columns", "rows", "kept"),
    [
        (READABLE_COLUMNS, (("a", "1"), ("b", "1")), None),
        (READABLE_COLUMNS + 1, (("a", "1"),), None),
        (READABLE_COLUMNS + 1, (("a", "1"), ("a", "2")), ("name", "h0")),
    ],
    ids=["narrow", "one row", "wide"],
)
def test_columns_without_news_leave_tables_that_are_too_wide(
    columns: int, rows: tuple[tuple[str, str], ...], kept: tuple[str, ...] | None
) -> None:
    """The first column names the rows and stays; a dash in all rows is not worth telling."""
    same = ("x", *[NOTHING] * (columns - 3))
    headers = ("name", *(f"h{k}" for k in range(columns - 1)))
    table = Table(
        caption="c", headers=headers, rows=tuple((*row, *same) for row in rows), footnotes=("end",)
    )
    told = without_repeats(table)
    assert told.headers == (headers if kept is None else kept)
    assert {len(row) for row in told.rows} == {len(told.headers)}
    assert told.footnotes == (("end",) if kept is None else ("In all rows: h1 = x.", "end"))


@pytest.mark.parametrize(
    ("grouped", "said"),
    [
        (True, "resamples whole groups"),
        (False, "single pictures (duplicates as one), since no groups were given"),
    ],
)
def test_the_unit_that_was_resampled_is_said(
    make_report: MakeReport, grouped: bool, said: str
) -> None:
    assert said in legend(make_report(grouped=grouped))


def test_trials_that_the_folds_do_not_tell_from_the_best_are_ties(make_report: MakeReport) -> None:
    report = make_report(trials=3)
    best = replace(report.trials[2], value=0.9)
    near = replace(
        best,
        number=3,
        value=0.89,
        epochs=tuple(
            replace(row, balanced_accuracy=row.balanced_accuracy + 0.02 * (row.fold - 1.2))
            for row in best.epochs
        ),
    )
    far = replace(
        best,
        number=4,
        value=0.4,
        epochs=tuple(
            replace(row, balanced_accuracy=row.balanced_accuracy - 0.5 + 0.001 * row.fold)
            for row in best.epochs
        ),
    )
    table = tables.trials(replace(report, trials=(report.trials[1], best, near, far)))
    assert column(table, "against the best") == [
        NOTHING,
        "best",
        "tie: undecided",
        "worse",
    ]
    pruned, complete, *_ = column(table, "value, %")
    assert "[" not in pruned
    assert "[" in complete


def test_recall_by_class_has_an_interval_of_its_own_pictures(make_report: MakeReport) -> None:
    report = make_report(per_class=80, winner_accuracy=0.7)
    table = tables.per_class(report, report.models[1])
    assert all(
        re.fullmatch(r"[\d.]+ \[[\d.]+, [\d.]+\]", cell) for cell in column(table, "recall, %")
    )


def test_each_seed_has_a_row_and_the_one_that_ships_is_named(make_report: MakeReport) -> None:
    report = make_report(per_class=40, seed_accuracies=(0.5, 0.6))
    table = tables.seeds(report, report.models[1])
    assert column(table, "seed") == ["0 (the file that ships)", "1", "2"]
    assert all("[" in cell for cell in column(table, "test balanced accuracy, %"))


# --- trials ---------------------------------------------------------------------------------


def test_up_to_200_trials_are_all_shown_by_number(make_report: MakeReport) -> None:
    table = tables.trials(make_report(trials=200))
    assert column(table, "trial") == [str(number) for number in range(200)]
    assert not any("are shown" in note for note in table.footnotes)


def test_of_more_trials_the_best_and_the_last_are_shown_and_that_is_said(
    make_report: MakeReport,
) -> None:
    report = make_report(trials=300)
    table = tables.trials(report)
    numbers = [int(cell) for cell in column(table, "trial")]
    values = {t.number: t.value or 0.0 for t in report.trials if t.state == "COMPLETE"}
    assert numbers[:100] == sorted(values, key=lambda number: -values[number])[:100]
    assert set(range(280, 300)) <= set(numbers)
    assert len(numbers) == len(set(numbers)) <= 120
    assert "Of 300 trials the best 100 by value and the last 20" in table.footnotes[0]


def test_a_trial_row_tells_state_value_and_finished_folds(make_report: MakeReport) -> None:
    table = tables.trials(make_report(trials=5))
    assert column(table, "state") == ["complete (default)", "pruned", "complete", "pruned", "fail"]
    assert column(table, "folds") == ["3 of 3", "1 of 3", "3 of 3", "1 of 3", "0 of 3"]
    assert column(table, "value, %")[-1] == NOTHING


def test_a_fold_that_was_cut_short_is_not_finished(make_report: MakeReport) -> None:
    report = make_report(trials=3)
    pruned = report.trials[1]
    cut = replace(report, trials=(replace(pruned, epochs=pruned.epochs[:-1]),))
    assert column(tables.trials(cut), "folds") == ["0 of 3"]


def test_a_long_error_keeps_its_end_where_the_cause_stands(make_report: MakeReport) -> None:
    report = make_report(trials=5)
    failed = replace(report.trials[4], error="Traceback\n" + "x " * 500 + "\nValueError: | broken")
    (cell,) = column(tables.failures(replace(report, trials=(failed,))), "error or remark")
    assert cell.endswith("ValueError: | broken")
    assert len(cell) <= ERROR_CHARACTERS + 2


def test_what_was_unusual_about_a_complete_trial_stands_beside_the_failures(
    make_report: MakeReport,
) -> None:
    report = make_report(trials=5)
    odd = replace(report.trials[0], remark="tried again after: worker died: SIGKILL")
    table = tables.failures(replace(report, trials=(odd, *report.trials[1:])))
    assert column(table, "trial") == ["0", "4"]
    assert column(table, "state") == ["complete", "fail"]
    assert column(table, "error or remark")[0] == odd.remark


# --- classes and data -----------------------------------------------------------------------


def test_a_confusion_matrix_too_wide_to_read_becomes_a_list_of_confusions(
    make_report: MakeReport,
) -> None:
    for total, is_matrix in ((20, True), (21, False)):
        report = make_report(names=tuple(f"c{k}" for k in range(total)))
        table = tables.confusion(report, report.models[1])
        assert (len(table.headers) == total + 1) is is_matrix
    counts = [int(cell) for cell in column(table, "pictures")]
    assert counts == sorted(counts, reverse=True)


@pytest.mark.parametrize(
    ("number", "rows", "footnotes"),
    [
        (3, 3, ()),
        (20, 20, ()),
        (23, 20, ("… and 3 more.",)),
    ],
)
def test_twenty_broken_files_are_listed_and_the_others_counted(
    make_report: MakeReport, number: int, rows: int, footnotes: tuple[str, ...]
) -> None:
    report = make_report()
    broken = tuple(BrokenPicture(path=f"{k}.png", reason="truncated") for k in range(number))
    table = tables.broken_files(replace(report, dataset=replace(report.dataset, broken=broken)))
    assert (len(table.rows), table.footnotes) == (rows, footnotes)


def test_classes_are_counted_over_development_and_test(make_report: MakeReport) -> None:
    table = tables.classes(make_report())
    assert table.rows[0] == ("blues", "12", "9", "3")
    grouped = tables.classes(make_report(grouped=True))
    assert grouped.headers[-1] == "groups in the test set"
    assert grouped.rows[0] == ("blues", "12", "9", "3", "2")


def test_a_setting_that_was_not_given_is_told_as_what_it_stands_for(
    make_report: MakeReport,
) -> None:
    report = make_report()
    free = replace(report, settings=replace(report.settings, image_size=None, max_latency_ms=None))
    settings = dict(tables.study_settings(free).rows)
    assert settings["image_size"] == "the backbone's own"
    assert settings["max_latency_ms"] == "none"


def test_the_winner_stands_beside_the_default_unless_it_is_the_default(
    make_report: MakeReport,
) -> None:
    report = make_report()
    default, best = report.models
    headers = tables.hyper_parameters(report, best, default).headers
    assert headers == ("parameter", "winner: best", "default: default")
    assert len(tables.hyper_parameters(report, default, default).headers) == 2
    assert len(tables.hyper_parameters(report, best, None).headers) == 2


@pytest.mark.parametrize("same_split", [True, False])
def test_studies_on_different_splits_are_said_not_to_compare(
    make_report: MakeReport, same_split: bool
) -> None:
    report = make_report(synthetic=True)
    other = replace(report, study="other")
    if not same_split:
        other = replace(other, split=replace(other.split, test=other.split.test[1:]))
    table = tables.cross_study([report, other])
    assert ("do not compare" in table.footnotes[0]) is not same_split
    assert column(table, "labels") == ["synthetic data"] * 2
    assert "synthetic data" in table.caption


def test_each_precision_has_a_row_and_a_refusal_its_reason(make_report: MakeReport) -> None:
    report = make_report()
    default, best = report.models
    offered = variant_record(
        method="Entropy",
        calibration_pictures=128,
        layers=54,
        float_layers=("conv1",),
        test=best.test,
        check=variant_check(
            class_pictures=(60, 40), difference=Estimate(value=-0.01, interval=(-0.025, 0.005))
        ),
    )
    refused = variant_record(precision="fp16", size_bytes=0, check=None, refused="it fell apart")
    best = replace(best, variants=(refused, offered))
    (fp32_row,) = [r for r in report.latencies if r.model == "best" and r.batch_size == 1]
    faster = tuple(
        replace(sample, latencies_ns=tuple(ns // 2 for ns in sample.latencies_ns))
        for sample in fp32_row.samples
    )
    int8_row = replace(
        fp32_row,
        path=offered.path,
        precision="int8",
        architecture_key=best.variant_key(offered),
        samples=faster,
        turns="a round",
    )
    others = [replace(row, turns="a round") for row in report.latencies]
    report = replace(report, models=(default, best), latencies=(*others, int8_row))

    table, checks = tables.precisions(report)

    assert column(table, "model") == ["best"] * 3  # the default has no variant
    assert column(table, "precision") == ["fp32", "fp16", "int8"]
    assert column(table, "offered") == ["yes", "no", "yes"]
    assert column(checks, "precision") == ["fp16", "int8"]
    assert column(checks, "layers left in float32")[1] == "1 of 54"
    assert column(checks, "calibration")[1] == "Entropy, 128 pictures"
    assert column(checks, "balanced accuracy against fp32, points (95 %)")[1] == (
        "-1.00 (-2.50 to +0.50)"
    )
    assert column(checks, "one answer, points") == [NOTHING, "1.2"]
    assert column(checks, "answers lost / gained")[1] == "2 / 1"
    assert column(table, "times faster than fp32") == [NOTHING, NOTHING, "2.00"]
    assert column(table, "test balanced accuracy, %")[1] == NOTHING
    assert (
        "best fp16 is not offered, and its file has been removed: it fell apart."
    ) in table.footnotes
    assert column(tables.comparison(report), "CPU p50, ms")[0] != "not measured"

    for turns in ("another round", ""):
        apart = replace(report, latencies=(*others, replace(int8_row, turns=turns)))
        assert column(tables.variants(apart), "times faster than fp32")[2] == NOTHING


def test_how_much_faster_a_precision_is_has_its_interval_and_a_tie_is_called_so(
    make_report: MakeReport,
) -> None:
    report = make_report()
    best = ranked(report.models)[0]
    variant = variant_record(path="int8.onnx", size_bytes=1)
    best = replace(best, variants=(variant,))

    def told(*int8_ms: int) -> str:
        fp32, int8 = (
            latency_row(
                *(process_sample(ms * 1_000_000) for ms in of_rounds),
                architecture_key=key,
                turns="a round",
            )
            for key, of_rounds in (
                (best.architecture_key, (20, 40, 20, 40, 20)),
                (best.variant_key(variant), int8_ms),
            )
        )
        table = tables.variants(replace(report, models=(best,), latencies=(fp32, int8)))
        return column(table, "times faster than fp32")[1]

    assert told(10, 20, 10, 20, 10) == "2.00 [2.00, 2.00]"
    assert told(20, 40, 20, 40, 20) == "1.00 [1.00, 1.00], a tie"


def test_protocols_stand_side_by_side_for_each_model(make_report: MakeReport) -> None:
    report = with_protocols(make_report(winner_accuracy=0.2, per_class=40), 0.9)
    table = tables.protocols(report)
    assert column(table, "protocol") == ["grouped (searched)", "random"] * 2
    assert column(table, "model") == ["best", "best", "default", "default"]
    assert column(table, "CV balanced accuracy, %")[1] == "91.0 [87.1, 94.9]"
    searched, further = (
        float(cell.split()[0]) for cell in column(table, "test balanced accuracy, %")[:2]
    )
    none, gained = column(table, "test difference, points")[:2]
    assert none == NOTHING
    value, low, high = (float(part.strip("[],")) for part in gained.split())
    assert value == pytest.approx(further - searched, abs=0.11)
    assert 0 < low < value < high


def test_the_data_table_names_the_protocol_and_what_a_random_split_ignores(
    make_report: MakeReport,
) -> None:
    report = make_report()
    assert dict(tables.data_facts(report).rows)["protocol"] == "not recorded"
    pictures = tuple(replace(p, group="g") for p in report.dataset.pictures)
    random = replace(
        report,
        dataset=replace(
            report.dataset,
            pictures=pictures,
            tied=(TiedBy(rule="--groups tracks.csv", pictures=36, groups=1),),
        ),
        split=replace(report.split, protocol="random"),
    )
    facts = dict(tables.data_facts(random).rows)
    assert facts["protocol"] == "random"
    assert "ignored by the random split" in facts["groups"]
    broken = replace(random, split=replace(random.split, protocol="grouped"))
    assert "1 on both sides of the split" in dict(tables.data_facts(broken).rows)["groups"]
    assert facts["tied by a rule"] == "--groups tracks.csv: 36 pictures tied in 1 group"


def test_where_nobody_named_groups_the_data_table_speaks_of_found_duplicates(
    make_report: MakeReport,
) -> None:
    report = tied_by_duplicates(make_report())
    facts = dict(tables.data_facts(report).rows)
    assert facts["protocol"] == "by class, with 2 found duplicates kept together"
    assert facts["groups"] == (
        "none given; 2 pictures tied in 1 set of found duplicates; none straddles a split"
    )
    further = with_protocols(report, 0.9)
    assert column(tables.protocols(further), "protocol")[0] == (
        "by class, with 2 found duplicates kept together (searched)"
    )


@pytest.mark.parametrize(("number", "shown"), [(1, 1), (20, 20), (22, 20)])
def test_duplicates_with_different_labels_are_listed_and_the_others_counted(
    make_report: MakeReport, number: int, shown: int
) -> None:
    table = tables.conflicts(conflicting(make_report(), number))
    assert table.rows[0] == ("0/0.png", "blues", "1/0.png", "jazz")
    assert len(table.rows) == shown
    assert ("… and 2 more." in table.footnotes) is (number > shown)
    assert "`bench data check`" in table.footnotes[-1]


# --- calibration ----------------------------------------------------------------------------


def test_calibration_is_told_before_and_after_with_intervals_and_what_chance_would_show(
    make_report: MakeReport,
) -> None:
    report = with_temperature(make_report(per_class=80), 2.0, None)
    table = tables.calibration(report)
    assert column(table, "model") == ["best"] * 3 + ["default"] * 3
    assert set(column(table, "pictures")) == {"test (60)"}
    assert set(column(table, "temperature")) == {"2.00"}
    log_loss, brier, ece = table.rows[:3]
    effect = ranked(report.models)[0].calibration.test
    for row, before, after in (
        (log_loss, effect.before.log_loss, effect.after.log_loss),
        (brier, effect.before.brier, effect.after.brier),
    ):
        assert row[4].startswith(f"{before.value:.3f} [")
        assert row[5].startswith(f"{after.value:.3f} [")
        assert re.fullmatch(r"[-+][\d.]+ \[[-+][\d.]+, [-+][\d.]+\]", row[6])
    assert ece[4:6] == (f"{100 * effect.before.ece:.1f}", f"{100 * effect.after.ece:.1f}")
    assert re.fullmatch(r"[\d.]+ \[[\d.]+, [\d.]+\]", ece[7])


def test_a_model_without_a_temperature_says_why(make_report: MakeReport) -> None:
    report = with_temperature(make_report(), 1.0, "no fold is there")
    best, default = ranked(report.models)
    early = replace(report, models=(best, replace(default, calibration=None)))
    table = tables.calibration(early)
    assert "best ships with temperature 1: no fold is there." in table.footnotes
    assert "default was promoted before graphs had a temperature." in table.footnotes
    assert set(column(table, "model")) == {"best"}
    for row in table.rows:
        assert row[4] == row[5]
