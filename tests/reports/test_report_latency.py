"""What the tables of latencies show, in the report and on the command line alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from bench.records import LatencyRow, StudyReport, from_json, to_builtins, to_json
from reports.latency import latency_tables, study_tables
from reports.scores import NOTHING
from reports.table import Table

MakeReport = Callable[..., StudyReport]


def column(table: Table, header: str) -> list[str]:
    position = table.headers.index(header)
    return [row[position] for row in table.rows]


def first_table(report: StudyReport) -> Table:
    return study_tables(report)[0]


def with_calls(row: LatencyRow, calls: int) -> LatencyRow:
    first, *rest = row.samples
    kept = calls - sum(len(sample.latencies_ns) for sample in rest)
    return replace(row, samples=(replace(first, latencies_ns=first.latencies_ns[:kept]), *rest))


@pytest.mark.parametrize(("calls", "shown"), [(300, True), (299, False)])
def test_a_99th_percentile_needs_300_calls(
    make_report: MakeReport, calls: int, shown: bool
) -> None:
    report = make_report()
    row = with_calls(report.latencies[0], calls)
    table = first_table(replace(report, latencies=(row,)))
    assert column(table, "calls") == [str(calls)]
    assert (column(table, "p99, ms") != [NOTHING]) is shown


def test_an_unsteady_process_makes_the_row_unsteady(make_report: MakeReport) -> None:
    report = make_report()
    row = report.latencies[0]
    shaken = replace(row, samples=(replace(row.samples[0], steady=False), *row.samples[1:]))
    table = first_table(replace(report, latencies=(row, shaken)))
    assert column(table, "steadiness") == ["steady", "unsteady"]


def test_the_best_batch_is_marked_once_in_each_set_up(make_report: MakeReport) -> None:
    report = make_report()
    table = first_table(report)
    marked = [
        (row.model, row.batch_size)
        for row, cell in zip(report.latencies, column(table, "pictures/s"), strict=True)
        if cell.endswith("(best)")
    ]
    assert marked == [("default", 8), ("best", 8)]


def test_what_is_timed_differently_never_shares_a_table(make_report: MakeReport) -> None:
    row = make_report().latencies[0]
    rows = (
        row,
        replace(row, scope="end-to-end", timed="picture file to label (made PNG of 8x8 px)"),
        replace(row, device="cuda", scope="device", timed="network alone, in GPU memory"),
    )
    alone, resident, whole, cold = latency_tables(rows)
    assert column(alone, "timed") == ["session.run, numpy in and out"]
    assert column(resident, "timed") == ["network alone, in GPU memory"]
    assert column(whole, "timed") == ["picture file to label (made PNG of 8x8 px)"]
    assert len(cold.rows) == 3


def test_the_median_carries_its_interval_from_five_processes_on(make_report: MakeReport) -> None:
    row = make_report().latencies[0]
    five = replace(row, samples=(*row.samples, *row.samples[:2]))
    (table, _) = latency_tables((row, five))
    three_cell, five_cell = column(table, "p50 [95 %], ms")
    assert three_cell == "10.1"
    assert five_cell == "10.1 [10.0, 10.2]"


def test_no_interval_is_announced_where_none_is_shown(make_report: MakeReport) -> None:
    (table, _) = latency_tables(make_report().latencies[:1])
    assert column(table, "p50, ms") == ["10.1"]


def test_a_gpus_rounding_is_told_with_the_precision(make_report: MakeReport) -> None:
    row = replace(make_report().latencies[0], device="cuda", options={"tf32": "off"})
    assert column(latency_tables((row,))[0], "precision") == ["fp32, TF32 off"]


def test_processes_that_were_measured_again_are_told(make_report: MakeReport) -> None:
    row = make_report().latencies[0]
    again = replace(row, replaced=row.samples[:1])
    assert column(latency_tables((again,))[0], "steadiness") == ["steady (1 measured again)"]


def test_a_cold_start_is_import_load_and_first_call_at_the_smallest_batch(
    make_report: MakeReport,
) -> None:
    row = make_report().latencies[0]
    known = replace(
        row,
        size_bytes=4_000_000,
        samples=tuple(replace(sample, import_ms=170.0) for sample in row.samples),
    )
    *_, cold = latency_tables((replace(known, batch_size=8), known))
    assert [dict(zip(cold.headers, cells, strict=True)) for cells in cold.rows] == [
        {
            **dict.fromkeys(cold.headers),
            **{"model": "default", "device": "cpu: Test CPU", "batch": "1", "threads": "2"},
            **{"provider proved": "CPUExecutionProvider", "precision": "fp32"},
            **{"timed": "session.run, numpy in and out"},
            **{"import, s": "0.170", "load, s": "0.200", "first call, s": "0.030"},
            **{"together, s": "0.400", "memory, MB": "300", "file, MB": "4.0"},
        }
    ]


def test_a_row_of_an_early_version_is_read_and_shown(make_report: MakeReport) -> None:
    """As it was stored before machine, scope, options and the import were."""
    row = make_report().latencies[0]
    early = to_builtins(row)
    for name in ("scope", "engine", "machine", "size_bytes", "options", "replaced"):
        del early[name]
    for sample in early["samples"]:
        del sample["import_ms"], sample["gpu"]
    read = from_json(to_json(early), LatencyRow)
    assert read == row
    table, cold = latency_tables((read,))
    assert column(table, "device") == ["cpu: Test CPU"]
    assert column(cold, "together, s") == [NOTHING]
