"""The story, top to bottom: load, split, search, promote, export, verify, measure, report."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench.data.audit.tying import tie_duplicates
from bench.data.demo import keep_or_make_demo
from bench.data.groups import (
    UNGROUPED_REMEDY,
    conflict_remark,
    is_tied,
    load_groups,
    remarks,
)
from bench.data.pixel_cache import PixelCache
from bench.data.protocols import make_splits
from bench.data.sources import dataset_name, list_source, read_pictures
from bench.data.splits import refuse_scarce_classes
from bench.data.store import DecodedStore
from bench.database import Database
from bench.errors import (
    BenchError,
    ExportError,
    InputError,
    InterruptedRun,
    NonFiniteLossError,
    ParityError,
    WeightsError,
    WorkspaceError,
    did_you_mean,
)
from bench.latency import LatencyJob, LatencyProtocol, measure_many
from bench.models.backbones import describe_backbone
from bench.models.staged import build_model
from bench.models.weights import refuse_changed_weights, resolve_weights
from bench.promote.further import FurtherProtocol
from bench.promote.precisions import VariantChoice
from bench.promote.promotion import promote_candidate
from bench.promote.seeds import further_seeds
from bench.promote.select import Candidate, select, winner_and_default
from bench.promote.untrained import untrained_latencies_ms
from bench.promote.variants import make_variants
from bench.records import (
    Arithmetic,
    Dataset,
    Family,
    LatencyRow,
    LatencyScope,
    ModelRecord,
    Precision,
    Settings,
    Split,
    StudyPlan,
    StudyReport,
    WeightSource,
    ranked,
    ungrouped_remark,
)
from bench.results import load_plan, load_study_report, load_trials
from bench.runtime.cuda import cuda_device_name, cuda_works
from bench.runtime.machine import cpu_name
from bench.runtime.session import machine_name
from bench.search.coordinator import Coordinator
from bench.search.executors import make_executor
from bench.search.listener import Display
from bench.search.lock import own
from bench.search.options import SearchOptions
from bench.search.study import open_study, refuse_changes
from bench.space import SearchSpace, load_space
from bench.training.arithmetic import Device, choose_arithmetic, choose_device
from bench.training.rounding import measure_rounding
from bench.training.trainer import Trainer
from bench.words import counted
from bench.workspace import (
    DISK_ERRORS,
    Workspace,
    as_study_name,
    describe_environment,
    usable_cores,
)

# What a person must know of a space's augmentation, to see whether it suits the pictures.
_TREATED_AS: dict[Family, str] = {
    "spectrogram": "spectrograms: no flips, no colour changes",
    "photo": "photos: flips and colour changes",
}
# The pixels of 1,339 pictures as GTZAN has them; what does not fit is decoded at each look.
_PIXEL_CACHE_BYTES = 500_000_000
# Load of a core from which other programs disturb what is timed.
_BUSY_LOAD = 1.5
_LATENCY_NOTE = "Limit of latency, ms,"
# What a promoted model's latency is measured of: (scope, batch size).
MEASURED: tuple[tuple[LatencyScope, int], ...] = (("model", 1), ("model", 8), ("end-to-end", 1))
# And on a GPU, where copying pictures there and answers back can take longer than the network.
MEASURED_ON_GPU: tuple[tuple[LatencyScope, int], ...] = (*MEASURED, ("device", 1), ("device", 8))


def search(
    data: str | Path | None,
    options: SearchOptions,
    *,
    workspace: Workspace,
    database: Database,
    listener: Display,
) -> StudyPlan:
    """Run or go on with a study until it has `options.trials` finished trials.

    The study is owned from the first on, so that its plan is made once, by one process, and others
    can tell that it is.

    Raises:
        DataError, SpaceError, WeightsError, DeviceError: something given cannot work.
        StudyMismatchError: the study exists and was begun differently.
        StudyLockedError: another live process runs it.
        WorkspaceError: the disk is full or cannot be written.
        StorageError: the study's lock was lost.
        BenchError: too many trials failed.
        InterruptedRun: Ctrl-C, once the study has a name.
    """
    name = study_name(data, options)
    listener.stage(f"study: {name}" if options.study else f"study: {name} (--study names another)")
    with own(name, database, listener.stage), _resumable():
        with _preparing(name, database):
            plan = make_plan(data, replace(options, study=name), workspace, database, listener)
            database.save_plan(plan, describe_environment(_gpu_name(plan)))
        study = open_study(plan, database)
        executor = make_executor(plan, options.workers, options.ray)
        try:
            Coordinator(plan, study, database, listener).run(executor, options.budget)
        finally:
            listener.search_ended()
            executor.close()
    return plan


@contextmanager
def _preparing(study: str, database: Database) -> Iterator[None]:
    """A block that makes a study's plan; the name of one that is stopped in it stays known."""
    database.save_preparing(study)
    try:
        yield
    except BenchError:
        database.drop_preparing(study)  # there is nothing to go on with
        raise


