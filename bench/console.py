"""What the commands say: tables and lines for a person, plain documents for `--json`.

Results go to standard output, everything else to standard error. rich is imported where a table is
drawn, so that `bench --help` answers at once.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from bench.errors import BenchError, InterruptedRun
from bench.words import counted

if TYPE_CHECKING:
    from bench.data.audit.check import Finding
    from bench.doctor import Diagnosis
    from bench.inspection import Inspection
    from bench.latency.ratios import LatencyRatio
    from bench.records import (
        Dataset,
        LatencyRow,
        ModelRecord,
        StudyReport,
        TrialState,
        VariantRecord,
    )
    from bench.reproduce import Reproduction
    from bench.results import StudyProgress
    from bench.runtime.metadata import TensorSignature
    from bench.space import SearchSpace
    from bench.workspace import Workspace

RUNS = Path("runs")  # the run folder where none is named
NOTHING = "\N{EN DASH}"
PIPE_COLUMNS = 200  # a table that goes to a file or a pipe is not cut to a terminal's width
MOST_COUNTED = 8  # kinds of pictures named on one line
MOST_TO_JUDGE = 10  # doubtful labels, and pairs that contradict one another; --json gives all


class TextTable(Protocol):
    """A table of plain text, as the reports make them."""

    @property
    def caption(self) -> str: ...

    @property
    def headers(self) -> tuple[str, ...]: ...

    @property
    def rows(self) -> tuple[tuple[str, ...], ...]: ...

    @property
    def footnotes(self) -> tuple[str, ...]: ...


def say(text: str) -> None:
    """Print to standard error what is no result."""
    print(text, file=sys.stderr)


def print_error(error: BenchError) -> None:
    """Print an error as one red message; an interrupted run is none."""
    from rich.console import Console

    word = "" if isinstance(error, InterruptedRun) else "error: "
    Console(stderr=True).print(
        f"{word}{error}", style="bold red", markup=False, highlight=False, soft_wrap=True
    )


def print_json(document: object) -> None:
    """Print one JSON document."""
    print(json.dumps(document, indent=2, ensure_ascii=False))


def print_record(record: object) -> None:
    """Print a record as one JSON document."""
    from bench.records import to_builtins

    print_json(to_builtins(record))


def print_table(table: TextTable) -> None:
    """Print a table with its caption; its footnotes go to standard error."""
    _print_table(table.headers, table.rows, title=table.caption)
    for footnote in table.footnotes:
        say(footnote)


def printable(text: str) -> str:
    """Text from a file that anybody may have made: control characters could drive a terminal."""
    return "".join(c if c.isprintable() or c == " " else repr(c)[1:-1] for c in text)


def relative(path: Path) -> str:
    """A path as one would type it here."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


# --- studies --------------------------------------------------------------------------------


def print_summary(report: StudyReport, place: Workspace) -> None:
    """Print the promoted models of a study, or its best score where there are none."""
    from bench.records import best_trial

    if report.dataset.synthetic:
        say("note: The data are synthetic, made by the built-in generator to try the tool.")
    for note in report.notes:
        say(f"note: {note}")
    if report.models:
        _print_models(report, place)
    else:
        best = best_trial(report.trials)
        value = _cell(best.value if best else None)
        print(f"{report.study}: best cross-validated balanced accuracy {value}")
    where = _workspace_option(place)
    say(f"next: bench report {report.study}{where}   ·   bench dashboard{where}")


def _workspace_option(place: Workspace) -> str:
    """What a command needs to find this run folder again."""
    if "BENCH_WORKSPACE" in os.environ or place.root == Path.cwd() / RUNS:
        return ""
    return f" --workspace {shlex.quote(relative(place.root))}"


def _print_models(report: StudyReport, place: Workspace) -> None:
    from bench.records import ranked

    rows = []
    for model in ranked(report.models):
        rows.append(_model_cells(report, model, place))
        rows += [_variant_cells(report, model, variant, place) for variant in model.variants]
    headers = ("model", "CV balanced accuracy", "test", "CPU p50 ms (batch 1)", "file")
    _print_table(headers, rows)
    for model in report.models:
        if model.cv_mean is None:
            print(
                f"{model.name}: trial {model.trial} was pruned, so it has no cross-validated score"
            )
        for variant in model.variants:
            if variant.refused is not None:
                print(f"{model.name}, {variant.precision} is not offered: {variant.refused}")
        if model.further_seeds:
            scores = (model.test, *(run.test for run in model.further_seeds))
            shown = ", ".join(f"{score.balanced_accuracy:.3f}" for score in scores)
            seeds = counted(len(scores), "seed")
            print(f"{model.name} over {seeds}, test: {shown} (the first ships)")


