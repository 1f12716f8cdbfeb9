"""The story, top to bottom: load, split, search, promote, export, verify, measure, report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import get_args

from bench.data.audit.tying import tie_duplicates
from bench.data.demo import make_demo
from bench.data.groups import is_tied, load_groups, remarks
from bench.data.protocols import make_splits
from bench.data.sources import CropChoice, load_dataset
from bench.database import Database
from bench.errors import (
    BenchError,
    ExportError,
    InputError,
    NonFiniteLossError,
    ParityError,
    WeightsError,
    did_you_mean,
)
from bench.latency import LatencyJob, LatencyProtocol, measure_many
from bench.models.backbones import describe_backbone
from bench.models.staged import build_model
from bench.models.weights import resolve_weights
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
    LatencyRow,
    LatencyScope,
    ModelRecord,
    Precision,
    Protocol,
    Settings,
    Split,
    Store,
    StudyPlan,
    StudyReport,
    WeightSource,
    ranked,
)
from bench.results import load_plan, load_study_report, load_trials
from bench.runtime.cuda import cuda_device_name, cuda_works
from bench.runtime.machine import cpu_name
from bench.runtime.session import machine_name
from bench.search.budget import Budget
from bench.search.coordinator import Coordinator, Listener
from bench.search.executors import make_executor
from bench.search.lock import own
from bench.search.pruners import make_pruner
from bench.search.samplers import make_sampler
from bench.search.study import open_study, refuse_changes
from bench.space import SearchSpace, load_space
from bench.training.arithmetic import Device, choose_arithmetic, choose_device
from bench.training.rounding import measure_rounding
from bench.training.trainer import Trainer
from bench.workspace import Workspace, as_study_name, check_study_name, describe_environment

_LATENCY_NOTE = "Limit of latency, ms,"
# What a promoted model's latency is measured of: (scope, batch size).
MEASURED: tuple[tuple[LatencyScope, int], ...] = (("model", 1), ("model", 8), ("end-to-end", 1))
# And on a GPU, where copying pictures there and answers back can take longer than the network.
MEASURED_ON_GPU: tuple[tuple[LatencyScope, int], ...] = (*MEASURED, ("device", 1), ("device", 8))
STORES: tuple[Store, ...] = get_args(Store)


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOptions:
    """What a user may say about a search; None leaves it to the space or to the machine."""

    budget: Budget = field(default_factory=lambda: Budget(trials=50))
    max_latency_ms: float | None = None
    study: str | None = None
    space: str | None = None
    backbones: tuple[str, ...] = ()
    folds: int | None = None
    epochs: int | None = None
    image_size: int | None = None
    batch_size: int | None = None
    workers: int | None = None
    ray: str | None = None
    seed: int = 0
    device: str = "auto"
    pruner: str = "racing"
    sampler: str = "tpe"
    crop: CropChoice = "auto"
    test_fraction: float = 0.2
    pretrained: bool = True
    weights: Mapping[str, Path] = field(default_factory=dict)
    cache_gb: float = 8.0
    linear_probe: bool = True
    store: str = "exact"
    groups: Path | None = None
    group_pattern: str | None = None
    tie_duplicates: bool = True
    protocols: tuple[Protocol, ...] = ()
    parts: tuple[Path, ...] = ()


def search(
    data: str | Path | None,
    options: SearchOptions,
    *,
    workspace: Workspace,
    database: Database,
    listener: Listener,
) -> StudyPlan:
    """Run or go on with a study until it has `options.trials` finished trials.

    Raises:
        DataError, SpaceError, WeightsError, DeviceError: something given cannot work.
        StudyMismatchError: the study exists and was begun differently.
        StudyLockedError: another live process runs it.
        StorageError: the study's lock was lost.
        BenchError: too many trials failed.
    """
    plan = make_plan(data, options, workspace, database, listener)
    with own(plan.study, database, listener.stage):
        plan = _as_begun(plan, database)
        database.save_plan(plan, describe_environment(_gpu_name(plan)))
        study = open_study(plan, database)
        executor = make_executor(plan, options.workers, options.ray)
        try:
            Coordinator(plan, study, database, listener).run(executor, options.budget)
        finally:
            listener.search_ended()
            executor.close()
    return plan


def promote(
    study: str,
    *,
    workspace: Workspace,
    database: Database,
    listener: Listener,
    protocol: LatencyProtocol,
    variants: VariantChoice,
    seeds: int = 1,
) -> StudyReport:
    """Retrain, export, verify, test and measure the best trials; what is finished is kept.

    Each verified file is also made in the other precisions asked for, behind their gate. The
    winner is trained with `seeds` seeds in all; the first one's file is what ships.

    Raises:
        InputError: no such study, or nothing in it is complete.
        ParityError, ExportError, NonFiniteLossError: a candidate failed; the others are done.
        MeasurementError: a latency could not be measured.
    """
    plan = replace(load_plan(database, study), workspace=str(workspace.root))
    with own(study, database, listener.stage):
        trainer = Trainer(plan)
        models: list[ModelRecord] = []
        failures: list[BenchError] = []
        candidates = select(load_trials(database, plan))
        for candidate in candidates:
            listener.stage(f"promoting {candidate.name} (trial {candidate.trial})")
            try:
                model = promote_candidate(trainer, candidate, workspace)
                models.append(make_variants(model, plan, workspace, variants, listener.stage))
            except (ExportError, NonFiniteLossError, ParityError) as error:
                # One network that fails must not keep the others from being shipped.
                listener.stage(f"{candidate.name} failed: {error}")
                failures.append(error)
            else:
                database.save_model(models[-1])
        failures += _train_further_seeds(
            trainer, candidates, models, workspace, database, listener, seeds
        )
        database.drop_models(study, keep=[model.name for model in models])
        promoted = {model.name for model in models}
        shipped = [candidate for candidate in candidates if candidate.name in promoted]
        failures += _score_under_further_protocols(plan, shipped, database, listener)
        measure(models, workspace, database, listener, protocol)
    if failures:
        raise failures[0]
    return load_study_report(database, study)


def _train_further_seeds(
    trainer: Trainer,
    candidates: Sequence[Candidate],
    models: Sequence[ModelRecord],
    workspace: Workspace,
    database: Database,
    listener: Listener,
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
        listener.stage(f"training {winner.name} with {seeds} seeds in all")
    try:
        runs = further(seeds=seeds)
    except (ExportError, NonFiniteLossError) as error:
        listener.stage(f"a further seed of {winner.name} failed: {error}")
        failures = [error]
        runs = further(seeds=1)  # those that are finished
    database.save_model(replace(winner, further_seeds=runs))
    return failures


def _score_under_further_protocols(
    plan: StudyPlan, candidates: Sequence[Candidate], database: Database, listener: Listener
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
    listener: Listener,
    protocol: LatencyProtocol,
) -> tuple[LatencyRow, ...]:
    """Measure one file of each graph: on the CPU, and on CUDA where it really works.

    INT8 files are for the CPU and FP16 files for CUDA, and are measured there alone. What was
    measured on this machine before is not measured again; rows of other machines count for
    nothing here.
    """
    cuda: tuple[Device, ...] = ("cuda",) if cuda_works()[0] else ()
    devices: dict[Precision, tuple[Device, ...]] = {
        "fp32": ("cpu", *cuda),
        "fp16": cuda,
        "int8": ("cpu",),
    }
    jobs: dict[tuple[str, str, str, int], LatencyJob] = {}
    for model in models:
        files: list[tuple[Precision, str, str, int | None]] = [
            ("fp32", model.path, model.architecture_key, model.size_bytes)
        ]
        files += [
            (v.precision, v.path, model.variant_key(v), v.size_bytes)
            for v in model.offered_variants
        ]
        for precision, path, key, size_bytes in files:
            for device in devices[precision]:
                for scope, batch_size in MEASURED if device == "cpu" else MEASURED_ON_GPU:
                    job = LatencyJob(
                        path=workspace.root / path,
                        model=model.name,
                        architecture_key=key,
                        device=device,
                        batch_size=batch_size,
                        precision=precision,
                        scope=scope,
                        size_bytes=size_bytes,
                    )
                    jobs.setdefault((key, device, scope, batch_size), job)
    here = machine_name()
    for row in database.load_latencies([path for model in models for path in model.paths]):
        # A quick row does not stand for a full one. Early rows know the device, not the machine.
        full = len(row.samples) >= protocol.processes
        if full and row.machine in (here, "") and row.device_name == _device_name(row.device):
            jobs.pop((row.architecture_key, row.device, row.scope, row.batch_size), None)
    if not jobs:
        return ()
    listener.stage(f"measuring latency: {len(jobs)} rows of {protocol.processes} processes each")
    rows = tuple(
        replace(row, path=Path(row.path).relative_to(workspace.root).as_posix())
        for row in measure_many(tuple(jobs.values()), protocol=protocol)
    )
    database.save_latencies(rows)
    return rows


def _device_name(device: str) -> str:
    """Name of this machine's CPU, or of its GPU where it has one."""
    if device == "cpu":
        return cpu_name()
    return cuda_device_name() if cuda_works()[0] else ""