@contextmanager
def _resumable() -> Iterator[None]:
    """A block of which the finished part is stored, so that Ctrl-C leaves what can be gone on with.

    Raises:
        InterruptedRun: Ctrl-C.
    """
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise InterruptedRun("stopped; what is finished is stored") from interrupt


def promote(
    study: str,
    *,
    workspace: Workspace,
    database: Database,
    listener: Display,
    protocol: LatencyProtocol,
    variants: VariantChoice,
    seeds: int = 1,
) -> StudyReport:
    """Retrain, export, verify, test and measure the best trials; what is finished is kept.

    Each verified file is also made in the other precisions asked for, behind their gate. The
    winner is trained with `seeds` seeds in all; the first one's file is what ships.

    Raises:
        InputError: no such study.
        BenchError: nothing in it is complete.
        StudyLockedError: another live process runs it.
        DeviceError: it was searched on CUDA, which is not here.
        DataError, WeightsError: pictures or files of starting weights are gone or have changed.
        ParityError, ExportError, NonFiniteLossError: a candidate failed; the others are done.
        MeasurementError: a latency could not be measured; the others are.
        InterruptedRun: Ctrl-C.
    """
    plan = replace(load_plan(database, study), workspace=str(workspace.root))
    choose_device(plan.device)
    with own(study, database, listener.stage), _resumable():
        candidates = select(load_trials(database, plan))
        for backbone in sorted({candidate.recipe.backbone for candidate in candidates}):
            refuse_changed_weights(backbone, plan.weights[backbone])
        trainer = Trainer(plan)
        models, failures = _promote_each(
            trainer, candidates, workspace, database, listener, variants
        )
        failures += _train_further_seeds(
            trainer, candidates, models, workspace, database, listener, seeds
        )
        database.drop_models(study, keep=[model.name for model in models])
        promoted = {model.name for model in models}
        shipped = [candidate for candidate in candidates if candidate.name in promoted]
        trainer.close()  # further trainers and measuring processes want the device's memory
        failures += _score_under_further_protocols(plan, shipped, database, listener)
        try:
            measure(models, workspace, database, listener, protocol)
        except BenchError as error:
            failures.append(error)
    if failures:
        raise _together(failures)
    return load_study_report(database, study)


def _promote_each(
    trainer: Trainer,
    candidates: Sequence[Candidate],
    workspace: Workspace,
    database: Database,
    listener: Display,
    variants: VariantChoice,
) -> tuple[list[ModelRecord], list[BenchError]]:
    """Promote every candidate with its variants and store it; return the models and what failed."""
    models: list[ModelRecord] = []
    failures: list[BenchError] = []
    for number, candidate in enumerate(candidates, start=1):
        say = partial(_say, listener, f"model {number} of {len(candidates)}")
        say(f"promoting {candidate.name} (trial {candidate.trial})")
        try:
            model = promote_candidate(trainer, candidate, workspace, say)
            model = make_variants(model, trainer.plan, workspace, variants, say)
        except (ExportError, NonFiniteLossError, ParityError) as error:
            # One network that fails must not keep the others from being shipped.
            say(f"{candidate.name} failed: {error}")
            failures.append(error)
        else:
            database.save_model(model)
            models.append(model)
    return models, failures


