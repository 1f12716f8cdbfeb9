"""One trial, fold after fold, as a generator of events that is told after each to go on or stop."""

from __future__ import annotations

import copy
import time
import traceback
from collections import OrderedDict
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import timm
import torch
from torch import nn

from bench.data.store import DecodedStore
from bench.errors import BenchError, NonFiniteLossError, ShortOfMemoryError, WorkspaceError
from bench.metrics import score_epoch
from bench.models.backbones import BackboneSpec, describe_backbone
from bench.models.staged import StagedModel, build_model
from bench.records import (
    PARTS,
    BatchNormMode,
    EpochDone,
    EpochScores,
    Event,
    FailureKind,
    Protocol,
    Recipe,
    StudyPlan,
    TrialDone,
    TrialFailed,
    TrialJob,
    fingerprint_of,
)
from bench.runtime.preprocess import Geometry
from bench.space import SearchSpace
from bench.training.activations import (
    ActivationStore,
    ComputedActivations,
    Indices,
    PixelSource,
)
from bench.training.arithmetic import LAYOUTS
from bench.training.conditions import NUMERICS, describe_conditions
from bench.training.folds import FoldResult, fold_file, read_fold, write_fold
from bench.training.frozen import FrozenPart
from bench.training.learner import Learner
from bench.training.loop import Schedule, fit
from bench.training.memory import (
    is_out_of_memory,
    keep_freed_memory,
    release_memory,
    resident_bytes,
)
from bench.training.start import Start, find_start
from bench.training.stored import ActivationCache, StoredActivations
from bench.workspace import DISK_ERRORS, Workspace

TrialEvents = Generator[Event, bool, None]


# Learners that a GPU keeps: a study needs about a dozen, and each holds four times its network's
# size and what a recorded step works in.
_LEARNERS_ON_CUDA = 6
_FREE_ON_CUDA = 0.25  # of its memory; with less, learners make room for a new one
# Of the disk for activations, what the float32 views of a policy that augments may take at a
# boundary that they are kept at only because they pass it. There are three such policies, and with
# the usual spaces two such boundaries a backbone; of more, what was used least recently goes.
_SHARE_ON_THE_WAY = 1 / 8


# What the kinds of failures are as errors, where they are nothing more special.
_ERRORS: dict[FailureKind, type[BenchError]] = {
    "non-finite loss": NonFiniteLossError,
    "out of memory": ShortOfMemoryError,
    "workspace": WorkspaceError,
}


@dataclass(frozen=True, slots=True)
class _LearnerKind:
    """What recipes that share a learner have in common."""

    backbone: str
    freeze_depth: int
    batch_norm: BatchNormMode
    micro_batches: int

    @classmethod
    def of(cls, recipe: Recipe, micro_batches: int) -> _LearnerKind:
        return cls(recipe.backbone, recipe.freeze_depth, recipe.batch_norm, micro_batches)