# --- planning -------------------------------------------------------------------------------


def make_plan(
    data: str | Path | None,
    options: SearchOptions,
    workspace: Workspace,
    database: Database,
    listener: Listener,
) -> StudyPlan:
    """Settle everything that all trials share, and refuse what cannot work, before training."""
    device = choose_device(options.device)
    if not math.isfinite(options.cache_gb):
        raise InputError(f"--cache-gb must be a number of gigabytes, not {options.cache_gb}")
    store = _store(options.store)
    is_demo = data is None
    if data is None:
        listener.stage(f"no DATA given: using the built-in synthetic demo set in {workspace.demo}")
        make_demo(workspace.demo)
        data = workspace.demo
    space = _adapted_space(options, device=device, is_demo=is_demo, listener=listener)
    make_pruner(options.pruner, folds=space.folds, epochs=space.epochs)
    make_sampler(options.sampler, space, seed=options.seed, trial=0)
    # Faults that can be seen without the pictures are told before minutes are spent on them.
    strangers = [name for name in options.weights if name not in space.backbones]
    if strangers:
        raise WeightsError(
            f"--weights names {strangers[0]!r}{did_you_mean(strangers[0], space.backbones)}, which "
            f"this search does not try: it tries {', '.join(space.backbones)}"
        )
    if options.study:
        check_study_name(options.study)
    dataset = load_groups(
        load_dataset(data, crop=options.crop), file=options.groups, pattern=options.group_pattern
    )
    groups_given = any(picture.group is not None for picture in dataset.pictures)
    if options.tie_duplicates:
        dataset = tie_duplicates(dataset, workspace.duplicates, listener.stage)
    listener.stage(_describe(dataset, groups_given=groups_given))
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
    name = options.study or as_study_name("demo" if is_demo else f"{dataset.name}-{space.name}")
    stored = database.load_plan(name)
    limited: tuple[str, ...] = ()
    if options.max_latency_ms is not None and stored is not None:
        # Measured once, when the study began: a second measurement might choose differently.
        limited = tuple(note for note in stored.notes if note.startswith(_LATENCY_NOTE))
        space = space.with_backbones(stored.weights)
    elif options.max_latency_ms is not None:
        space, limited = _within_latency(space, options.max_latency_ms, dataset, device, listener)
    weights = {name: _weights_of(name, options, dataset, listener) for name in space.backbones}
    if stored is not None and stored.device == device:
        # Numbers of one study are computed in one way, whatever a new measurement would say.
        arithmetic = stored.arithmetic
    else:
        arithmetic = {
            backbone: _arithmetic_of(backbone, weights[backbone], space, device, listener)
            for backbone in space.backbones
        }
    plan = StudyPlan(
        study=name,
        space=space.as_dict(),
        dataset=dataset,
        split=split,
        settings=Settings(
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
            store=store,
        ),
        weights=weights,
        device=device,
        arithmetic=arithmetic,
        workspace=str(workspace.root),
        cache_bytes=int(options.cache_gb * 1e9),
        notes=(*_notes(dataset, split, weights, groups_given=groups_given), *limited),
        further_splits=tuple(further_splits),
    )
    if stored is not None:
        refuse_changes(stored, plan)
        if not options.protocols:
            plan = replace(plan, further_splits=stored.further_splits)
    return replace(plan, notes=(*plan.notes, *_rounding_notes(plan, listener)))