def _together(failures: Sequence[BenchError]) -> BenchError:
    """One error, of the first one's class, that tells of all."""
    first = failures[0]
    return type(first)("; ".join(dict.fromkeys(map(str, failures))))


def _say(listener: Display, what: str, text: str) -> None:
    listener.stage(f"{what}: {text}")


def _train_further_seeds(
    trainer: Trainer,
    candidates: Sequence[Candidate],
    models: Sequence[ModelRecord],
    workspace: Workspace,
    database: Database,
    listener: Display,
    seeds: int,
) -> list[BenchError]:
    """Train the winner with further seeds and store their scores; return what failed."""
    if not models:
        return []
    winner = ranked(models)[0]
    (candidate,) = (candidate for candidate in candidates if candidate.name == winner.name)
    further = partial(further_seeds, trainer, candidate, workspace, temperature=winner.temperature)
    failures: list[BenchError] = []
    if seeds > 1:
        listener.stage(f"training {winner.name} with {counted(seeds, 'seed')} in all")
    try:
        runs = further(seeds=seeds)
    except (ExportError, NonFiniteLossError) as error:
        listener.stage(f"a further seed of {winner.name} failed: {error}")
        failures = [error]
        runs = further(seeds=1)  # those that are finished
    database.save_model(replace(winner, further_seeds=runs))
    return failures


def _score_under_further_protocols(
    plan: StudyPlan, candidates: Sequence[Candidate], database: Database, listener: Display
) -> list[BenchError]:
    """Train winner and default again on the split of each further protocol; return failures.

    What has been scored already is not trained again.
    """
    failures = []
    known = {scores.identity for scores in database.load_protocol_scores(plan.study)}
    for split in plan.further_splits:
        further = FurtherProtocol(plan, split)
        for candidate in winner_and_default(candidates):
            if further.identity(candidate) in known:
                continue
            listener.stage(f"training {candidate.name} under the protocol {split.protocol}")
            try:
                database.save_protocol_scores(further.scores(candidate))
            except BenchError as error:
                # A further protocol is a comparison: what ships does not depend on it.
                listener.stage(str(error))
                failures.append(error)
    return failures


def measure(
    models: Sequence[ModelRecord],
    workspace: Workspace,
    database: Database,
    listener: Display,
    protocol: LatencyProtocol,
) -> tuple[LatencyRow, ...]:
    """Measure one file of each graph: on the CPU, and on CUDA where it really works.

    What was measured on this machine before is not measured again, unless by fewer processes than
    `protocol` asks for; rows of other machines count for nothing here. Rows that are compared with
    each other, of one device, scope and batch size, are measured in turns and stored together.

    Raises:
        MeasurementError: some could not be measured; the others are stored.
    """
    jobs: dict[tuple[str, str, str, int], LatencyJob] = {}
    for job in _jobs(models, workspace):
        jobs.setdefault(_row_key(job), job)
    here = machine_name()
    rough: set[tuple[str, str, str, int]] = set()
    for row in database.load_latencies([path for model in models for path in model.paths]):
        # Early rows know the device, not the machine.
        ours = row.machine in (here, "") and row.device_name == _device_name(row.device)
        if ours and len(row.samples) >= protocol.processes:
            jobs.pop(_row_key(row), None)
        elif ours:
            rough.add(_row_key(row))
    if not jobs:
        return ()
    replaced = len(rough & jobs.keys())
    if replaced:
        were = counted(replaced, "latency row was", "latency rows were")
        listener.stage(f"{were} measured with --quick-latency, and will be replaced")
    rows_of = (
        f"{counted(len(jobs), 'row')} of {counted(protocol.processes, 'process', 'processes')}"
    )
    compared: dict[tuple[str, str, int], list[LatencyJob]] = {}
    for job in jobs.values():
        compared.setdefault((job.device, job.scope, job.batch_size), []).append(job)
    rows: list[LatencyRow] = []
    failures: list[BenchError] = []
    finished, planned = 0, protocol.processes * len(jobs)
    with listener.steps() as steps:
        steps.begin(f"measuring latency: {rows_of} each")
        for together in compared.values():

            def progress(_job: LatencyJob, of_these: int, _: int, before: int = finished) -> None:
                steps.reach(before + of_these, planned)

            try:
                measured = measure_many(together, protocol=protocol, progress=progress)
            except BenchError as error:
                failures.append(error)
            else:
                own = [
                    replace(row, path=Path(row.path).relative_to(workspace.root).as_posix())
                    for row in measured
                ]
                database.save_latencies(own)
                rows += own
            finished += protocol.processes * len(together)
    if failures:
        raise _together(failures)
    return tuple(rows)