class Trainer:
    """Trains trials of one study; keeps learners and decoded pictures between them.

    With `further_protocol` the plan's split is that protocol's, and its folds are stored apart.
    Folds are stored in the plan's workspace, or in the one of `folds_in`, where others than the
    study's are to be found.
    """

    def __init__(
        self,
        plan: StudyPlan,
        *,
        workers: int = 1,
        further_protocol: Protocol | None = None,
        folds_in: Workspace | None = None,
    ) -> None:
        if plan.device == "cpu":
            keep_freed_memory()
        else:
            release_memory(plan.device)  # learners of an earlier one lie in reference cycles
        self.plan = plan
        self._further_protocol = further_protocol
        self._workspace = Workspace(Path(plan.workspace))
        self._folds_in = folds_in or self._workspace
        self._labels = np.asarray(plan.dataset.labels, dtype=np.int64)
        self._freeze_depths = SearchSpace.from_dict(plan.space).freeze_depths
        self._templates: dict[str, StagedModel] = {}
        self._images: dict[Geometry, DecodedStore] = {}
        self._frozen_parts: dict[str, FrozenPart] = {}
        self._frozen_identities: dict[str, str] = {}
        self._starts: dict[tuple[str, int, bytes], Start] = {}
        self._learners: OrderedDict[_LearnerKind, Learner] = OrderedDict()
        self._cache = ActivationCache(
            self._workspace.cache / "activations",
            disk_bytes=plan.cache_bytes,
            memory_bytes=resident_bytes(plan.device) // workers,
            device=plan.device,
        )

    def run(self, job: TrialJob) -> TrialEvents:
        """Yield an `EpochDone` an epoch, then `TrialDone`; or `TrialFailed`, whatever happens.

        Send False to stop. Folds that an interrupted run has finished are not trained again:
        their stored epochs are told once more, in the same order. A fold that runs out of memory
        begins again with twice as many micro-batches a batch, down to two pictures in each.
        """
        micro_batches, fold, refused = 1, 0, False
        try:
            while fold < len(self.plan.split.folds):
                finished = self._finished_fold(job, fold)
                try:
                    if finished is None:
                        epochs = self._train_fold(job, fold, micro_batches)
                    else:
                        micro_batches = max(micro_batches, finished.micro_batches)
                        epochs = _told_again(job, finished)
                    for event in epochs:
                        go_on = yield event
                        if not go_on:
                            return
                    fold += 1
                    refused = self._drop_refused() or refused
                    continue
                except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                    more = self.micro_batches_after(error, job.recipe, micro_batches)
                    if more is None:
                        raise
                    micro_batches = more
                # Not before here: the error holds the failed step and all its tensors.
                self.release_memory()
            yield TrialDone(trial=job.number, remark=self._remark(micro_batches, refused))
        except Exception as error:
            if not isinstance(error, NonFiniteLossError):
                self._learners.clear()  # one may have stopped within a step
            kind = _kind_of(error)
            # The message of a foreseen error says all; any other is a defect to be found.
            foreseen = isinstance(error, BenchError) or kind != "bad trial code"
            message = str(error) if foreseen else traceback.format_exc()
            yield TrialFailed(trial=job.number, kind=kind, message=message)
        finally:
            self._drop_refused()  # of a trial that was stopped too

    def micro_batches_after(
        self, error: Exception, recipe: Recipe, micro_batches: int
    ) -> int | None:
        """Return with how many micro-batches a batch to begin again after an error.

        None where that does not help: memory was not what was missing, or each has two pictures
        already. The caller calls `release_memory` when it has let go of the error.
        """
        if not is_out_of_memory(error):
            return None
        # On a GPU it may be what is kept for other trials that leaves no room.
        if self.plan.device == "cuda" and self._give_up_memory(recipe, micro_batches):
            return micro_batches
        return 2 * micro_batches if self.plan.settings.batch_size >= 4 * micro_batches else None

    def release_memory(self) -> None:
        """Give back what failed or finished work left in the training device's memory."""
        release_memory(self.plan.device)

    def fold_scores(self, job: TrialJob) -> tuple[float, ...]:
        """Run a trial to its end; return the balanced accuracy of each fold's last epoch.

        Raises:
            NonFiniteLossError: training diverged.
            ShortOfMemoryError: there is too little memory.
            WorkspaceError: the disk is full or cannot be written.
            BenchError: it failed otherwise.
        """
        last: dict[int, float] = {}
        events = self.run(job)
        event = next(events)
        while isinstance(event, EpochDone):
            last[event.scores.fold] = event.scores.balanced_accuracy
            event = events.send(True)
        if isinstance(event, TrialFailed):
            raise _ERRORS.get(event.kind, BenchError)(f"{event.kind}: {event.message}")
        return tuple(last[fold] for fold in sorted(last))

    def close(self) -> None:
        """Give back what is kept in memory, so that others find it."""
        self._learners.clear()
        self._templates.clear()
        self._frozen_parts.clear()
        self._cache.give_up_memory()
        self.release_memory()

    def spec(self, backbone: str) -> BackboneSpec:
        return describe_backbone(backbone)

    def geometry(self, backbone: str) -> Geometry:
        """How the study's pictures are cut and resized for a backbone."""
        settings = self.plan.settings
        return self.spec(backbone).geometry(
            image_size=settings.image_size, crop=self.plan.dataset.crop, resize=settings.resize
        )

    def images(self, backbone: str) -> DecodedStore:
        """The decoded pictures in a backbone's geometry, opened once for all that share it.

        Raises:
            DataError: they must be decoded again, and one is gone or has changed.
        """
        geometry = self.geometry(backbone)
        if geometry not in self._images:
            self._images[geometry] = DecodedStore.open(
                self.plan.dataset, geometry, self._workspace.cache
            )
        return self._images[geometry]

    def model(self, recipe: Recipe, seed: int) -> StagedModel:
        """A fresh copy of the recipe's network on the training device, frozen as it says."""
        model = copy.deepcopy(self._template(recipe.backbone))
        model.freeze(recipe.freeze_depth, recipe.batch_norm)
        self._draw_head(model, seed)
        return model

    def _draw_head(self, model: StagedModel, seed: int) -> None:
        devices = [torch.cuda.current_device()] if self.plan.device == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            for module in model.classifier.modules():
                if isinstance(module, nn.Linear):
                    module.reset_parameters()

    def _template(self, backbone: str) -> StagedModel:
        plan = self.plan
        if backbone not in self._templates:
            model = build_model(
                self.spec(backbone),
                plan.weights[backbone],
                classes=len(plan.dataset.classes),
                image_size=self.images(backbone).image_size,
                seed=plan.settings.seed,
            )
            layout = LAYOUTS[plan.arithmetic[backbone].channels_last]
            self._templates[backbone] = model.to(plan.device).to(memory_format=layout)
        return self._templates[backbone]

    def prepare(
        self, recipe: Recipe, train: Indices, seed: int, micro_batches: int = 1
    ) -> tuple[Learner, ActivationStore]:
        """Set a learner to where training on some pictures begins; also return what feeds it.

        The learner is good until the next one is asked for.
        """
        learner = self._learner(recipe, micro_batches)
        learner.model.copy_weights(self._template(recipe.backbone))
        self._draw_head(learner.model, seed)
        activations = self.activations(recipe.backbone, learner.boundary)
        if self.plan.settings.linear_probe:
            start = self._start(recipe, train, learner.model, learner.boundary)
            start.apply(learner.model)
        return learner, activations

    def _learner(self, recipe: Recipe, micro_batches: int) -> Learner:
        """What trains the parts that the recipe leaves free, made before for another one or now."""
        kind = _LearnerKind.of(recipe, micro_batches)
        if kind in self._learners:
            self._learners.move_to_end(kind)
            return self._learners[kind]
        while self._learners and not self._has_room_for_a_learner():
            self._learners.popitem(last=False)
            if self.plan.device == "cuda":
                release_memory(self.plan.device)
        model = self.model(recipe, seed=0)
        learner = Learner(
            model,
            model.boundary(recipe.freeze_depth),
            self.plan.arithmetic[recipe.backbone],
            micro_batches=micro_batches,
        )
        self._learners[kind] = learner
        return learner

    def _has_room_for_a_learner(self) -> bool:
        if self.plan.device != "cuda" or len(self._learners) >= _LEARNERS_ON_CUDA:
            return False
        free, total = torch.cuda.mem_get_info()
        free += torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return free >= _FREE_ON_CUDA * total

    def _drop_refused(self) -> bool:
        """Drop the learners if one of them could not be recorded; tell whether that was so.

        A refusal replaces the state of the random numbers, which older recordings go on to read.
        """
        refused = any(learner.refused for learner in self._learners.values())
        if refused:
            self._learners.clear()
        return refused

    def _give_up_memory(self, recipe: Recipe, micro_batches: int) -> bool:
        """Give back what is kept in the GPU's memory for others; False where nothing was."""
        others = bool(self._learners.keys() - {_LearnerKind.of(recipe, micro_batches)})
        self._learners.clear()
        return self._cache.give_up_memory() or others

    def _start(self, recipe: Recipe, train: Indices, model: StagedModel, boundary: int) -> Start:
        """Where training on these pictures begins: the same for every trial, or every one that
        adapts the same normalisations.
        """
        adapts = bool(model.updating_norms())
        key = (recipe.backbone, recipe.freeze_depth if adapts else PARTS, train.tobytes())
        if key not in self._starts:
            at = boundary if adapts else PARTS
            self._starts[key] = find_start(
                model,
                self.activations(recipe.backbone, at),
                at,
                self._labels,
                train,
                self.plan.settings.batch_size,
                self.plan.arithmetic[recipe.backbone],
            )
        return self._starts[key]

    def pixels(self, backbone: str) -> PixelSource:
        """The decoded pictures, augmented, on the training device."""
        return PixelSource(
            self.images(backbone),
            family=self.plan.settings.family,
            seed=self.plan.settings.seed,
            arithmetic=self.plan.arithmetic[backbone],
        )

    def frozen_part(self, backbone: str) -> FrozenPart:
        """Runs the parts of a backbone that its recipes freeze."""
        if backbone not in self._frozen_parts:
            self._frozen_parts[backbone] = FrozenPart(
                self._template(backbone), self.plan.arithmetic[backbone]
            )
        return self._frozen_parts[backbone]

    def activations(self, backbone: str, boundary: int) -> ActivationStore:
        """What feeds the part of a backbone behind `boundary`."""
        plan, store = self.plan, self.plan.settings.store
        pixels, frozen = self.pixels(backbone), self.frozen_part(backbone)
        pictures, elements = len(plan.split.development), frozen.elements
        # Of each number at a boundary, what a policy's views of all pictures take on the disk.
        number_bytes = (4 if store == "exact" else 2) * pictures * plan.settings.epochs
        # What one trial alone would push out again is not worth storing.
        on_disk = boundary > 0 and plan.cache_bytes >= number_bytes * elements[boundary]
        # A GPU computes again sooner what is larger than a picture.
        on_the_way = self._frozen_at(backbone, boundary, most=elements[0])
        # In memory nothing is halved, and validation's view is one more.
        kept = elements[boundary] + sum(elements[b] for b in on_the_way)
        in_memory = plan.device == "cuda" and self._cache.memory_bytes >= (
            4 * kept * pictures * (plan.settings.epochs + 1)
        )
        if not in_memory:
            most = int(_SHARE_ON_THE_WAY * plan.cache_bytes) // number_bytes
            on_the_way = self._frozen_at(backbone, boundary, most=most)
        if plan.cache_bytes == 0 or not (in_memory or on_disk):
            return ComputedActivations(pixels, frozen, boundary, store)
        if backbone not in self._frozen_identities:
            self._frozen_identities[backbone] = fingerprint_of(
                (
                    NUMERICS,
                    self._template(backbone).body_fingerprint(),
                    pixels.identity,
                    plan.split.development,
                    plan.device,
                    plan.arithmetic[backbone].dtype,
                    plan.arithmetic[backbone].channels_last,
                    str(torch.__version__),
                    timm.__version__,
                )
            )
        return StoredActivations(
            pixels,
            frozen,
            boundary,
            np.asarray(plan.split.development, dtype=np.int64),
            self._cache,
            self._frozen_identities[backbone],
            store,
            on_the_way=on_the_way,
            in_memory=in_memory,
        )

    def _frozen_at(self, backbone: str, before: int, *, most: int) -> list[int]:
        """The boundaries before one that trials begin at, and that have at most so many numbers."""
        template = self._template(backbone)
        boundaries = {template.boundary(depth) for depth in self._freeze_depths}
        return [b for b in sorted(boundaries) if 0 < b < before and template.elements[b] <= most]

    def _remark(self, micro_batches: int, refused: bool) -> str | None:
        """What a trial's reader should know of how it was trained."""
        remarks = []
        if micro_batches > 1:
            remarks.append(
                f"out of memory at {self.plan.settings.batch_size} pictures a batch: gradients "
                f"were accumulated over {micro_batches} micro-batches"
            )
        if refused:
            remarks.append("steps could not be recorded as CUDA graphs: they took longer")
        return "; ".join(remarks) or None

    # --- folds ------------------------------------------------------------------------------

    def _fold_file(self, job: TrialJob, fold: int) -> Path:
        return fold_file(self._folds_in, self.plan.study, job.number, fold, self._further_protocol)

    def _finished_fold(self, job: TrialJob, fold: int) -> FoldResult | None:
        """What an earlier run stored of a fold, if it was the same training."""
        finished = read_fold(self._fold_file(job, fold))
        same = finished and finished.identity == training_identity(self.plan, job.recipe)
        return finished if same else None

    def _train_fold(self, job: TrialJob, fold: int, micro_batches: int) -> Iterator[EpochDone]:
        settings, recipe = self.plan.settings, job.recipe
        validation = np.asarray(self.plan.split.folds[fold], dtype=np.int64)
        train = np.asarray(self.plan.split.training_part(fold), dtype=np.int64)
        seed = fold_seed(settings.seed, job.number, fold)
        learner, activations = self.prepare(recipe, train, seed, micro_batches)
        epochs: list[EpochScores] = []
        conditions = describe_conditions(self.plan.device)
        started = time.perf_counter()
        for outcome in fit(
            learner,
            activations,
            self._labels,
            train,
            validation,
            recipe,
            Schedule(epochs=settings.epochs, batch_size=settings.batch_size, seed=seed),
        ):
            assert outcome.probabilities_nk is not None
            now = time.perf_counter()
            epochs.append(
                score_epoch(
                    self._labels[validation],
                    outcome.probabilities_nk,
                    fold=fold,
                    epoch=outcome.epoch,
                    train_loss=outcome.train_loss,
                    seconds=now - started,
                )
            )
            started = now
            if len(epochs) == settings.epochs:
                # Stored before the last epoch is told: what the study knows of can be read.
                result = FoldResult(
                    identity=training_identity(self.plan, recipe),
                    epochs=tuple(epochs),
                    pictures=validation,
                    probabilities_nk=outcome.probabilities_nk,
                    micro_batches=learner.micro_batches,
                )
                write_fold(self._fold_file(job, fold), result)
            yield EpochDone(trial=job.number, scores=epochs[-1], conditions=conditions)


