"""The `bench` command: parse, call `bench`, print (`bench.console`).

Heavy modules are imported inside the commands, so that `bench --help` answers at once.
"""

from __future__ import annotations

import errno
import json
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

try:
    import typer
except ModuleNotFoundError:
    sys.exit(
        "error: the commands need all of bench: pip install it without --no-deps; where there is "
        "onnxruntime alone, `from bench import Predictor` reads models"
    )

from bench import console
from bench.errors import (
    BenchError,
    DataError,
    InputError,
    InterruptedRun,
    WorkspaceError,
    not_among,
)
from bench.words import counted

if TYPE_CHECKING:
    from bench.data.audit.thumbnails import Features
    from bench.database import Database
    from bench.latency.measuring import LatencyJob, LatencyProtocol
    from bench.records import Audit, Dataset, StudyReport
    from bench.workspace import Workspace

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # importing its renderer takes longer than everything else
    add_completion=False,
)
data_app = typer.Typer(help="Look at data sets, split them, make them.", no_args_is_help=True)
app.add_typer(data_app, name="data")

WorkspaceOption = Annotated[
    Path, typer.Option("--workspace", envvar="BENCH_WORKSPACE", help="The run folder.")
]
StorageOption = Annotated[
    str | None,
    typer.Option(
        "--storage",
        help="SQLAlchemy URL, sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME; the default "
        "is bench.db in the workspace. Give PostgreSQL's password in PGPASSWORD or ~/.pgpass: one "
        "in the URL works, but stands in this machine's process list.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
CropOption = Annotated[str, typer.Option("--crop", help="auto, none, or LEFT,TOP,RIGHT,BOTTOM.")]
QuickLatencyOption = Annotated[
    bool,
    typer.Option("--quick-latency", help="Measure latency roughly: seconds instead of minutes."),
]
VariantsOption = Annotated[
    str | None,
    typer.Option(
        "--variants",
        help="Precisions of the files, of fp32,fp16,int8; the default is fp32,int8, and fp16 where "
        "CUDA works.",
    ),
]
ToleranceOption = Annotated[
    float,
    typer.Option(
        "--tolerance", help="Points of balanced accuracy that a variant may lose against fp32."
    ),
]
SeedsOption = Annotated[
    int,
    typer.Option(
        min=1, help="Train the winner with so many seeds and report the spread; the first ships."
    ),
]
GroupsOption = Annotated[
    Path | None,
    typer.Option("--groups", help="CSV path,group: pictures that never part in a split."),
]
GroupPatternOption = Annotated[
    str | None,
    typer.Option(
        "--group-pattern",
        help="Regular expression whose first (...) finds the group in each picture's path.",
    ),
]
TieOption = Annotated[
    bool,
    typer.Option(
        "--tie-duplicates/--no-tie-duplicates",
        help="Look for copies, crops and shifts in time, and keep each found pair on one side of "
        "every split (seconds for 1,000 pictures, minutes for 20,000; once a data set).",
    ),
]
PartsOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--parts",
        help="For --protocol file or gtzan-filtered: a CSV name,part or path,part; or, repeated, "
        "text files of names called train..., valid..., test...",
    ),
]
MOST_DRAWN_PAIRS = 30
DEVICES = ("auto", "cpu", "cuda")
LOADING = "loading torch and Optuna"  # which takes seconds


def _tell_version(asked: bool) -> None:
    if asked:
        from bench import __version__

        print(f"bench {__version__}")
        raise typer.Exit


@app.callback()
def top(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_tell_version, is_eager=True, help="Say the version, and no more."
        ),
    ] = False,
) -> None:
    """Tune picture classifiers with Optuna, export them to ONNX, measure what they do."""