def _jobs(models: Sequence[ModelRecord], workspace: Workspace) -> list[LatencyJob]:
    """What is measured of the models' files; INT8 is for the CPU and FP16 for CUDA alone."""
    cuda: tuple[Device, ...] = ("cuda",) if cuda_works()[0] else ()
    devices: dict[Precision, tuple[Device, ...]] = {
        "fp32": ("cpu", *cuda),
        "fp16": cuda,
        "int8": ("cpu",),
    }
    return [
        LatencyJob(
            path=workspace.root / path,
            model=model.name,
            architecture_key=key,
            device=device,
            batch_size=batch_size,
            precision=precision,
            scope=scope,
            size_bytes=size_bytes,
        )
        for model in models
        for precision, path, key, size_bytes in _files(model)
        for device in devices[precision]
        for scope, batch_size in (MEASURED if device == "cpu" else MEASURED_ON_GPU)
    ]


def _files(model: ModelRecord) -> Iterator[tuple[Precision, str, str, int]]:
    """Precision, path, graph and size in bytes of each file that a model comes in."""
    yield "fp32", model.path, model.architecture_key, model.size_bytes
    for variant in model.offered_variants:
        yield variant.precision, variant.path, model.variant_key(variant), variant.size_bytes


def _row_key(row: LatencyJob | LatencyRow) -> tuple[str, str, str, int]:
    """What tells rows of one machine apart: the graph, whoever trained it, and the set-up."""
    return row.architecture_key, row.device, row.scope, row.batch_size


def _device_name(device: str) -> str:
    """Name of this machine's CPU, or of its GPU where it has one."""
    if device == "cpu":
        return cpu_name()
    return cuda_device_name() if cuda_works()[0] else ""


# --- planning -------------------------------------------------------------------------------


def study_name(data: str | Path | None, options: SearchOptions) -> str:
    """What a study is called: as was asked for, or after its pictures and its search space.

    Raises:
        SpaceError, DeviceError: the search space or the device cannot be had.
    """
    if options.study is not None:
        return options.study
    if data is None:
        return "demo"
    space = load_space(options.space or _own_space(choose_device(options.device), is_demo=False))
    return as_study_name(f"{dataset_name(data)}-{space.name}")


