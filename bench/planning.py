"""Before training: everything that the trials of a study share is settled, or refused."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
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
from bench.data.reading import read_pictures
from bench.data.sources import dataset_name, list_source
from bench.data.splits import refuse_scarce_classes
from bench.data.store import DecodedStore
from bench.database import Database
from bench.errors import WeightsError, WorkspaceError, did_you_mean
from bench.models.backbones import describe_backbone
from bench.models.staged import build_model
from bench.models.weights import resolve_weights
from bench.promote.latency_limit import within_limit
from bench.records import (
    Arithmetic,
    Dataset,
    Family,
    Settings,
    Split,
    StudyPlan,
    WeightSource,
    ungrouped_remark,
)
from bench.search.listener import Display
from bench.search.options import SearchOptions
from bench.search.study import refuse_changes
from bench.space import SearchSpace, load_space
from bench.training.arithmetic import Device, choose_arithmetic, choose_device
from bench.training.rounding import measure_rounding
from bench.training.trainer import Trainer
from bench.words import counted
from bench.workspace import DISK_ERRORS, Workspace, as_study_name, usable_cores

# What a person must know of a space's augmentation, to see whether it suits the pictures.
_TREATED_AS: dict[Family, str] = {
    "spectrogram": "spectrograms: no flips, no colour changes",
    "photo": "photos: flips and colour changes",
}
# The pixels of 1,339 pictures as GTZAN has them; what does not fit is decoded at each look.
_PIXEL_CACHE_BYTES = 500_000_000
# Load of a core from which other programs disturb what is timed.
_BUSY_LOAD = 1.5


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
    dataset = _read(data or workspace.demo, options, workspace, listener, pixel_cache)
    refuse_scarce_classes(dataset, options.protocols, folds=space.folds)
    # Asked before duplicates are tied, which puts pictures into groups that nobody gave.
    groups_given = any(picture.group is not None for picture in dataset.pictures)
    leak = _leak_of_groups(dataset)
    space, limited = within_limit(space, options.max_latency_ms, stored, dataset, device, listener)
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
    data: str | Path,
    options: SearchOptions,
    workspace: Workspace,
    listener: Display,
    pixel_cache: PixelCache,
) -> Dataset:
    with listener.steps() as steps:
        steps.begin(f"reading the pictures of {data}")
        listing = list_source(data)
        dataset = read_pictures(
            listing,
            crop=options.crop,
            progress=steps.reach,
            pixel_cache=pixel_cache,
            kept=workspace.readings,
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