@app.command(epilog="Example: bench search PICTURES --trials 50")
def search(
    data: Annotated[
        Path | None,
        typer.Argument(help="Picture folder, GTZAN folder or CSV manifest; none: the demo set."),
    ] = None,
    trials: Annotated[int, typer.Option(help="Finished trials in all, earlier runs counted.")] = 50,
    study: Annotated[str | None, typer.Option(help="Name of the study.")] = None,
    space: Annotated[str | None, typer.Option(help="Search space: a name or a YAML file.")] = None,
    backbone: Annotated[
        list[str] | None, typer.Option(help="Backbone to search instead of the space's; repeat.")
    ] = None,
    weights: Annotated[
        list[str] | None, typer.Option(help="BACKBONE=FILE: starting weights; repeat.")
    ] = None,
    folds: Annotated[int | None, typer.Option(min=2, help="Cross-validation folds.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs a fold.")] = None,
    image_size: Annotated[int | None, typer.Option(min=32, help="Side of the input, px.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=2, help="Pictures a step.")] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Trials at a time; by default one a GPU, one without a GPU."),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            help="Train on a Ray cluster: HOST:PORT, auto (this machine's), or local (start one)."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Fixes split, sampling and training.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    sampler: Annotated[str, typer.Option(help="tpe, gp, cmaes, random or grid.")] = "tpe",
    timeout: Annotated[
        str | None, typer.Option(help="End the search after 90s, 30m, 1h30m; it can go on later.")
    ] = None,
    patience: Annotated[
        int | None, typer.Option(help="End it when so many trials brought no better score.")
    ] = None,
    max_latency_ms: Annotated[
        float | None, typer.Option(help="Leave out backbones that take longer for one picture.")
    ] = None,
    trial_timeout: Annotated[
        str | None, typer.Option(help="Fail a trial that takes longer than 90s, 30m, 1h30m.")
    ] = None,
    retries: Annotated[
        int, typer.Option(help="Further tries for a trial whose worker died or ran out of memory.")
    ] = 1,
    max_failures: Annotated[int, typer.Option(help="Give up after so many failed trials.")] = 10,
    pruner: Annotated[str, typer.Option(help="racing, median, hyperband or none.")] = "racing",
    crop: CropOption = "auto",
    groups: GroupsOption = None,
    group_pattern: GroupPatternOption = None,
    tie_duplicates: TieOption = True,
    protocol: Annotated[
        str | None,
        typer.Option(
            help="grouped, gtzan-filtered, file or random. Of several, with commas, the search "
            "runs under the first that is not random; its best recipe and the best default are "
            "then trained and tested under each other one. Default: file where a test part is "
            "given, grouped where there are groups or found duplicates, otherwise random."
        ),
    ] = None,
    parts: PartsOption = None,
    test_fraction: Annotated[float, typer.Option(help="Share of the locked test set.")] = 0.2,
    cache_gb: Annotated[
        float,
        typer.Option(
            min=0,
            help="Disk for stored activations, where a GPU has no room for them in its memory; 0: "
            "compute them each time.",
        ),
    ] = 8.0,
    store: Annotated[
        str,
        typer.Option(
            help="exact, or half: round stored activations to 16 bits; the error is stated."
        ),
    ] = "exact",
    no_pretrained: Annotated[
        bool, typer.Option("--no-pretrained", help="Begin from random weights.")
    ] = False,
    no_linear_probe: Annotated[
        bool, typer.Option("--no-linear-probe", help="Begin from random heads.")
    ] = False,
    no_promote: Annotated[
        bool, typer.Option("--no-promote", help="Stop after the search.")
    ] = False,
    variants: VariantsOption = None,
    tolerance: ToleranceOption = 0.5,
    seeds: SeedsOption = 1,
    quick_latency: QuickLatencyOption = False,
    workspace: WorkspaceOption = console.RUNS,
    storage: StorageOption = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing on the way.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Search for the best recipe, then promote the best trials.

    These are trained again on all development pictures, exported, verified, scored and measured.

    A study that was interrupted goes on where it stopped when the same command is given again.
    """
    from bench.data.protocols import parse_protocols
    from bench.data.reading import parse_crop
    from bench.data.sources import check_source
    from bench.progress import make_progress
    from bench.promote.precisions import VariantChoice
    from bench.search.budget import Budget, parse_duration
    from bench.search.options import SearchOptions, parse_store

    _check_device(device)
    choice = VariantChoice.parse(variants, tolerance)
    options = SearchOptions(
        budget=Budget(
            trials=trials,
            timeout_s=parse_duration(timeout) if timeout else None,
            patience=patience,
            trial_timeout_s=parse_duration(trial_timeout) if trial_timeout else None,
            retries=retries,
            max_failures=max_failures,
        ),
        max_latency_ms=max_latency_ms,
        study=study,
        space=space,
        backbones=tuple(backbone or ()),
        folds=folds,
        epochs=epochs,
        image_size=image_size,
        batch_size=batch_size,
        workers=workers,
        ray=ray,
        seed=seed,
        device=device,
        pruner=pruner,
        sampler=sampler,
        crop=parse_crop(crop),
        test_fraction=test_fraction,
        pretrained=not no_pretrained,
        weights=_weight_files(weights or []),
        cache_gb=cache_gb,
        linear_probe=not no_linear_probe,
        store=parse_store(store),
        groups=groups,
        group_pattern=group_pattern,
        tie_duplicates=tie_duplicates,
        protocols=parse_protocols(protocol) if protocol is not None else (),
        parts=tuple(parts or ()),
    )
    if data is not None:
        check_source(data)
    if space is not None:
        from bench.space import load_space

        load_space(space)
    if ray is not None:
        from bench.search.executors import require_ray

        require_ray(ray)
    listener = make_progress(quiet=quiet)
    listener.stage(LOADING)
    with _opened(workspace, storage, create=True) as (place, database):
        from bench import pipeline
        from bench.results import load_study_report

        plan = pipeline.search(data, options, workspace=place, database=database, listener=listener)
        if no_promote:
            report = load_study_report(database, plan.study)
        else:
            with _cards(plan.study, place, database):
                report = pipeline.promote(
                    plan.study,
                    workspace=place,
                    database=database,
                    listener=listener,
                    protocol=_protocol(quick=quick_latency),
                    variants=choice,
                    seeds=seeds,
                )
    _tell_of(report, place, as_json=as_json)


@app.command(epilog="Example: bench promote demo --seeds 3")
def promote(
    study: Annotated[str, typer.Argument(help="Name of the study.")],
    variants: VariantsOption = None,
    tolerance: ToleranceOption = 0.5,
    seeds: SeedsOption = 1,
    quick_latency: QuickLatencyOption = False,
    workspace: WorkspaceOption = console.RUNS,
    storage: StorageOption = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing on the way.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Retrain, export, verify and measure the best trials of a study."""
    from bench.progress import make_progress
    from bench.promote.precisions import VariantChoice

    choice = VariantChoice.parse(variants, tolerance)
    listener = make_progress(quiet=quiet)
    with _opened(workspace, storage) as (place, database):
        from bench.results import refuse_without_trials

        refuse_without_trials(database, study)  # before torch is loaded
        listener.stage(LOADING)
        from bench import pipeline

        with _cards(study, place, database):
            report = pipeline.promote(
                study,
                workspace=place,
                database=database,
                listener=listener,
                protocol=_protocol(quick=quick_latency),
                variants=choice,
                seeds=seeds,
            )
    _tell_of(report, place, as_json=as_json)


@app.command()
def report(
    studies: Annotated[
        list[str] | None, typer.Argument(help="Studies to report; none: the latest.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write into.")] = None,
    workspace: WorkspaceOption = console.RUNS,
    storage: StorageOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a Markdown report with tables, figures and JSON."""
    from bench.results import latest_study, load_study_report, refuse_without_trials

    if out is not None:
        _check_folder_out(out)
    with _opened(workspace, storage) as (place, database):
        latest = latest_study(database)
        if latest is None:
            raise InputError(f"{place.root} holds no study yet: run `bench search` first")
        names = studies or [latest]
        for name in names:
            refuse_without_trials(database, name)
        records = [load_study_report(database, name) for name in names]
    # Not before here: they load the plotting library, and a mistake is told sooner.
    from reports.cards import write_cards
    from reports.markdown import write_report
    from reports.paths import as_reached
    from reports.summary import headlines

    folder = out or (place.report(names[0]) if len(names) == 1 else place.joint_report)
    root = Path(console.relative(place.root))
    paths = write_report(records, folder, root=root)
    for record in records:
        write_cards(record, root)
    if as_json:
        console.print_json({"report": str(paths.markdown), "json": str(paths.json)})
    else:
        for record in records:
            print(f"Report on {record.study}")
            for line in headlines(as_reached(record, root)):
                print(line)
        print(console.relative(paths.markdown))


@app.command(epilog="Example: bench reproduce demo best")
def reproduce(
    study: Annotated[str, typer.Argument(help="Name of the study.")],
    trial: Annotated[str, typer.Argument(help="Number of the trial, or `best`.")],
    fresh: Annotated[
        bool,
        typer.Option("--fresh", help="Decode pictures and compute activations anew as well."),
    ] = False,
    workspace: WorkspaceOption = console.RUNS,
    storage: StorageOption = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing on the way.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Train a recorded trial again and compare it with the record.

    Scores and predictions are compared; the study stays as it is. Ends with 1 where they differ
    by more than the spread over the folds.
    """
    from bench.progress import make_progress

    listener = make_progress(quiet=quiet)
    with _opened(workspace, storage) as (place, database):
        from bench.results import load_plan

        load_plan(database, study)  # a wrong name is told before what takes seconds to load
        listener.stage(LOADING)
        from bench.reproduce import reproduce as train_again

        reproduction = train_again(
            study,
            trial,
            workspace=place,
            database=database,
            say=listener.stage,
            fresh=fresh,
        )
    if as_json:
        console.print_json(console.reproduction_document(reproduction))
    else:
        console.print_reproduction(reproduction)
    reproduction.refuse_difference()


@app.command(epilog="Example: bench predict model.onnx picture.png FOLDER")
def predict(
    model: Annotated[Path, typer.Argument(help="An ONNX file made by bench.")],
    pictures: Annotated[list[Path], typer.Argument(help="Pictures, or folders of pictures.")],
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    top: Annotated[int, typer.Option(min=1, help="Classes to print for each picture.")] = 3,
    as_json: JsonOption = False,
) -> None:
    """Classify pictures with an ONNX file and nothing else."""
    from bench.runtime.predictor import Predictor, find_pictures

    _check_device(device)
    files = [file for given in pictures for file in find_pictures(given)]
    predictor = Predictor(model, device=device)  # type: ignore[arg-type]
    predictions, broken = predictor.predict_readable(files)
    if as_json:
        console.print_json(
            [
                {
                    "picture": prediction.source,
                    "label": prediction.label,
                    "probabilities": prediction.probabilities,
                }
                for prediction in predictions
            ]
        )
    else:
        for prediction in predictions:
            best = "  ".join(f"{name} {share:.3f}" for name, share in prediction.top(top))
            print(console.printable(f"{prediction.source}: {best}"))
    if broken:
        raise DataError("; ".join(str(error) for error in broken))


@app.command(epilog="Example: bench inspect model.onnx")
def inspect(
    model: Annotated[Path, typer.Argument(help="An ONNX file, made by bench or not.")],
    as_json: JsonOption = False,
) -> None:
    """Show what an ONNX file says of itself; nothing is run."""
    from bench.inspection import inspect_model

    inspection = inspect_model(model)
    if as_json:
        console.print_record(inspection)
    else:
        console.print_inspection(inspection)


@app.command(epilog="Example: bench latency A.onnx B.onnx --batch 1,8")
def latency(
    models: Annotated[list[Path], typer.Argument(help="ONNX files, made by bench or not.")],
    device: Annotated[str, typer.Option(help="cpu, cuda, tensorrt; several: cpu,cuda.")] = "cpu",
    batch: Annotated[str, typer.Option(help="Batch sizes, such as 1,8,32.")] = "1,8",
    threads: Annotated[
        str | None,
        typer.Option(help="CPU threads in one call: 1,2,4, or sweep; default: physical cores."),
    ] = None,
    timed: Annotated[
        str,
        typer.Option(
            help="model (the network), end-to-end (picture file to label), device (a GPU's memory "
            "to itself); several with commas."
        ),
    ] = "model",
    picture: Annotated[
        Path | None, typer.Option(help="For end-to-end rows; without it one is made.")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(min=1, help="Side in pixels, where the model leaves it open.")
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="Also time torch, torch-compile, openvino; with commas.")
    ] = None,
    tf32: Annotated[bool, typer.Option("--tf32", help="Let a GPU round products to TF32.")] = False,
    cuda_graph: Annotated[
        bool, typer.Option("--cuda-graph", help="Device-resident rows replay a CUDA graph.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Seconds instead of minutes; rougher, no intervals.")
    ] = False,
    time_limit: Annotated[
        float, typer.Option(help="Seconds after which a measuring process is stopped.")
    ] = 600.0,
    out: Annotated[
        Path | None, typer.Option(help="JSON file for every single call; default: the workspace.")
    ] = None,
    workspace: WorkspaceOption = console.RUNS,
    as_json: JsonOption = False,
) -> None:
    """Measure latency, each row in fresh processes."""
    from dataclasses import replace

    from bench.latency.measuring import measure_many
    from bench.latency.plan import LatencyPlan, chosen, thread_counts, whole_numbers
    from bench.latency.ratios import compare
    from bench.records import Engine, LatencyScope, to_builtins
    from bench.runtime.session import Device

    plan = LatencyPlan(
        models=tuple(models),
        devices=chosen("--device", device, Device),
        batch_sizes=whole_numbers("--batch", batch),
        threads=thread_counts(threads),
        scopes=chosen("--timed", timed, LatencyScope),
        against=chosen("--against", against, Engine) if against else (),
        picture=picture,
        image_size=image_size,
        tf32=tf32,
        cuda_graph=cuda_graph,
    )
    protocol = replace(_protocol(quick=quick), limit_s=time_limit)
    jobs = plan.jobs()
    if out is not None:
        _check_file_out(out)
    schedule = protocol.schedule
    least_s = len(jobs) * protocol.processes * (schedule.warmup_s + schedule.measure_s)
    console.say(
        f"{counted(len(jobs), 'row')} of {counted(protocol.processes, 'process', 'processes')} "
        f"each, at least {least_s:.0f} s"
    )
    rows = measure_many(jobs, protocol=protocol, progress=_say_round)
    comparisons = compare(rows)
    document = {
        "protocol": to_builtins(protocol),
        "rows": [console.latency_row(row) for row in rows],
        "ratios": [console.latency_ratio(comparison) for comparison in comparisons],
    }
    stored = _store_latencies(document, out, workspace)
    console.say(f"every single call is in {console.relative(stored)}")
    if as_json:
        console.print_json(document)
        return
    from reports.latency import latency_tables
    from reports.table import without_repeats

    for table in latency_tables(rows):
        console.print_table(without_repeats(table))
    console.print_ratios(comparisons)


@app.command()
def status(
    study: Annotated[str | None, typer.Argument(help="A study; none: all of them.")] = None,
    workspace: WorkspaceOption = console.RUNS,
    storage: StorageOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show how far studies are, and what runs at this moment."""
    from datetime import UTC, datetime

    from bench.results import load_progress

    with _opened(workspace, storage) as (place, database):
        if study is None and not database.studies():
            raise InputError(f"{place.root} holds no study yet: run `bench search` first")
        names = [study] if study else database.studies()
        all_progress = [load_progress(database, name, datetime.now(UTC)) for name in names]
    if as_json:
        console.print_json([console.status_row(progress) for progress in all_progress])
    else:
        console.print_status(all_progress)


@app.command()
def dashboard(
    host: Annotated[str, typer.Option(help="It has no authentication: stay local.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8080,
    workspace: WorkspaceOption = console.RUNS,
    storage: StorageOption = None,
) -> None:
    """Browse the studies in optuna-dashboard."""
    from optuna.artifacts import FileSystemArtifactStore
    from optuna_dashboard import run_server

    with _opened(workspace, storage) as (place, database):
        place.artifacts.mkdir(parents=True, exist_ok=True)
        console.say(f"optuna-dashboard on http://{host}:{port}/ (Ctrl-C ends it)")
        with suppress(KeyboardInterrupt), _address(host, port):
            run_server(
                database.storage,
                host=host,
                port=port,
                artifact_store=FileSystemArtifactStore(str(place.artifacts)),
            )


@app.command()
def spaces(
    name: Annotated[str | None, typer.Argument(help="Show this one's file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the search spaces, or show one."""
    from bench.space import list_spaces, load_space, space_source

    if name is not None:
        space = load_space(name)
        if as_json:
            console.print_json(space.as_dict())
        else:
            print(space_source(name), end="")
        return
    if as_json:
        console.print_json([space.as_dict() for space in list_spaces()])
    else:
        console.print_spaces(list_spaces())


@app.command()
def doctor(workspace: WorkspaceOption = console.RUNS, as_json: JsonOption = False) -> None:
    """Say what this machine can do, and how to mend the rest."""
    from dataclasses import asdict

    from bench.doctor import diagnose

    findings = diagnose(workspace)
    if as_json:
        console.print_json([asdict(finding) for finding in findings])
    else:
        console.print_diagnosis(findings)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


# --- data -----------------------------------------------------------------------------------


@data_app.command("check", epilog="Example: bench data check PICTURES --out DRAWN")
def data_check(
    data: Annotated[Path, typer.Argument(help="Picture folder, GTZAN folder or CSV manifest.")],
    crop: CropOption = "auto",
    groups: GroupsOption = None,
    group_pattern: GroupPatternOption = None,
    backbone: Annotated[
        str,
        typer.Option(
            help="Its pretrained features judge the labels; none: small grey pictures do, without "
            "loading torch."
        ),
    ] = "efficientnet_lite0",
    out: Annotated[
        Path | None, typer.Option(help="Folder to draw the worst pairs into, side by side.")
    ] = None,
    as_json: JsonOption = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing on the way.")] = False,
) -> None:
    """Say what is in a data set, and what misleads.

    Looked for: duplicates and pieces of one recording, labels that contradict one another or the
    pictures, broken files, pictures without a group where others have one, groups in file names,
    shortcuts, imbalance. Findings are no errors: exit code 0.
    """
    from dataclasses import asdict

    from bench.data.audit.check import audit, findings
    from bench.data.groups import load_groups, remarks
    from bench.data.reading import parse_crop, read_pictures
    from bench.data.sources import list_source
    from bench.records import to_builtins
    from bench.steps import show_steps

    if out is not None:
        _check_folder_out(out)
    with show_steps(quiet=quiet) as steps:
        steps.begin(f"reading the pictures of {data}")
        listing = list_source(data)
        read = read_pictures(listing, crop=parse_crop(crop), progress=steps.reach)
    dataset = load_groups(read, file=groups, pattern=group_pattern)
    passed_over = listing.passed_over
    facts = {**console.dataset_facts(dataset), "passed_over": asdict(passed_over)}
    if not as_json:
        console.print_dataset(facts, remarks(dataset))
        if passed_over.in_words is not None:
            print(console.printable(passed_over.in_words))
    with show_steps(quiet=quiet) as steps:
        if backbone != "none":
            steps.begin(f"loading {backbone}")
        with _features(backbone) as features:
            found = audit(dataset, features, steps)
    told = findings(dataset, found)
    pages = _draw_pairs(dataset, found, out) if out else ()
    if as_json:
        labels = {
            "features": found.labels.features,
            "balanced_accuracy": found.labels.balanced_accuracy,
            "note": found.labels.note,
        }
        console.print_json(
            {
                **facts,
                "labels": labels,
                "pair_thresholds": dict(zip(dataset.classes, found.thresholds, strict=True)),
                "findings": [to_builtins(asdict(finding)) for finding in told],
                "figures": [str(page) for page in pages],
            }
        )
        return
    console.print_findings(told)
    if found.labels.note:
        print(f"note: {found.labels.note}")
    for page in pages:
        print(page)


@data_app.command("split", epilog="Example: bench data split PICTURES --folds 5")
def data_split(
    data: Annotated[Path, typer.Argument(help="Picture folder, GTZAN folder or CSV manifest.")],
    folds: Annotated[int, typer.Option(min=2, help="Cross-validation folds.")] = 5,
    test_fraction: Annotated[float, typer.Option(help="Share of the locked test set.")] = 0.2,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    protocol: Annotated[
        str | None, typer.Option(help="grouped, gtzan-filtered, file or random.")
    ] = None,
    groups: GroupsOption = None,
    group_pattern: GroupPatternOption = None,
    tie_duplicates: TieOption = True,
    parts: PartsOption = None,
) -> None:
    """Print the split that a search would use, as CSV.

    Its columns are path,label,group,part. Pictures of one group stay together, whether it was
    given or they were found to be duplicates.
    """
    import csv

    from bench.data.audit.tying import tie_duplicates as tied
    from bench.data.groups import conflict_remark, load_groups, remarks
    from bench.data.protocols import make_splits, parse_protocols
    from bench.data.reading import load_dataset

    chosen = parse_protocols(protocol) if protocol is not None else ()
    if len(chosen) > 1:
        raise InputError("`bench data split` prints one split: give --protocol one name")
    dataset = load_groups(load_dataset(data), file=groups, pattern=group_pattern)
    if tie_duplicates:
        dataset = tied(dataset, tell=console.say)
    (split,), said = make_splits(
        dataset,
        chosen,
        folds=folds,
        test_fraction=test_fraction,
        seed=seed,
        lists=tuple(parts or ()),
    )
    for remark in (*remarks(dataset), *conflict_remark(dataset), *said):
        console.say(remark)
    part_of = dict.fromkeys(split.test, "test") | dict.fromkeys(split.left_out, "left out")
    part_of |= {index: f"fold {k + 1}" for k, fold in enumerate(split.folds) for index in fold}
    writer = csv.writer(sys.stdout)
    writer.writerow(["path", "label", "group", "part"])
    for index, (picture, group) in enumerate(zip(dataset.pictures, dataset.sets, strict=True)):
        label = dataset.classes[picture.label]
        writer.writerow([picture.path, label, group or "", part_of[index]])


@data_app.command("demo", epilog="Example: bench data demo DEMO")
def data_demo(
    out: Annotated[Path, typer.Argument(help="Folder to make.")],
    seed: Annotated[int, typer.Option(min=0)] = 0,
    as_json: JsonOption = False,
) -> None:
    """Synthesise the demo set: music as mel spectrograms."""
    from dataclasses import asdict

    from bench.data.demo import make_demo

    made = make_demo(out, seed=seed)
    if as_json:
        console.print_json(asdict(made))
    else:
        how = "made" if made.made else "already there"
        pictures = counted(made.pictures, "synthetic picture")
        print(f"{out}: {pictures} of {counted(len(made.classes), 'style')}, {how}")


@data_app.command("spectrograms", epilog="Example: bench data spectrograms AUDIO PICTURES")
def data_spectrograms(
    audio: Annotated[Path, typer.Argument(help="Folder <class>/<recording>.")],
    out: Annotated[
        Path, typer.Argument(help="Folder to make, in GTZAN's layout; it must be new or empty.")
    ],
    clip_s: Annotated[float, typer.Option(help="Length of a clip in seconds.")] = 30.0,
    most_clips: Annotated[
        int | None,
        typer.Option(
            min=1, help="Clips a recording, spread over it evenly; by default all that it has."
        ),
    ] = None,
    group_pattern: Annotated[
        str | None,
        typer.Option(
            "--group-pattern",
            help="Regular expression whose first (...) finds the group in each recording's "
            "<class>/<recording>; without it each recording is a group.",
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing on the way.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Draw recordings as mel spectrograms, each a group.

    Recordings may have any format of the installed libsndfile (pip install 'bench[audio]' brings
    one): .wav, .flac, .mp3, .ogg, .oga, .opus, .aiff, .aif, .au, .caf, .w64 and rarer ones. Other
    files, and those that do not lie in a class folder itself, are left out and named. A class
    that yields no picture is an error.

    A recording is mixed to mono and cut into clips that follow one another. A remainder of at
    least half a clip becomes a clip that ends with the recording; a shorter one is dropped. A
    recording shorter than a clip is padded with silence, or left out if it is shorter than half
    of one. Silent clips (no sample above -80 dB of full scale) are left out.

    Beside the pictures lies groups.csv with the columns path,group,start_s: the paths are
    relative to OUT/images_original, start_s is the second at which the clip starts.
    """
    from dataclasses import asdict

    from bench.data.recordings import Cutting, render_folder
    from bench.steps import show_steps

    cutting = Cutting(clip_s=clip_s, most_clips=most_clips)
    with show_steps(quiet=quiet) as steps:
        made = render_folder(audio, out, cutting, group_pattern=group_pattern, steps=steps)
    for remark in made.remarks():
        console.say(remark)
    if as_json:
        console.print_json(asdict(made))
    else:
        recordings = counted(made.recordings, "recording")
        print(f"{out}: {counted(made.pictures, 'picture')} of {recordings}")
        console.say(f"next: bench data check {shlex.quote(str(out))}")


# --- helpers --------------------------------------------------------------------------------


@contextmanager
def _address(host: str, port: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot serve on {host}:{port} ({error.strerror}): give another --port"
        ) from error


@contextmanager
def _opened(
    workspace: Path, storage: str | None, *, create: bool = False
) -> Iterator[tuple[Workspace, Database]]:
    from bench.database import Database
    from bench.workspace import Workspace

    place = Workspace(workspace.expanduser().absolute())
    if create:
        place.create()
    elif storage is None and not place.database.exists():
        raise InputError(
            f"{place.root} holds no study yet: run `bench search` first, or name the run folder "
            "with --workspace"
        )
    with Database.open(storage or place.default_storage) as database:
        yield place, database


@contextmanager
def _cards(study: str, place: Workspace, database: Database) -> Iterator[None]:
    """Write a card beside each model that the block promotes, also where others of them fail."""
    from bench.results import load_study_report
    from reports.cards import write_cards

    root = Path(console.relative(place.root))
    try:
        yield
    except BenchError:
        if database.load_models(study):
            write_cards(load_study_report(database, study), root)
        raise
    write_cards(load_study_report(database, study), root)


def _check_device(device: str) -> None:
    if device not in DEVICES:
        raise not_among("--device", device, DEVICES)


@contextmanager
def _features(backbone: str) -> Iterator[Features | None]:
    """What judges labels; None stands for small pictures."""
    if backbone == "none":
        yield None
        return
    from bench.data.audit.thumbnails import Features
    from bench.models.features import audit_features

    with audit_features(backbone) as compute:
        yield Features(f"features of {backbone}", compute.geometry, compute)


def _draw_pairs(dataset: Dataset, found: Audit, folder: Path) -> tuple[Path, ...]:
    from bench.data.audit.check import worst_pairs
    from reports.pairs import rows_of, write_pages

    return write_pages(rows_of(dataset, worst_pairs(dataset, found)[:MOST_DRAWN_PAIRS]), folder)


def _weight_files(pairs: Sequence[str]) -> dict[str, Path]:
    files = {}
    for pair in pairs:
        name, equals, file = pair.partition("=")
        if not (name and equals and file):
            raise InputError(f"--weights takes BACKBONE=FILE, not {pair!r}")
        files[name] = Path(file).expanduser()
    return files


def _tell_of(report: StudyReport, place: Workspace, *, as_json: bool) -> None:
    if as_json:
        console.print_record(report)
    else:
        console.print_summary(report, place)


def _protocol(*, quick: bool) -> LatencyProtocol:
    from bench.latency.measuring import LatencyProtocol

    return LatencyProtocol.quick() if quick else LatencyProtocol()


def _say_round(_job: LatencyJob, finished: int, planned: int) -> None:
    console.say(f"process {finished} of {planned}")


def _check_folder_out(out: Path) -> None:
    """Refuse a folder that nothing can be written into, before there is work to be lost."""
    from bench.workspace import make_folder

    make_folder(out.expanduser(), "--out", "give another folder")


def _check_file_out(out: Path) -> None:
    """Refuse a file that cannot be written, before there is work to be lost."""
    if out.expanduser().is_dir():
        raise InputError(f"--out {out} is a folder: give a file to write into")
    _check_folder_out(out.expanduser().parent)


def _store_latencies(document: dict[str, Any], out: Path | None, workspace: Path) -> Path:
    from datetime import UTC, datetime

    from bench.records import to_builtins
    from bench.workspace import Workspace, describe_environment, write_atomic

    folder = Workspace(workspace.expanduser().absolute()).latencies
    target = out or folder / f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}.json"
    whole = {"environment": to_builtins(describe_environment(None)), **document}
    write_atomic(target.expanduser().absolute(), json.dumps(whole, ensure_ascii=False).encode())
    return target


def _end(error: BenchError) -> NoReturn:
    console.print_error(error)
    sys.exit(error.exit_code)


def _raise_interrupt(_signal: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _without_password(argument: str) -> str:
    if "://" not in argument:
        return argument
    from bench.database import safe_url

    start = argument.find("=") + 1 if argument.startswith("-") else 0  # --storage=URL
    return argument[:start] + safe_url(argument[start:])


def main() -> None:
    """Run the command line; a `BenchError` becomes one message and its exit code."""
    signal.signal(signal.SIGTERM, _raise_interrupt)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        # Typer hands exit codes back instead of raising, that of Ctrl-C among them.
        code = app(standalone_mode=False)
        if code == InterruptedRun.exit_code:
            raise KeyboardInterrupt
        sys.exit(code)
    except InterruptedRun as stopped:
        again = shlex.join(["bench", *map(_without_password, sys.argv[1:])])
        _end(InterruptedRun(f"{stopped}. Go on with: {again}"))
    except BenchError as error:
        _end(error)
    except KeyboardInterrupt:
        _end(InterruptedRun("stopped"))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            _end(
                WorkspaceError(
                    f"the disk is full ({error.strerror}): what is finished is stored; make room, "
                    "and give the same command again"
                )
            )
        if error.filename is None:
            raise
        _end(InputError(f"{error.filename}: {error.strerror}"))
    except Exception as error:
        # Typer's usage errors, whose base class it does not export, show themselves.
        show = getattr(error, "show", None)
        if show is None:
            raise
        show()
        command = getattr(error, "cmd", None)
        if command is not None and command.epilog:
            console.say(command.epilog)
        sys.exit(InputError.exit_code)


if __name__ == "__main__":
    main()
