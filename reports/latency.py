"""Latency rows to tables: one for each thing that is timed, and one of the cold starts.

The report and `bench latency` show the same tables.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bench.records import LatencyRow, LatencyScope, StudyReport, ranked
from reports.measured import FLOAT32
from reports.scores import NOTHING
from reports.table import Table, caption_of, ms

# Different things are timed, so their figures never share a column.
TITLES: dict[LatencyScope, str] = {
    "model": "Latency of the network alone",
    "device": "Latency of the network alone, in GPU memory",
    "end-to-end": "Latency from picture file to label",
}
_WHAT_AND_WHERE = ("model", "device", "provider proved", "precision")
_P50_NOTE = (
    "p50: median of the processes' medians; from five of them on, in brackets, its 95 % bootstrap "
    "interval over them; p90 and p99 are pooled, and p99 needs 300 calls. Models within "
    "5 % of one another are a tie. Unsteady: a process was still warming up when its time was "
    "over, or drifted by more than 5 % while it was measured."
)
_BEST_NOTE = "(best): the batch size with the most pictures a second in that set-up."
_COLD_NOTE = (
    "Medians over fresh processes, files in the page cache. Import: of the engine; load: opening "
    "the model; first call: at the batch size named. Memory: the largest peak of a process."
)


def study_tables(report: StudyReport) -> tuple[Table, ...]:
    """Tables of everything that was measured of a study's models."""
    return latency_tables(
        report.latencies,
        captions=lambda title: caption_of(report, title),
        notes=_sharing_notes(report),
    )


def latency_tables(
    rows: Sequence[LatencyRow],
    *,
    captions: Callable[[str], str] = str,
    notes: Sequence[str] = (),
) -> tuple[Table, ...]:
    """One table for each scope among the rows, then the cold starts.

    captions: makes a table's caption of its title.
    notes: footnotes of the first table.
    """
    best = _best_batches(rows)
    tables: list[Table] = []
    for scope, title in TITLES.items():
        own = [row for row in rows if row.scope == scope]
        if own:
            first = () if tables else (_P50_NOTE, _BEST_NOTE, *notes)
            tables.append(_latency(own, best, captions(title), first))
    return (*tables, _cold_starts(rows, captions("Cold start, memory and size")))


def _latency(
    rows: Sequence[LatencyRow], best: Sequence[LatencyRow], caption: str, notes: tuple[str, ...]
) -> Table:
    return Table(
        caption=caption,
        headers=(
            *_WHAT_AND_WHERE,
            "batch",
            "threads",
            "p50, ms" if all(row.p50_interval_ms is None for row in rows) else "p50 [95 %], ms",
            "p90, ms",
            "p99, ms",
            "pictures/s",
            "processes",
            "calls",
            "steadiness",
            "timed",
        ),
        rows=tuple(
            (
                *_what_and_where(row),
                str(row.batch_size),
                str(row.threads),
                _p50(row),
                ms(row.p90_ms),
                ms(row.p99_ms),
                _rate(row.throughput_per_s) + (" (best)" if row in best else ""),
                str(len(row.samples)),
                str(row.calls),
                _steadiness(row),
                row.timed,
            )
            for row in rows
        ),
        footnotes=notes,
    )


def _cold_starts(rows: Sequence[LatencyRow], caption: str) -> Table:
    """One row for each model and set-up, at the smallest batch that was measured."""
    smallest: dict[tuple[object, ...], LatencyRow] = {}
    for row in sorted(rows, key=lambda row: row.batch_size):
        smallest.setdefault((row.model, row.path, *row.setup), row)
    return Table(
        caption=caption,
        headers=(
            *_WHAT_AND_WHERE,
            "timed",
            "batch",
            "threads",
            "import, s",
            "load, s",
            "first call, s",
            "together, s",
            "memory, MB",
            "file, MB",
        ),
        rows=tuple(
            (
                *_what_and_where(row),
                row.timed,
                str(row.batch_size),
                str(row.threads),
                _seconds(row.import_ms),
                _seconds(row.load_ms),
                _seconds(row.first_call_ms),
                _seconds(row.cold_start_ms),
                f"{row.peak_rss_bytes / 1e6:.0f}",
                NOTHING if row.size_bytes is None else f"{row.size_bytes / 1e6:.1f}",
            )
            for row in rows
            if row in smallest.values()
        ),
        footnotes=(_COLD_NOTE,),
    )


def _what_and_where(row: LatencyRow) -> tuple[str, ...]:
    return row.model, f"{row.device}: {row.place}", row.provider, _precision(row)


def _precision(row: LatencyRow) -> str:
    """32-bit products on a GPU are not what they are on a CPU, so TF32 is told beside them."""
    tf32 = row.options.get("tf32")
    return f"{row.precision}, TF32 {tf32}" if tf32 and row.precision in FLOAT32 else row.precision


def _p50(row: LatencyRow) -> str:
    if row.p50_interval_ms is None:
        return ms(row.p50_ms)
    low_ms, high_ms = row.p50_interval_ms
    return f"{ms(row.p50_ms)} [{ms(low_ms)}, {ms(high_ms)}]"


def _steadiness(row: LatencyRow) -> str:
    word = "steady" if row.steady else "unsteady"
    return f"{word} ({len(row.replaced)} measured again)" if row.replaced else word


def _rate(per_s: float) -> str:
    """As many digits as a reader can use."""
    return f"{per_s:.1f}" if per_s < 100 else f"{per_s:.0f}"


def _seconds(value_ms: float | None) -> str:
    return NOTHING if value_ms is None else f"{value_ms / 1e3:.3f}"


def _best_batches(rows: Sequence[LatencyRow]) -> list[LatencyRow]:
    curves: dict[tuple[object, ...], list[LatencyRow]] = {}
    for row in rows:
        curves.setdefault((row.model, row.path, *row.setup), []).append(row)
    return [
        max(curve, key=lambda row: row.throughput_per_s)
        for curve in curves.values()
        if len(curve) > 1
    ]


def _sharing_notes(report: StudyReport) -> list[str]:
    names: dict[str, list[str]] = {}
    for model in ranked(report.models):
        names.setdefault(model.architecture_key, []).append(model.name)
    measured = {row.architecture_key for row in report.latencies}
    return [
        f"One measurement stands for all models of the same graph {key}: {', '.join(sharing)}."
        for key, sharing in names.items()
        if len(sharing) > 1 and key in measured
    ]