def _told_again(job: TrialJob, finished: FoldResult) -> Iterator[EpochDone]:
    for scores in finished.epochs:
        yield EpochDone(trial=job.number, scores=scores)


def fold_seed(seed: int, trial: int, fold: int) -> int:
    """A seed that depends on nothing but the study's seed, the trial and the fold."""
    return int(np.random.SeedSequence([seed, trial, fold]).generate_state(1)[0])


def training_identity(plan: StudyPlan, recipe: Recipe) -> str:
    """Identity of all that a training's numbers depend on besides its seed.

    A workspace can outlive its database, and a study's name can be used again.
    """
    arithmetic = plan.arithmetic[recipe.backbone]
    return fingerprint_of(
        (
            recipe,
            replace(plan.settings, pruner=""),
            plan.split.fingerprint,
            plan.weights[recipe.backbone],
            NUMERICS,
            # By name, for recorded steps give the same numbers: `graphs` is none of it.
            {
                "channels_last": arithmetic.channels_last,
                "device": arithmetic.device,
                "dtype": arithmetic.dtype,
                "reason": "",
            },
        )
    )


def _kind_of(error: Exception) -> FailureKind:
    if is_out_of_memory(error):
        return "out of memory"
    if isinstance(error, NonFiniteLossError):
        return "non-finite loss"
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        return "workspace"
    return "bad input" if isinstance(error, BenchError) else "bad trial code"