def _model_cells(report: StudyReport, model: ModelRecord, place: Workspace) -> tuple[str, ...]:
    spread = f" ± {model.cv_sd:.3f}" if model.cv_sd is not None else ""
    return (
        model.name,
        f"{model.cv_mean:.3f}{spread}" if model.cv_mean is not None else NOTHING,
        f"{model.test.balanced_accuracy:.3f}",
        _p50(report, model.architecture_key),
        relative(place.root / model.path),
    )


def _variant_cells(
    report: StudyReport, model: ModelRecord, variant: VariantRecord, place: Workspace
) -> tuple[str, ...]:
    name = f"  {variant.precision}"
    if variant.test is None:
        return name, "", "", "", "not offered"
    return (
        name,
        "",
        f"{variant.test.balanced_accuracy:.3f}",
        _p50(report, model.variant_key(variant)),
        relative(place.root / variant.path),
    )


def _p50(report: StudyReport, architecture_key: str) -> str:
    from bench.records import latest_row

    row = latest_row(report.latencies, architecture_key, "cpu")
    if row is None:
        return NOTHING
    return f"{row.p50_ms:.2f}" if row.steady else f"{row.p50_ms:.2f} unsteady"


def status_row(progress: StudyProgress) -> dict[str, object]:
    """How far one study is, for `--json`."""
    best = progress.best
    states: tuple[TrialState, ...] = ("COMPLETE", "PRUNED", "FAIL", "RUNNING", "INTERRUPTED")
    return {
        "study": progress.study,
        "prepared": progress.prepared,
        "wanted": progress.wanted,
        **{state.lower(): progress.count(state) for state in states},
        "best": best.value if best else None,
        "best_trial": best.number if best else None,
        "models": progress.models,
        "owner": progress.owner,
        "trials_per_hour": progress.trials_per_hour,
        "left_s": progress.left_s,
        "ended": progress.ended,
    }


def print_status(all_progress: Sequence[StudyProgress]) -> None:
    """Print how far studies are, and the running trials of those that are being run."""
    shown = ("study", "wanted", "complete", "pruned", "fail", "running", "interrupted", "best",
             "best_trial", "models")  # fmt: skip
    rows = [status_row(progress) for progress in all_progress]
    _print_table(shown, [[_cell(row[name]) for name in shown] for row in rows])
    for progress in all_progress:
        if progress.ended:
            print(f"{progress.study}: the search ended early: {progress.ended}")
        if progress.nothing_yet is not None:
            print(progress.nothing_yet)
        elif progress.owner is not None:
            _print_rate(progress)
        _print_running(progress)


def _print_rate(progress: StudyProgress) -> None:
    from bench.progress import clock_time

    per_hour = progress.trials_per_hour
    rate = f"{counted(round(per_hour), 'trial')} an hour" if per_hour else ""
    left = f"{clock_time(progress.left_s)} left" if progress.left_s is not None else ""
    if progress.is_promoted_now:
        rate, left = "", "making and measuring its models"
    facts = ", ".join(filter(None, (f"run by {progress.owner}", rate, left)))
    print(f"{progress.study}: {facts}")


def _print_running(progress: StudyProgress) -> None:
    from bench.progress import describe

    rows = []
    for trial in progress.trials:
        if trial.state == "RUNNING":
            last = trial.epochs[-1] if trial.epochs else None
            rows.append(
                (
                    str(trial.number),
                    str(last.fold + 1) if last else NOTHING,
                    str(last.epoch + 1) if last else NOTHING,
                    _cell(trial.cv_mean),
                    describe(trial.recipe),
                )
            )
    if rows:
        _print_table(("trial", "fold", "epoch", "balanced accuracy", "recipe"), rows)


def reproduction_document(reproduction: Reproduction) -> dict[str, Any]:
    """A reproduction with what is derived of it, for `--json`."""
    from bench.records import to_builtins

    derived = {name: getattr(reproduction, name) for name in ("recorded", "again", "verdict")}
    return {**to_builtins(reproduction), **derived}


def print_reproduction(reproduction: Reproduction) -> None:
    """Print the folds of a trial as they were and as they came out again, and the verdict."""
    headers = (
        "fold", "epochs", "recorded", "again", "scores equal", "pictures", "other class",
        "largest difference of a probability",
    )  # fmt: skip
    rows = []
    for fold in reproduction.folds:
        compared = (
            (str(fold.pictures), str(fold.other_answers), f"{fold.max_abs_difference:.1e}")
            if fold.pictures
            else ("none stored", NOTHING, NOTHING)
        )
        rows.append(
            (
                str(fold.fold + 1),
                str(fold.epochs),
                _cell(fold.recorded),
                _cell(fold.again),
                "yes" if fold.scores_equal else "no",
                *compared,
            )
        )
    _print_table(headers, rows)
    for remark in reproduction.remarks:
        print(remark)
    for change in reproduction.changes:
        print(f"then and now: {change}")
    print(
        f"trial {reproduction.trial} of {reproduction.study} ({reproduction.state.lower()}): "
        f"{reproduction.recorded:.3f} recorded, {reproduction.again:.3f} again, spread over the "
        f"folds {_cell(reproduction.spread)}: {reproduction.verdict}"
    )