def _as_begun(plan: StudyPlan, database: Database) -> StudyPlan:
    """Fit a plan to the stored one, which another owner may have stored since it was made.

    Raises:
        StudyMismatchError: they differ.
    """
    stored = database.load_plan(plan.study)
    if stored is None:
        return plan
    refuse_changes(stored, plan)
    return replace(plan, arithmetic=stored.arithmetic)


def _store(name: str) -> Store:
    if name not in STORES:
        raise InputError(
            f"--store takes {' or '.join(STORES)}, not {name!r}{did_you_mean(name, STORES)}"
        )
    return name


def _adapted_space(
    options: SearchOptions, *, device: str, is_demo: bool, listener: Listener
) -> SearchSpace:
    name = options.space
    if name is None:
        name = "demo" if is_demo else "cpu" if device == "cpu" else "default"
        why = "made for the demo set" if is_demo else f"the device is {device}"
        listener.stage(f"search space: {name} ({why}; choose another with --space)")
    space = load_space(name)
    if options.backbones:
        space = space.with_backbones(options.backbones)
    return replace(
        space,
        folds=options.folds or space.folds,
        epochs=options.epochs or space.epochs,
        batch_size=options.batch_size or space.batch_size,
        image_size=options.image_size or space.image_size,
    )


def _within_latency(
    space: SearchSpace, most_ms: float, dataset: Dataset, device: Device, listener: Listener
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
    name: str, options: SearchOptions, dataset: Dataset, listener: Listener
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
    backbone: str, source: WeightSource, space: SearchSpace, device: Device, listener: Listener
) -> Arithmetic:
    spec = describe_backbone(backbone)
    size = space.image_size or spec.image_size
    model = build_model(spec, source, classes=2, image_size=size, seed=0)
    if model.recomputed:
        listener.stage(f"{backbone} {model.recomputed}")
    chosen = choose_arithmetic(device, model, size)
    layout = " channels_last" if chosen.channels_last else ""
    listener.stage(f"arithmetic of {backbone}: {chosen.dtype}{layout} ({chosen.reason})")
    return chosen


