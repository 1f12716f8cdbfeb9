"""The `bench` command: parse, call `bench`, print.

Heavy modules are imported inside the commands, so that `bench --help` answers at once. Results go
to standard output, everything else to standard error.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from bench.errors import BenchError, DataError, InputError, InterruptedRun

if TYPE_CHECKING:
    from bench.data.audit.check import Features, Finding
    from bench.database import Database
    from bench.records import Audit, Dataset, LatencyRow, StudyReport, TrialState
    from bench.results import StudyProgress
    from bench.runtime.predictor import Prediction, Predictor
    from bench.workspace import Workspace

app = typer.Typer(
    help="Tune picture classifiers with Optuna, export them to ONNX, measure what they do.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # importing its renderer takes longer than everything else
    add_completion=False,
)
data_app = typer.Typer(
    help="Look at data sets, split them, make the demo set.", no_args_is_help=True
)
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
RUNS = Path("runs")
FEATURE_SIZE = 128  # px; `data check` judges labels by features of pictures of this side
MOST_DRAWN_PAIRS = 30


@app.command()
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
    test_fraction: Annotated[float, typer.Option(help="Share of the locked test set.")] = 0.2,
    cache_gb: Annotated[
        float, typer.Option(min=0, help="Disk for stored activations; 0: compute them each time.")
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
    quick_latency: QuickLatencyOption = False,
    workspace: WorkspaceOption = RUNS,
    storage: StorageOption = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing on the way.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Search for the best recipe, then retrain, export, verify and measure the best trials.

    A study that was interrupted goes on where it stopped when the same command is given again.
    """
    # What needs no torch is checked first: importing it takes seconds.
    from bench.search.budget import Budget, parse_duration

    files = _weight_files(weights or [])
    _check_device(device)
    budget = Budget(
        trials=trials,
        timeout_s=parse_duration(timeout) if timeout else None,
        patience=patience,
        trial_timeout_s=parse_duration(trial_timeout) if trial_timeout else None,
        retries=retries,
        max_failures=max_failures,
    )
    if data is not None and not data.expanduser().exists():
        raise InputError(f"{data}: no such folder or file")
    if space is not None:
        from bench.space import load_space

        load_space(space)
    if ray is not None:
        from bench.search.executors import require_ray

        require_ray(ray)

    from bench import pipeline
    from bench.data.sources import parse_crop
    from bench.progress import make_progress
    from bench.results import load_study_report

    options = pipeline.SearchOptions(
        budget=budget,
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
        weights=files,
        cache_gb=cache_gb,
        linear_probe=not no_linear_probe,
        store=store,
    )
    listener = make_progress(quiet=quiet)
    with _opened(workspace, storage, create=True) as (place, database):
        plan = pipeline.search(data, options, workspace=place, database=database, listener=listener)
        if no_promote:
            report = load_study_report(database, plan.study)
        else:
            report = pipeline.promote(
                plan.study,
                workspace=place,
                database=database,
                listener=listener,
                protocol=_protocol(quick=quick_latency),
            )
    _print_summary(report, place, as_json=as_json)