def print_spaces(spaces: Iterable[SearchSpace]) -> None:
    """Print the search spaces, a line each."""
    rows = [
        (space.name, ", ".join(space.backbones), f"{space.folds} x {space.epochs}",
         space.description)
        for space in spaces
    ]  # fmt: skip
    _print_table(("space", "backbones", "folds x epochs", "description"), rows)


def print_diagnosis(findings: Iterable[Diagnosis]) -> None:
    """Print what this machine can do, and how to mend what it cannot."""
    for finding in findings:
        print(f"{'ok ' if finding.ok else 'BAD'}  {finding.name}: {finding.detail}")
        if finding.remedy:
            print(f"     -> {finding.remedy}")


# --- files ----------------------------------------------------------------------------------


def print_inspection(inspection: Inspection) -> None:
    """Print what an ONNX file holds and what it says of itself."""
    facts = [
        ("file", inspection.path),
        ("size", f"{inspection.size_bytes / 1e6:.1f} MB"),
        ("side files", ", ".join(inspection.side_files) or "none"),
        ("producer", inspection.producer or "not named"),
        ("ONNX", f"IR {inspection.ir_version}, opset {_pairs(inspection.opsets)}"),
        *(("input", _tensor(tensor)) for tensor in inspection.inputs),
        *(("output", _tensor(tensor)) for tensor in inspection.outputs),
        ("parameters", f"{inspection.parameters:,} numbers stored in the file"),
        ("operators", _pairs(inspection.operators)),
        *inspection.other_metadata.items(),
    ]
    _print_table(("", ""), [map(printable, fact) for fact in facts], show_header=False)
    if inspection.bench is None:
        print("no `bench` metadata: `bench latency` can measure it, `bench predict` cannot use it")
        return
    told = [map(printable, fact) for fact in _flat(inspection.bench)]
    _print_table(("bench metadata", ""), told)