def make_plan(
    data: str | Path | None,
    options: SearchOptions,
    workspace: Workspace,
    database: Database,
    listener: Display,
) -> StudyPlan:
    """Settle everything that all trials share, and refuse what cannot work, before training.

    What can be refused before the pictures are read is, and most of the rest before duplicates are
    looked for, which may take minutes. The pictures are stored as the backbones see them.
    """
    device = choose_device(options.device)
    is_demo = data is None
    if is_demo:
        listener.stage(f"no DATA given: using the built-in synthetic demo set in {workspace.demo}")
    space = _adapted_space(options, device=device, is_demo=is_demo, listener=listener)
    _refuse_strange_weights(options.weights, space)
    load = _load_if_busy()  # asked first: what follows is a load too
    if is_demo and (remark := keep_or_make_demo(workspace.demo)) is not None:
        listener.stage(remark)
    name = study_name(data, options)
    stored = database.load_plan(name)
    # A study that was begun has looked for duplicates and stored its pictures, as a rule.
    pixel_cache = PixelCache(_PIXEL_CACHE_BYTES if stored is None else 0)
    dataset = _read(data or workspace.demo, options, listener, pixel_cache)
    refuse_scarce_classes(dataset, options.protocols, folds=space.folds)
    # Asked before duplicates are tied, which puts pictures into groups that nobody gave.
    groups_given = any(picture.group is not None for picture in dataset.pictures)
    leak = _leak_of_groups(dataset)
    space, limited = _limited(space, options, stored, dataset, device, listener)
    weights = {name: _weights_of(name, options, dataset, listener) for name in space.backbones}
    if stored is None:
        _store_pictures(dataset, space, workspace, pixel_cache, listener)
    if options.tie_duplicates:
        dataset = tie_duplicates(dataset, workspace.duplicates, listener.stage, pixel_cache)
    pixel_cache.clear()
    listener.stage(_describe(dataset, groups_given=groups_given))
    if groups_given and leak is not None:
        listener.stage(leak)
    (split, *further_splits), said = make_splits(
        dataset,
        options.protocols,
        folds=space.folds,
        test_fraction=options.test_fraction,
        seed=options.seed,
        lists=options.parts,
    )
    for remark in said:
        listener.stage(remark)
    if stored is not None and stored.device == device:
        # Numbers of one study are computed in one way, whatever a new measurement would say.
        arithmetic = stored.arithmetic
    else:
        arithmetic = {
            backbone: _arithmetic_of(backbone, weights[backbone], space, device, listener, load)
            for backbone in space.backbones
        }
    plan = StudyPlan(
        study=name,
        space=space.as_dict(),
        dataset=dataset,
        split=split,
        settings=_settings(space, options),
        weights=weights,
        device=device,
        arithmetic=arithmetic,
        workspace=str(workspace.root),
        cache_bytes=int(options.cache_gb * 1e9),
        notes=(*_notes(dataset, split, weights, leak), *limited),
        further_splits=tuple(further_splits),
    )
    if stored is not None:
        refuse_changes(stored, plan)
        _store_pictures(dataset, space, workspace, pixel_cache, listener)
        if not options.protocols:
            plan = replace(plan, further_splits=stored.further_splits)
    return replace(plan, notes=(*plan.notes, *_rounding_notes(plan, listener)))


def _store_pictures(
    dataset: Dataset,
    space: SearchSpace,
    workspace: Workspace,
    pixel_cache: PixelCache,
    listener: Display,
) -> None:
    """Store the pictures as the backbones of a space see them, where they are not stored yet.

    Raises:
        DataError: a picture that could be read before can no longer be.
        WorkspaceError: the disk is full or cannot be written.
    """
    geometries = {
        describe_backbone(backbone).geometry(
            image_size=space.image_size, crop=dataset.crop, resize=space.resize
        )
        for backbone in space.backbones
    }
    with listener.steps() as steps:
        for geometry in geometries:
            try:
                DecodedStore.open(dataset, geometry, workspace.cache, pixel_cache, steps)
            except OSError as error:
                if error.errno not in DISK_ERRORS:
                    raise
                raise WorkspaceError(
                    f"the pictures cannot be stored in {workspace.cache}: {error}; make room there "
                    "and give the same command again, or choose another --workspace"
                ) from error


def _read(
    data: str | Path, options: SearchOptions, listener: Display, pixel_cache: PixelCache
) -> Dataset:
    with listener.steps() as steps:
        steps.begin(f"reading the pictures of {data}")
        listing = list_source(data)
        dataset = read_pictures(
            listing, crop=options.crop, progress=steps.reach, pixel_cache=pixel_cache
        )
    if (passed_over := listing.passed_over.in_words) is not None:
        listener.stage(passed_over)
    return load_groups(dataset, file=options.groups, pattern=options.group_pattern)


def _settings(space: SearchSpace, options: SearchOptions) -> Settings:
    return Settings(
        epochs=space.epochs,
        batch_size=space.batch_size,
        image_size=space.image_size,
        resize=space.resize,
        family=space.family,
        pretrained=options.pretrained,
        seed=options.seed,
        pruner=options.pruner,
        sampler=options.sampler,
        max_latency_ms=options.max_latency_ms,
        linear_probe=options.linear_probe,
        store=options.store,
    )