@app.command()
def promote(
    study: Annotated[str, typer.Argument(help="Name of the study.")],
    quick_latency: QuickLatencyOption = False,
    workspace: WorkspaceOption = RUNS,
    storage: StorageOption = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing on the way.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Retrain, export, verify and measure the best trials of a study."""
    from bench import pipeline
    from bench.progress import make_progress

    with _opened(workspace, storage) as (place, database):
        report = pipeline.promote(
            study,
            workspace=place,
            database=database,
            listener=make_progress(quiet=quiet),
            protocol=_protocol(quick=quick_latency),
        )
    _print_summary(report, place, as_json=as_json)


@app.command()
def report(
    studies: Annotated[
        list[str] | None, typer.Argument(help="Studies to report; none: the latest.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write into.")] = None,
    workspace: WorkspaceOption = RUNS,
    storage: StorageOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a Markdown report with tables, figures and JSON."""
    from bench.results import load_study_report
    from reports.markdown import write_report

    with _opened(workspace, storage) as (place, database):
        names = studies or list(database.studies()[-1:])
        if not names:
            raise InputError(f"{place.root} holds no study yet: run `bench search` first")
        records = [load_study_report(database, name) for name in names]
    folder = out or (place.report(names[0]) if len(names) == 1 else place.joint_report)
    paths = write_report(records, folder)
    if as_json:
        _print_json({"report": str(paths.markdown), "json": str(paths.json)})
    else:
        print(paths.markdown)


@app.command()
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
    broken: list[DataError] = []
    try:
        predictions = predictor.predict(files)
    except DataError:
        predictions, broken = _predict_one_by_one(predictor, files)
    if as_json:
        _print_json(
            [
                {
                    "picture": prediction.source,
                    "label": prediction.label,
                    "probabilities": prediction.probabilities,
                }
                for prediction in predictions
            ]
        )
        _fail_for(broken)
        return
    for prediction in predictions:
        best = "  ".join(f"{name} {share:.3f}" for name, share in prediction.top(top))
        print(f"{prediction.source}: {best}")
    _fail_for(broken)


@app.command()
def latency(
    models: Annotated[list[Path], typer.Argument(help="ONNX files.")],
    device: Annotated[str, typer.Option(help="cpu, cuda, or both: cpu,cuda.")] = "cpu",
    batch: Annotated[str, typer.Option(help="Batch sizes, such as 1,8.")] = "1,8",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads within one call.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Seconds instead of minutes; rougher.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure latency, each row in fresh processes."""
    from bench.latency import LatencyJob, measure_many

    devices = device.split(",")
    unknown = [name for name in devices if name not in ("cpu", "cuda")]
    if unknown:
        raise InputError(f"--device takes cpu, cuda or cpu,cuda, not {device!r}")
    try:
        batch_sizes = [int(size) for size in batch.split(",")]
    except ValueError:
        raise InputError(f"--batch takes whole numbers such as 1,8, not {batch!r}") from None
    jobs = [
        LatencyJob(
            path=model,
            model=f"{model.absolute().parent.name}/{model.name}",
            architecture_key=str(model),
            device=name,  # type: ignore[arg-type]
            batch_size=size,
            threads=threads,
        )
        for model in models
        for name in devices
        for size in batch_sizes
    ]
    rows = measure_many(jobs, protocol=_protocol(quick=quick))
    if as_json:
        from bench.records import to_builtins

        _print_json([{**to_builtins(row), **_derived(row)} for row in rows])
    else:
        _print_latencies(rows)


@app.command()
def status(
    study: Annotated[str | None, typer.Argument(help="A study; none: all of them.")] = None,
    workspace: WorkspaceOption = RUNS,
    storage: StorageOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show how far studies are, running or not, and what runs at this moment."""
    from datetime import UTC, datetime

    from bench.results import load_progress

    with _opened(workspace, storage) as (place, database):
        if study is None and not database.studies():
            raise InputError(f"{place.root} holds no study yet: run `bench search` first")
        names = [study] if study else database.studies()
        all_progress = [load_progress(database, name, datetime.now(UTC)) for name in names]
    if as_json:
        _print_json([_status_row(progress) for progress in all_progress])
        return
    _print_status(all_progress)


@app.command()
def dashboard(
    host: Annotated[str, typer.Option(help="It has no authentication: stay local.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8080,
    workspace: WorkspaceOption = RUNS,
    storage: StorageOption = None,
) -> None:
    """Browse the studies in optuna-dashboard."""
    from optuna.artifacts import FileSystemArtifactStore
    from optuna_dashboard import run_server

    with _opened(workspace, storage) as (place, database):
        place.artifacts.mkdir(parents=True, exist_ok=True)
        _say(f"optuna-dashboard on http://{host}:{port}/ (Ctrl-C ends it)")
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
    from rich.table import Table

    from bench.space import list_spaces, load_space, space_source

    if name is not None:
        space = load_space(name)
        if as_json:
            _print_json(space.as_dict())
        else:
            print(space_source(name), end="")
        return
    if as_json:
        _print_json([space.as_dict() for space in list_spaces()])
        return
    table = Table("space", "backbones", "folds x epochs", "description", box=None)
    for space in list_spaces():
        shape = f"{space.folds} x {space.epochs}"
        table.add_row(space.name, ", ".join(space.backbones), shape, space.description)
    _print_rich(table)


@app.command()
def doctor(workspace: WorkspaceOption = RUNS, as_json: JsonOption = False) -> None:
    """Check what this machine can do, and say how to mend what it cannot."""
    from dataclasses import asdict

    from bench.doctor import diagnose

    findings = diagnose(workspace)
    if as_json:
        _print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            print(f"{'ok ' if finding.ok else 'BAD'}  {finding.name}: {finding.detail}")
            if finding.remedy:
                print(f"     -> {finding.remedy}")
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


# --- data -----------------------------------------------------------------------------------


@data_app.command("check")
def data_check(
    data: Annotated[Path, typer.Argument(help="Picture folder, GTZAN folder or CSV manifest.")],
    crop: CropOption = "auto",
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
) -> None:
    """Print what is in a data set, and what in it would make scores mislead.

    Looked for: duplicates and pieces of one recording, labels that contradict one another or the
    pictures, groups in file names, shortcuts, imbalance. Findings are no errors: exit code 0.
    """
    from dataclasses import asdict

    from bench.data.audit.check import audit, findings
    from bench.data.sources import load_dataset, parse_crop
    from bench.records import to_builtins

    dataset = load_dataset(data, crop=parse_crop(crop))
    facts = _dataset_facts(dataset)
    if not as_json:
        _print_dataset(facts)
    found = audit(dataset, _features(backbone))
    told = findings(dataset, found)
    pages = _draw_pairs(dataset, found, out) if out else ()
    if as_json:
        labels = {
            "features": found.labels.features,
            "balanced_accuracy": found.labels.balanced_accuracy,
            "note": found.labels.note,
        }
        _print_json(
            {
                **facts,
                "labels": labels,
                "pair_thresholds": dict(zip(dataset.classes, found.thresholds, strict=True)),
                "findings": [to_builtins(asdict(finding)) for finding in told],
                "figures": [str(page) for page in pages],
            }
        )
        return
    _print_findings(told)
    if found.labels.note:
        print(f"note: {found.labels.note}")
    for page in pages:
        print(page)


@data_app.command("split")
def data_split(
    data: Annotated[Path, typer.Argument(help="Picture folder, GTZAN folder or CSV manifest.")],
    folds: Annotated[int, typer.Option(min=2, help="Cross-validation folds.")] = 5,
    test_fraction: Annotated[float, typer.Option(help="Share of the locked test set.")] = 0.2,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Print the split that a search would use, as CSV: path,label,group,part."""
    import csv

    from bench.data.sources import load_dataset
    from bench.data.splits import make_split

    dataset = load_dataset(data)
    split = make_split(dataset, folds=folds, test_fraction=test_fraction, seed=seed)
    parts = dict.fromkeys(split.test, "test")
    parts |= {index: f"fold {k + 1}" for k, fold in enumerate(split.folds) for index in fold}
    writer = csv.writer(sys.stdout)
    writer.writerow(["path", "label", "group", "part"])
    for index, picture in enumerate(dataset.pictures):
        label = dataset.classes[picture.label]
        writer.writerow([picture.path, label, picture.group or "", parts[index]])


@data_app.command("demo")
def data_demo(
    out: Annotated[Path, typer.Argument(help="Folder to make.")],
    seed: Annotated[int, typer.Option(min=0)] = 0,
    as_json: JsonOption = False,
) -> None:
    """Synthesise the demo set: short pieces of music as mel-spectrogram pictures."""
    from dataclasses import asdict

    from bench.data.demo import make_demo

    made = make_demo(out, seed=seed)
    if as_json:
        _print_json(asdict(made))
    else:
        how = "made" if made.made else "already there"
        print(f"{out}: {made.pictures} synthetic pictures of {len(made.classes)} styles, {how}")


@data_app.command("spectrograms")
def data_spectrograms(
    audio: Annotated[Path, typer.Argument(help="Folder <class>/<recording>.")],
    out: Annotated[Path, typer.Argument(help="Folder to make, in GTZAN's layout.")],
    clip_s: Annotated[float, typer.Option(help="Length of a clip in seconds.")] = 30.0,
    as_json: JsonOption = False,
) -> None:
    """Render recordings as mel-spectrogram pictures, with the recording as group."""
    from dataclasses import asdict

    from bench.data.spectrograms import render_folder

    made = render_folder(audio, out, clip_s)
    for broken in made.broken:
        _say(f"left out: {broken}")
    if as_json:
        _print_json(asdict(made))
    else:
        print(f"{out}: {made.pictures} pictures of {made.recordings} recordings")


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


def _check_device(device: str) -> None:
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"--device takes auto, cpu or cuda, not {device!r}")


def _predict_one_by_one(
    predictor: Predictor, files: Sequence[Path]
) -> tuple[list[Prediction], list[DataError]]:
    """Predict what can be predicted: one broken picture must not cost the others."""
    predictions, broken = [], []
    for file in files:
        try:
            predictions += predictor.predict(file)
        except DataError as error:
            broken.append(error)
    return predictions, broken


def _fail_for(broken: Sequence[DataError]) -> None:
    """End with the error of pictures that could not be predicted, if there are any."""
    if broken:
        raise DataError("; ".join(str(error) for error in broken))


def _dataset_facts(dataset: Dataset) -> dict[str, Any]:
    from collections import Counter

    from bench.records import to_builtins

    return {
        "name": dataset.name,
        "kind": dataset.kind,
        "synthetic": dataset.synthetic,
        "pictures": len(dataset.pictures),
        "classes": dict(zip(dataset.classes, dataset.counts, strict=True)),
        "groups": len({p.group for p in dataset.pictures if p.group is not None}),
        "sizes": dict(Counter(f"{p.width}x{p.height}" for p in dataset.pictures).most_common()),
        "modes": dict(Counter(p.mode for p in dataset.pictures).most_common()),
        "crop": dataset.crop,
        "fingerprint": dataset.fingerprint,
        "broken": to_builtins(dataset.broken),
    }


def _print_dataset(facts: dict[str, Any]) -> None:
    synthetic = ", synthetic" if facts["synthetic"] else ""
    print(f"{facts['name']}: {facts['pictures']} pictures ({facts['kind']}{synthetic})")
    for name, count in facts["classes"].items():
        print(f"  {name:<20} {count}")
    print(f"sizes   {_counted(facts['sizes'])}")
    print(f"modes   {_counted(facts['modes'])}")
    print(f"groups  {facts['groups'] or 'none given'}")
    print(f"crop    {','.join(map(str, facts['crop'])) if facts['crop'] else 'none'}")
    print(f"broken  {len(facts['broken'])}")
    for picture in facts["broken"]:
        print(f"  {picture['path']}: {picture['reason']}")


def _features(backbone: str) -> Features | None:
    """What judges labels; None stands for small pictures."""
    if backbone == "none":
        return None
    from bench.data.audit.check import Features
    from bench.models.features import pooled_features

    return Features(
        name=f"features of {backbone}",
        compute=lambda dataset: pooled_features(dataset, backbone, image_size=FEATURE_SIZE),
    )


def _draw_pairs(dataset: Dataset, found: Audit, folder: Path) -> tuple[Path, ...]:
    from bench.data.audit.check import worst_pairs
    from reports.pairs import PictureRow, write_pages

    rows = []
    for pair in worst_pairs(dataset, found)[:MOST_DRAWN_PAIRS]:
        first, second = dataset.pictures[pair.first], dataset.pictures[pair.second]
        shift = f", {pair.shift:+.0%} of the width" if pair.shift else ""
        rows.append(
            PictureRow(
                left=dataset.picture_path(pair.first),
                right=dataset.picture_path(pair.second),
                left_caption=first.path,
                right_caption=f"{second.path}: {pair.kind} {pair.correlation:.2f}{shift}",
                is_alarming=first.label != second.label,
            )
        )
    return write_pages(rows, folder)


def _print_findings(told: Sequence[Finding]) -> None:
    if not told:
        print("findings  none")
        return
    from rich.table import Table
    from rich.text import Text

    table = Table("finding", "count", "what", "such as", "remedy", box=None)
    for finding in told:
        # Text, because a path may hold what rich takes for markup.
        cells = (finding.kind, str(finding.count), finding.what, _example(finding), finding.remedy)
        table.add_row(*(Text(cell) for cell in cells))
    _print_rich(table)


def _example(finding: Finding) -> str:
    worst = finding.details[0]
    if "first" in worst:
        return f"{worst['first']} and {worst['second']} ({worst['correlation']:.2f})"
    if "predicted" in worst:
        return f"{worst['picture']}: {worst['label']} or {worst['predicted']}?"
    return str(worst.get("picture") or worst.get("class") or worst["example"])


def _weight_files(pairs: Sequence[str]) -> dict[str, Path]:
    files = {}
    for pair in pairs:
        name, equals, file = pair.partition("=")
        if not (name and equals and file):
            raise InputError(f"--weights takes BACKBONE=FILE, not {pair!r}")
        files[name] = Path(file).expanduser()
    return files


def _protocol(*, quick: bool) -> Any:
    from bench.latency import LatencyProtocol

    return LatencyProtocol.quick() if quick else LatencyProtocol()


def _print_summary(report: StudyReport, place: Workspace, *, as_json: bool) -> None:
    if as_json:
        from bench.records import to_builtins

        _print_json(to_builtins(report))
        return
    from rich.table import Table

    from bench.results import cpu_latency_ms

    for note in report.notes:
        _say(f"note: {note}")
    if report.models:
        table = Table(
            "model", "CV balanced accuracy", "test", "CPU p50 ms (batch 1)", "file", box=None
        )
        for model in sorted(report.models, key=lambda m: -(m.cv_mean or 0.0)):
            spread = f" ± {model.cv_sd:.3f}" if model.cv_sd is not None else ""
            cv = f"{model.cv_mean:.3f}{spread}" if model.cv_mean is not None else "pruned"
            p50_ms = cpu_latency_ms(report, model)
            table.add_row(
                model.name,
                cv,
                f"{model.test.balanced_accuracy:.3f}",
                f"{p50_ms:.2f}" if p50_ms is not None else "–",
                _relative(place.root / model.path),
            )
        _print_rich(table)
    else:
        best = max(
            (t.value for t in report.trials if t.state == "COMPLETE" and t.value), default=None
        )
        print(f"{report.study}: best cross-validated balanced accuracy {_cell(best)}")
    _say(f"next: bench report {report.study}   ·   bench dashboard")


def _status_row(progress: StudyProgress) -> dict[str, object]:
    best = progress.best
    states: tuple[TrialState, ...] = ("COMPLETE", "PRUNED", "FAIL", "RUNNING", "INTERRUPTED")
    return {
        "study": progress.study,
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


def _print_status(all_progress: Sequence[StudyProgress]) -> None:
    from rich.table import Table

    from bench.progress import clock_time, describe

    shown = ("study", "wanted", "complete", "pruned", "fail", "running", "interrupted", "best",
             "best_trial", "models")  # fmt: skip
    table = Table(*shown, box=None)
    for progress in all_progress:
        row = _status_row(progress)
        table.add_row(*(_cell(row[name]) for name in shown))
    _print_rich(table)
    for progress in all_progress:
        if progress.ended:
            print(f"{progress.study}: the search ended early: {progress.ended}")
        if progress.owner is None:
            continue
        rate = f"{progress.trials_per_hour:.0f} trials an hour" if progress.trials_per_hour else ""
        left = f"{clock_time(progress.left_s)} left" if progress.left_s is not None else ""
        facts = ", ".join(filter(None, (f"run by {progress.owner}", rate, left)))
        print(f"{progress.study}: {facts}")
        running = Table("trial", "fold", "epoch", "balanced accuracy", "recipe", box=None)
        for trial in progress.trials:
            if trial.state == "RUNNING":
                last = trial.epochs[-1] if trial.epochs else None
                running.add_row(
                    str(trial.number),
                    str(last.fold + 1) if last else "–",
                    str(last.epoch + 1) if last else "–",
                    _cell(trial.cv_mean),
                    describe(trial.recipe),
                )
        if running.row_count:
            _print_rich(running)


def _print_latencies(rows: Sequence[LatencyRow]) -> None:
    from rich.table import Table

    table = Table(
        "model", "device", "provider", "batch", "threads", "p50 ms", "p90 ms", "p99 ms",
        "pictures/s", "steadiness", box=None,
    )  # fmt: skip
    for row in rows:
        table.add_row(
            row.model,
            row.device,
            row.provider,
            str(row.batch_size),
            str(row.threads),
            f"{row.p50_ms:.2f}",
            f"{row.p90_ms:.2f}",
            f"{row.p99_ms:.2f}" if row.p99_ms is not None else "–",
            f"{row.throughput_per_s:.1f}",
            "steady" if row.steady else "unsteady",
        )
    _print_rich(table)


def _derived(row: LatencyRow) -> dict[str, Any]:
    names = ("p50_ms", "p90_ms", "p99_ms", "throughput_per_s", "steady", "calls")
    return {name: getattr(row, name) for name in names}


def _relative(path: Path) -> str:
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _counted(counts: dict[str, int]) -> str:
    """The most frequent ones; `counts` stand in order."""
    return ", ".join(f"{name} ({count})" for name, count in list(counts.items())[:8])


def _cell(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _print_json(document: object) -> None:
    print(json.dumps(document, indent=2, ensure_ascii=False))


def _print_rich(renderable: object) -> None:
    from rich.console import Console

    # Tables that go to a file or pipe must not be cut to a terminal's width.
    Console(width=None if sys.stdout.isatty() else 200).print(renderable)


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _end(error: BenchError) -> NoReturn:
    from rich.console import Console

    word = "" if isinstance(error, InterruptedRun) else "error: "
    Console(stderr=True).print(
        f"{word}{error}", style="bold red", markup=False, highlight=False, soft_wrap=True
    )
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
    except BenchError as error:
        _end(error)
    except KeyboardInterrupt:
        again = shlex.join(["bench", *map(_without_password, sys.argv[1:])])
        _end(InterruptedRun(f"stopped; what is finished is stored. Go on with: {again}"))
    except OSError as error:
        if error.filename is None:
            raise
        _end(InputError(f"{error.filename}: {error.strerror}"))
    except Exception as error:
        # Typer's usage errors, whose base class it does not export, show themselves.
        show = getattr(error, "show", None)
        if show is None:
            raise
        show()
        sys.exit(InputError.exit_code)


if __name__ == "__main__":
    main()