def _describe(dataset: Dataset, *, groups_given: bool) -> str:
    groups = {picture.group for picture in dataset.pictures if picture.group is not None}
    parts = [
        f"data: {dataset.name}, {len(dataset.pictures)} pictures of {len(dataset.classes)} classes"
    ]
    parts.append(f"{len(groups)} groups" if groups_given else "no groups given")
    alone = sum(picture.group is None for picture in dataset.pictures)
    if groups_given and alone:
        parts.append(f"{alone} pictures without a group")
    if dataset.crop:
        parts.append(f"cropped to {','.join(map(str, dataset.crop))}")
    if dataset.synthetic:
        parts.append("synthetic")
    text = ", ".join(parts)
    for remark in remarks(dataset):
        text += f"\n  {remark}"
    for picture in dataset.broken:
        text += f"\n  left out, broken: {picture.path} ({picture.reason})"
    return text


def _notes(
    dataset: Dataset, split: Split, weights: Mapping[str, WeightSource], *, groups_given: bool
) -> tuple[str, ...]:
    notes = []
    if dataset.synthetic:
        notes.append("The data are synthetic, made by the built-in generator to try the tool.")
    if dataset.broken:
        notes.append(f"Broken pictures were left out: {len(dataset.broken)}.")
    random = [name for name, source in weights.items() if source.kind == "random"]
    if random:
        notes.append(
            f"Random weights: {', '.join(random)} began from random weights, not pretrained ones; "
            "scores are far below what pretrained weights give."
        )
    if not groups_given:
        notes.append(
            "No groups were given: pictures cut from one recording or source may stand on both "
            "sides of a split, which inflates scores. A groups.csv (path,group) closes that leak."
        )
    if split.protocol == "random" and is_tied(dataset):
        notes.append(
            "The split is random: groups and duplicates are known and ignored on purpose, so "
            "pictures of one group stand on both sides, which inflates scores."
        )
    return tuple(notes)


def _rounding_notes(plan: StudyPlan, listener: Listener) -> tuple[str, ...]:
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