def _flat(document: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Dotted names and values of a nested document."""
    for name, value in document.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{above}{name}.")
        elif isinstance(value, list | tuple):
            yield f"{above}{name}", ", ".join(map(str, value))
        else:
            yield f"{above}{name}", f"{value:.6g}" if isinstance(value, float) else _cell(value)


def _tensor(tensor: TensorSignature) -> str:
    shape = ", ".join("?" if size is None else str(size) for size in tensor.shape)
    return f"{tensor.name}: {tensor.kind} [{shape}]"


def _pairs(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


# --- latency --------------------------------------------------------------------------------


def latency_row(row: LatencyRow) -> dict[str, Any]:
    """A row with what is derived of its samples, for `--json`."""
    from bench.records import to_builtins

    names = (
        "p50_ms", "p50_interval_ms", "p90_ms", "p99_ms", "throughput_per_s", "steady", "calls",
        "import_ms", "load_ms", "first_call_ms", "cold_start_ms", "peak_rss_bytes",
    )  # fmt: skip
    return {**to_builtins(row), **{name: getattr(row, name) for name in names}}


def latency_ratio(comparison: LatencyRatio) -> dict[str, Any]:
    """The ratio of two rows, for `--json`."""
    return {
        **_compared(comparison),
        "interval": comparison.interval,
        "verdict": comparison.verdict,
    }


def print_ratios(comparisons: Sequence[LatencyRatio]) -> None:
    """Print the ratios of latency rows; nothing where there are none."""
    if not comparisons:
        return
    facts = [_compared(comparison) for comparison in comparisons]
    rows = [
        (*map(str, fact.values()), _interval(comparison.interval), comparison.verdict)
        for fact, comparison in zip(facts, comparisons, strict=True)
    ]
    _print_table((*facts[0], "95 %", "verdict"), rows, title="Ratios")
    say(
        "ratio: p50 of the first over the second, the median of the rounds, with its 95 % "
        "interval. Within 5 %, or with 1 in the interval, it is a tie."
    )
    if any(comparison.interval is None for comparison in comparisons):
        say(
            "So few processes give no interval, and can tell no difference: measure without "
            "--quick, which takes five processes a row."
        )


def _compared(comparison: LatencyRatio) -> dict[str, object]:
    first, second = comparison.first, comparison.second
    return {
        "first": f"{first.model} ({first.provider}, {first.precision})",
        "second": f"{second.model} ({second.provider}, {second.precision})",
        "device": first.device,
        "timed": first.scope,
        "batch": first.batch_size,
        "threads": first.threads,
        "ratio": round(comparison.ratio, 3),
    }


def _interval(interval: tuple[float, float] | None) -> str:
    return NOTHING if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"


# --- data sets ------------------------------------------------------------------------------


def dataset_facts(dataset: Dataset) -> dict[str, Any]:
    """What is in a data set, for `--json` and `print_dataset`."""
    from bench.records import to_builtins

    return {
        "name": dataset.name,
        "kind": dataset.kind,
        "synthetic": dataset.synthetic,
        "pictures": len(dataset.pictures),
        "classes": dict(zip(dataset.classes, dataset.counts, strict=True)),
        "groups": len({p.group for p in dataset.pictures if p.group is not None}),
        "tied": to_builtins(dataset.tied),
        "sizes": dict(Counter(f"{p.width}x{p.height}" for p in dataset.pictures).most_common()),
        "modes": dict(Counter(p.mode for p in dataset.pictures).most_common()),
        "crop": dataset.crop,
        "fingerprint": dataset.fingerprint,
        "broken": to_builtins(dataset.broken),
    }


def print_dataset(facts: Mapping[str, Any], remarks: Sequence[str]) -> None:
    """Print the facts of a data set, with remarks on its groups."""
    synthetic = ", synthetic" if facts["synthetic"] else ""
    print(f"{facts['name']}: {counted(facts['pictures'], 'picture')} ({facts['kind']}{synthetic})")
    for name, count in facts["classes"].items():
        print(f"  {name:<20} {count}")
    print(f"sizes   {_counted(facts['sizes'])}")
    print(f"modes   {_counted(facts['modes'])}")
    print(f"groups  {facts['groups'] or 'none given'}")
    for remark in remarks:
        print(f"  {remark}")
    print(f"crop    {','.join(map(str, facts['crop'])) if facts['crop'] else 'none'}")
    print(f"broken  {len(facts['broken'])}")
    for picture in facts["broken"]:
        print(f"  {picture['path']}: {picture['reason']}")


def _counted(counts: Mapping[str, int]) -> str:
    """The most frequent ones; `counts` stand in order."""
    return ", ".join(f"{name} ({count})" for name, count in list(counts.items())[:MOST_COUNTED])


def print_findings(told: Sequence[Finding]) -> None:
    """Print what an audit found, the worst of each kind, and what to do about it."""
    if not told:
        print("findings  none")
        return
    print("findings")
    for finding in told:
        print(f"  {finding.kind}: {finding.what}")
        most = _most_examples(finding.kind)
        for detail in finding.details[:most]:
            print(f"     {printable(_example(detail))}")
        left = len(finding.details) - most
        if most and left > 0:
            print(f"     and {left:,} more: --json lists all")
        print(f"     -> {finding.remedy}")


def _most_examples(kind: str) -> int:
    match kind:
        case "imbalance" | "one class" | "broken pictures":
            return 0  # named by the finding's own words, or above
        case "suspicious labels" | "conflicting labels" | "classes too small for a search":
            return MOST_TO_JUDGE  # each is for a person to judge: one example is no help
        case _:
            return 1


def _example(detail: Mapping[str, Any]) -> str:
    if "first" in detail:
        first, second = detail["first"], detail["second"]
        if detail["first_label"] != detail["second_label"]:
            first, second = (
                f"{first} [{detail['first_label']}]",
                f"{second} [{detail['second_label']}]",
            )
        return f"{first} and {second} ({detail['correlation']:.2f})"
    if "predicted" in detail:
        sure = f"{detail['probability_of_predicted']:.2f}"
        return f"{detail['picture']}: {detail['label']}, or {detail['predicted']}? ({sure})"
    if "groups" in detail:
        pictures, groups = detail["pictures"], detail["groups"]
        tied = f" of {counted(groups, 'group')}" * (groups < pictures)
        return f"{detail['class']}: {counted(pictures, 'picture')}{tied}"
    return str(detail.get("picture") or detail.get("class") or detail["example"])


# --- tables ---------------------------------------------------------------------------------


def _print_table(
    headers: Sequence[str],
    rows: Iterable[Iterable[str]],
    *,
    title: str | None = None,
    show_header: bool = True,
) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*headers, box=None, title=title, title_justify="left", show_header=show_header)
    for row in rows:
        # Text, because a name or a path may hold what rich takes for markup.
        table.add_row(*map(Text, row))
    Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS).print(table)


def _cell(value: object) -> str:
    if value is None:
        return NOTHING
    return f"{value:.3f}" if isinstance(value, float) else str(value)
