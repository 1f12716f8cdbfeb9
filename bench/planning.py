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
from bench.latency.limit import limit_notes, within_limit
from bench.listener import Display
from bench.models.backbones import describe_backbone
from bench.models.staged import build_model
from bench.models.weights import resolve_weights
from bench.records import (
    Arithmetic,
    Dataset,
    Family,
    Settings,
    Split,
    StudyPlan,
    TrainingDevice,
    WeightSource,
    ungrouped_remark,
)
from bench.search.options import SearchOptions
from bench.search.study import refuse_changes
from bench.space import SearchSpace, load_space
from bench.training.arithmetic import choose_arithmetic, choose_device
from bench.training.networks import StudyNetworks
from bench.training.rounding import measure_rounding
from bench.words import counted
from bench.workspace import DISK_ERRORS, Workspace, as_study_name, usable_cores

# What a person must know of a space's augmentation, to see whether it suits the pictures.
_TREATED_AS: dict[Family, str] = {
    "spectrogram": "spectrograms: no flips, no colour changes",
    "photo": "photos: flips and colour changes",
}
# The pixels of 1,339 pictures as GTZAN has them; what does not fit is decoded at each look.
_PIXEL_CACHE_BYTES = 500_000_000
_WITHOUT_FRAME = " (without the frame that all pictures share; --crop none keeps it)"
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

    Args:
        data: a folder of pictures by class or a manifest; None for the demo set.
        options: what was asked for.
        workspace: where what can be computed again is kept.
        database: where studies are; one of this name is gone on with.
        listener: hears what is done and found.

    Raises:
        DataError, SpaceError, WeightsError, DeviceError: something given cannot work.
        StudyMismatchError: the study exists and was begun differently.
        InputError: no backbone is as fast as was asked for.
        WorkspaceError: the disk is full or cannot be written.
    """
    device = choose_device(options.device)
    name = study_name(data, options)
    return _Planner(data, options, workspace, device, database.load_plan(name), listener).plan(name)


class _Planner:
    """Makes one plan. `stored` is that of the study, if it was begun before."""

    def __init__(
        self,
        data: str | Path | None,
        options: SearchOptions,
        workspace: Workspace,
        device: TrainingDevice,
        stored: StudyPlan | None,
        listener: Display,
    ) -> None:
        self._data = data
        self._options = options
        self._workspace = workspace
        self._device: TrainingDevice = device
        self._stored = stored
        self._listener = listener
        # A study that was begun has looked for duplicates and stored its pictures, as a rule.
        self._pixel_cache = PixelCache(_PIXEL_CACHE_BYTES if stored is None else 0)

    def plan(self, study: str) -> StudyPlan:
        """Make the plan of a study of this name."""
        options, stored, say = self._options, self._stored, self._listener.stage
        if self._data is None:
            say(f"no DATA given: using the built-in synthetic demo set in {self._workspace.demo}")
        space = choose_space(
            options, device=self._device, is_demo=self._data is None, listener=self._listener
        )
        _refuse_strange_weights(options.weights, space)
        load = _load_if_busy()  # asked first: what follows is a load too
        dataset = self._read()
        refuse_scarce_classes(dataset, options.protocols, folds=space.folds)
        # Asked before duplicates are tied, which puts pictures into groups that nobody gave.
        groups_given = any(picture.group is not None for picture in dataset.pictures)
        leak = _leak_of_groups(dataset)
        space, latencies_ms, limited = self._within_limit(space, dataset)
        weights = {name: self._weights(name, dataset) for name in space.backbones}
        if stored is None:
            self._store_pictures(dataset, space)
        if options.tie_duplicates:
            dataset = tie_duplicates(dataset, self._workspace.duplicates, say, self._pixel_cache)
        self._pixel_cache.clear()
        say(_describe(dataset, groups_given=groups_given, found_frame=options.crop == "auto"))
        if groups_given and leak is not None:
            say(leak)
        split, further_splits = self._splits(dataset, folds=space.folds)
        plan = StudyPlan(
            study=study,
            space=space.as_dict(),
            dataset=dataset,
            split=split,
            settings=_settings(space, options),
            weights=weights,
            device=self._device,
            arithmetic=self._arithmetic(space, weights, load),
            workspace=str(self._workspace.root),
            cache_bytes=int(options.cache_gb * 1e9),
            notes=(*_notes(dataset, split, weights, leak), *limited),
            further_splits=further_splits,
            untrained_latencies_ms=latencies_ms,
        )
        if stored is None:
            return replace(plan, notes=(*plan.notes, *self._rounding_notes(plan)))
        refuse_changes(stored, plan)
        self._store_pictures(dataset, space)
        plan = replace(plan, notes=stored.notes)
        return plan if options.protocols else replace(plan, further_splits=stored.further_splits)

    def _read(self) -> Dataset:
        """Read the pictures and their groups; the demo's are made where they are missing."""
        options, demo = self._options, self._workspace.demo
        if self._data is None and (remark := keep_or_make_demo(demo)) is not None:
            self._listener.stage(remark)
        data = self._data or demo
        with self._listener.steps() as steps:
            steps.begin(f"reading the pictures of {data}")
            listing = list_source(data)
            dataset = read_pictures(
                listing,
                crop=options.crop,
                progress=steps.reach,
                pixel_cache=self._pixel_cache,
                kept=self._workspace.readings,
            )
        if (passed_over := listing.passed_over.in_words) is not None:
            self._listener.stage(passed_over)
        return load_groups(dataset, file=options.groups, pattern=options.group_pattern)

    def _store_pictures(self, dataset: Dataset, space: SearchSpace) -> None:
        """Store the pictures as the backbones of a space see them, where they are not stored yet.

        Raises:
            DataError: a picture that could be read before can no longer be.
            WorkspaceError: the disk is full or cannot be written.
        """
        cache = self._workspace.cache
        geometries = {
            describe_backbone(backbone).geometry(
                image_size=space.image_size, crop=dataset.crop, resize=space.resize
            )
            for backbone in space.backbones
        }
        with self._listener.steps() as steps:
            for geometry in geometries:
                try:
                    DecodedStore.open(dataset, geometry, cache, self._pixel_cache, steps)
                except OSError as error:
                    if error.errno not in DISK_ERRORS:
                        raise
                    raise WorkspaceError(
                        f"the pictures cannot be stored in {cache}: {error}; make room there and "
                        "give the same command again, or choose another --workspace"
                    ) from error

    def _within_limit(
        self, space: SearchSpace, dataset: Dataset
    ) -> tuple[SearchSpace, dict[str, float], list[str]]:
        """Leave out what `--max-latency-ms` forbids; return the rest, latencies, and notes."""
        most_ms, stored = self._options.max_latency_ms, self._stored
        if most_ms is None or (stored and stored.settings.max_latency_ms != most_ms):
            return space, {}, []  # another limit is a change of the study, which is refused
        known_ms = stored.untrained_latencies_ms if stored else {}
        space, latencies_ms = within_limit(
            space, most_ms, dataset, self._device, self._listener, known_ms=known_ms
        )
        notes = limit_notes(latencies_ms, most_ms, self._device)
        if not known_ms:
            for note in notes:
                self._listener.stage(note)
        return space, latencies_ms, notes

    def _splits(self, dataset: Dataset, *, folds: int) -> tuple[Split, tuple[Split, ...]]:
        """The split that is searched on, and those of further protocols."""
        options = self._options
        (split, *further), said = make_splits(
            dataset,
            options.protocols,
            folds=folds,
            test_fraction=options.test_fraction,
            seed=options.seed,
            lists=options.parts,
        )
        for remark in said:
            self._listener.stage(remark)
        return split, tuple(further)

    def _weights(self, name: str, dataset: Dataset) -> WeightSource:
        options = self._options
        spec = describe_backbone(name)
        try:
            return resolve_weights(spec, pretrained=options.pretrained, files=options.weights)
        except WeightsError as error:
            if not dataset.synthetic or name in options.weights:
                raise
            self._listener.stage(f"demo only: random weights for {name}, because {error}")
            return WeightSource(kind="random")

    def _arithmetic(
        self, space: SearchSpace, weights: Mapping[str, WeightSource], load: float | None
    ) -> dict[str, Arithmetic]:
        """How to compute each backbone's steps; `load` is that of other programs, if any disturb.

        Numbers of one study are computed in one way, whatever a new measurement would say.
        """
        if self._stored is not None and self._stored.device == self._device:
            return self._stored.arithmetic
        return {name: self._timed(name, weights[name], space, load) for name in space.backbones}

    def _timed(
        self, backbone: str, source: WeightSource, space: SearchSpace, load: float | None
    ) -> Arithmetic:
        """The fastest number format for a backbone's training steps."""
        say = self._listener.stage
        spec = describe_backbone(backbone)
        size = space.image_size or spec.image_size
        model = build_model(spec, source, classes=2, image_size=size, seed=0)
        if model.recomputed:
            say(f"{backbone} {model.recomputed}")
        say(f"timing training steps of {backbone} in each number format")
        if load is not None:
            say(_load_remark(load))
        chosen = choose_arithmetic(self._device, model, size, busy=load is not None)
        layout = " channels_last" if chosen.channels_last else ""
        recorded = ", steps recorded as CUDA graphs" if chosen.graphs else ""
        say(f"arithmetic of {backbone}: {chosen.dtype}{layout}{recorded} ({chosen.reason})")
        return chosen

    def _rounding_notes(self, plan: StudyPlan) -> tuple[str, ...]:
        """State what rounding stored activations does to each backbone, where they are rounded."""
        if plan.settings.store == "exact":
            return ()
        networks = StudyNetworks(plan)
        notes = tuple(str(measure_rounding(networks, backbone)) for backbone in plan.weights)
        for note in notes:
            self._listener.stage(note)
        return notes


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


def choose_space(
    options: SearchOptions, *, device: TrainingDevice, is_demo: bool, listener: Display
) -> SearchSpace:
    """Load the search space and tell which it is; what was asked for stands in for its own.

    Raises:
        SpaceError, InputError: it cannot be had, or has a backbone that timm does not know.
    """
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


def _own_space(device: str, *, is_demo: bool) -> str:
    """The search space where none is named."""
    return "demo" if is_demo else "cpu" if device == "cpu" else "default"


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


def _describe(dataset: Dataset, *, groups_given: bool, found_frame: bool) -> str:
    groups = {picture.group for picture in dataset.pictures if picture.group is not None}
    pictures = counted(len(dataset.pictures), "picture")
    classes = counted(len(dataset.classes), "class", "classes")
    parts = [f"data: {dataset.name}, {pictures} of {classes}"]
    parts.append(counted(len(groups), "group") if groups_given else "no groups given")
    if dataset.crop:
        box = ",".join(map(str, dataset.crop))
        parts.append(f"cropped to {box}{_WITHOUT_FRAME if found_frame else ''}")
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