def _refuse_strange_weights(files: Mapping[str, Path], space: SearchSpace) -> None:
    strangers = [name for name in files if name not in space.backbones]
    if strangers:
        raise WeightsError(
            f"--weights names {strangers[0]!r}{did_you_mean(strangers[0], space.backbones)}, which "
            f"this search does not try: it tries {', '.join(space.backbones)}"
        )


def _own_space(device: str, *, is_demo: bool) -> str:
    """The search space where none is named."""
    return "demo" if is_demo else "cpu" if device == "cpu" else "default"


def _adapted_space(
    options: SearchOptions, *, device: str, is_demo: bool, listener: Display
) -> SearchSpace:
    space = load_space(options.space or _own_space(device, is_demo=is_demo))
    told = f"search space: {space.name} ({_TREATED_AS[space.family]}"
    if options.space is None:
        other = "" if is_demo else ", such as photo"
        told += f"; choose another with --space{other}"
    listener.stage(f"{told})")
    if options.backbones:
        space = space.with_backbones(options.backbones)
    for backbone in space.backbones:
        describe_backbone(backbone)  # refuses what timm does not know
    return replace(
        space,
        folds=options.folds or space.folds,
        epochs=options.epochs or space.epochs,
        batch_size=options.batch_size or space.batch_size,
        image_size=options.image_size or space.image_size,
    )


def _limited(
    space: SearchSpace,
    options: SearchOptions,
    stored: StudyPlan | None,
    dataset: Dataset,
    device: Device,
    listener: Display,
) -> tuple[SearchSpace, tuple[str, ...]]:
    """Leave out what `--max-latency-ms` forbids, if it is given; return the rest, and notes."""
    if options.max_latency_ms is None:
        return space, ()
    if stored is None:
        return _within_latency(space, options.max_latency_ms, dataset, device, listener)
    # Measured once, when the study began: a second measurement might choose differently.
    notes = tuple(note for note in stored.notes if note.startswith(_LATENCY_NOTE))
    too_slow = {
        name
        for name in space.backbones
        if name not in stored.weights and any(f": {name} takes " in note for note in notes)
    }
    # Any other that the study was not begun with is a change, which is refused.
    return space.with_backbones([name for name in space.backbones if name not in too_slow]), notes


def _within_latency(
    space: SearchSpace, most_ms: float, dataset: Dataset, device: Device, listener: Display
) -> tuple[SearchSpace, tuple[str, ...]]:
    """Leave out the backbones that are too slow; return the rest, and a note on each.

    Raises:
        InputError: nothing is left.
    """
    listener.stage(f"measuring untrained backbones on {device}, for --max-latency-ms {most_ms:g}")
    latencies_ms = untrained_latencies_ms(
        [describe_backbone(name) for name in space.backbones],
        classes=dataset.classes,
        image_size=space.image_size,
        crop=dataset.crop,
        resize=space.resize,
        device=device,
    )
    notes = tuple(
        f"{_LATENCY_NOTE} {most_ms:g}: {name} takes {ms:.1f} ms a picture on {device}"
        + (", so it was not searched." if ms > most_ms else ".")
        for name, ms in latencies_ms.items()
    )
    for note in notes:
        listener.stage(note)
    kept = [name for name, ms in latencies_ms.items() if ms <= most_ms]
    if not kept:
        raise InputError(
            f"no backbone is within --max-latency-ms {most_ms:g} on {device}: "
            + ", ".join(f"{name} {ms:.1f} ms" for name, ms in latencies_ms.items())
            + "; allow more, take a smaller --image-size, or another --backbone"
        )
    return space.with_backbones(kept), notes


def _weights_of(
    name: str, options: SearchOptions, dataset: Dataset, listener: Display
) -> WeightSource:
    spec = describe_backbone(name)
    try:
        return resolve_weights(spec, pretrained=options.pretrained, files=options.weights)
    except WeightsError as error:
        if not dataset.synthetic or name in options.weights:
            raise
        listener.stage(f"demo only: random weights for {name}, because {error}")
        return WeightSource(kind="random")


def _arithmetic_of(
    backbone: str,
    source: WeightSource,
    space: SearchSpace,
    device: Device,
    listener: Display,
    load: float | None,
) -> Arithmetic:
    spec = describe_backbone(backbone)
    size = space.image_size or spec.image_size
    model = build_model(spec, source, classes=2, image_size=size, seed=0)
    if model.recomputed:
        listener.stage(f"{backbone} {model.recomputed}")
    listener.stage(f"timing training steps of {backbone} in each number format")
    if load is not None:
        listener.stage(_load_remark(load))
    chosen = choose_arithmetic(device, model, size, busy=load is not None)
    layout = " channels_last" if chosen.channels_last else ""
    recorded = ", steps recorded as CUDA graphs" if chosen.graphs else ""
    listener.stage(f"arithmetic of {backbone}: {chosen.dtype}{layout}{recorded} ({chosen.reason})")
    return chosen


def _load_if_busy() -> float | None:
    """The average load of the last minute, if it says that other programs disturb what is timed."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return load if load >= _BUSY_LOAD * usable_cores() else None


def _load_remark(load: float) -> str:
    cores = counted(usable_cores(), "core")
    return (
        f"  other programs keep this machine busy (load {load:.1f} on {cores}): the format that "
        "is fastest now may not be when it is idle, and a study keeps its own"
    )


def _describe(dataset: Dataset, *, groups_given: bool) -> str:
    groups = {picture.group for picture in dataset.pictures if picture.group is not None}
    pictures = counted(len(dataset.pictures), "picture")
    classes = counted(len(dataset.classes), "class", "classes")
    parts = [f"data: {dataset.name}, {pictures} of {classes}"]
    parts.append(counted(len(groups), "group") if groups_given else "no groups given")
    if dataset.crop:
        parts.append(f"cropped to {','.join(map(str, dataset.crop))}")
    if dataset.synthetic:
        parts.append("synthetic")
    text = ", ".join(parts)
    for remark in (*remarks(dataset), *conflict_remark(dataset)):
        text += f"\n  {remark}"
    for picture in dataset.broken:
        text += f"\n  left out, broken: {picture.path} ({picture.reason})"
    return text


def _leak_of_groups(dataset: Dataset) -> str | None:
    """Say that what belongs together may part, where not every picture was given a group."""
    if all(picture.group is None for picture in dataset.pictures):
        return (
            "No groups were given: pictures cut from one recording or source may stand on both "
            "sides of a split, which inflates scores. A groups.csv (path,group) closes that leak."
        )
    remark = ungrouped_remark(dataset)
    return f"{remark}. To close that leak, {UNGROUPED_REMEDY}." if remark else None


def _notes(
    dataset: Dataset, split: Split, weights: Mapping[str, WeightSource], leak: str | None
) -> tuple[str, ...]:
    notes = []
    if dataset.broken:
        notes.append(f"Broken pictures were left out: {len(dataset.broken)}.")
    random = [name for name, source in weights.items() if source.kind == "random"]
    if random:
        notes.append(
            f"Random weights: {', '.join(random)} began from random weights, not pretrained ones; "
            "scores are far below what pretrained weights give."
        )
    if leak is not None:
        notes.append(leak)
    if split.protocol == "random" and is_tied(dataset):
        notes.append(
            "The split is random: groups and duplicates are known and ignored on purpose, so "
            "pictures that belong together stand on both sides, which inflates scores."
        )
    return tuple(notes)


def _rounding_notes(plan: StudyPlan, listener: Display) -> tuple[str, ...]:
    """State what rounding stored activations does to each backbone, where they are rounded."""
    if plan.settings.store == "exact":
        return ()
    trainer = Trainer(plan)
    notes = tuple(str(measure_rounding(trainer, backbone)) for backbone in plan.weights)
    for note in notes:
        listener.stage(note)
    return notes


def _gpu_name(plan: StudyPlan) -> str | None:
    if plan.device != "cuda":
        return None
    import torch

    return torch.cuda.get_device_name()
