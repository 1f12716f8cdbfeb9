"""Records of a search: recipes, plans, trials and their events."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any, Literal

from bench.records.data import Dataset, Split
from bench.records.names import (
    BatchNormMode,
    FailureKind,
    Family,
    Policy,
    ResizeRule,
    Store,
    TrialState,
)

# Leading parts that every network is cut into; a head follows.
PARTS = 5

TrainingDevice = Literal["cpu", "cuda"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How one model is trained. The names are those of the trial's parameters.

    `freeze_depth` counts the leading parts of five that are frozen (5: the head alone).
    `head_lr_factor` multiplies `learning_rate` for the head. `mixup` is the alpha of the Beta
    distribution (Zhang et al., 2018), 0 turns it off. `batch_norm` says whether the trainable
    part's batch normalisation goes on updating its running statistics.
    """

    backbone: str
    learning_rate: float = 1e-4
    weight_decay: float = 1e-2
    augmentation: Policy = "light"
    freeze_depth: int = 4
    label_smoothing: float = 0.05
    mixup: float = 0.0
    head_lr_factor: float = 10.0
    batch_norm: BatchNormMode = "frozen"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What all trials of a study share and what must not change when it is resumed."""

    epochs: int
    batch_size: int
    image_size: int | None  # pixels; None: the backbone's own
    resize: ResizeRule
    family: Family
    pretrained: bool
    seed: int
    pruner: str
    sampler: str = "tpe"
    max_latency_ms: float | None = None
    linear_probe: bool = True  # whether a probe starts each head
    store: Store = "exact"  # how activations are stored: as they are, or rounded to 16 bits


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightSource:
    """Where a backbone's starting weights come from; `detail` is a path, a package or an id."""

    kind: Literal["file", "package", "hub", "random"]
    detail: str = ""
    digest: str = ""  # of a local file, because a path says nothing of the content

    def __str__(self) -> str:
        if self.kind == "random":
            return "random"
        digest = f" (sha256 {self.digest})" if self.digest else ""
        return f"{self.kind} {self.detail}{digest}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arithmetic:
    """How a backbone's numbers are computed, and the measurement that chose it."""

    device: TrainingDevice
    dtype: Literal["float32", "bfloat16", "float16"]
    channels_last: bool
    reason: str
    graphs: bool = False  # whether steps are recorded as CUDA graphs


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyPlan:
    """All that is settled before the first trial; trials and workers are made from it."""

    study: str
    space: dict[str, Any]
    dataset: Dataset
    split: Split
    settings: Settings
    weights: dict[str, WeightSource]
    device: TrainingDevice
    arithmetic: dict[str, Arithmetic]  # by backbone: the fast number format differs
    workspace: str
    cache_bytes: int = 0  # disk for stored activations; 0 computes them each time
    notes: tuple[str, ...] = ()
    further_splits: tuple[Split, ...] = ()  # under which the chosen recipes are trained again
    # Of one picture, by backbone asked for, where `max_latency_ms` leaves the slow ones out.
    untrained_latencies_ms: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialJob:
    """One trial to train: its number fixes its seed."""

    number: int
    recipe: Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochScores:
    """One epoch of one fold. Losses are mean cross-entropies in nats; scores are macro means."""

    fold: int
    epoch: int
    train_loss: float
    loss: float
    balanced_accuracy: float
    precision: float
    recall: float
    f1: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What the last bits of a trained fold depend on besides its study's plan."""

    cpu: str
    instructions: str  # the widest vector instructions that torch uses, such as AVX512
    threads: int  # in one operation of torch
    blas_threads: int  # in one matrix product of numpy and SciPy, which fit the linear probe
    gpu: str | None
    versions: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochDone:
    """An epoch of a trial was scored; the executor waits for the answer go on or stop.

    `conditions` are those that it was trained under; None of a stored epoch that is told again.
    """

    trial: int
    scores: EpochScores
    conditions: Conditions | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialDone:
    """All folds of a trial are finished; `remark` says what was unusual about it."""

    trial: int
    remark: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialFailed:
    """A trial ended with an error."""

    trial: int
    kind: FailureKind
    message: str


Event = EpochDone | TrialDone | TrialFailed


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRecord:
    """One trial of a study, as the report sees it."""

    number: int
    state: TrialState
    value: float | None
    recipe: Recipe
    is_default: bool
    epochs: tuple[EpochScores, ...]
    seconds: float
    finished_s: float | None  # seconds between the start of the study and the end of this trial
    error: str | None = None
    remark: str | None = None  # what was unusual about its training

    @property
    def fold_scores(self) -> tuple[float, ...]:
        """Balanced accuracy of the last epoch of each fold that was begun."""
        last = {row.fold: row for row in sorted(self.epochs, key=lambda row: row.epoch)}
        return tuple(last[fold].balanced_accuracy for fold in sorted(last))

    @property
    def cv_mean(self) -> float | None:
        return fmean(self.fold_scores) if self.fold_scores else None

    @property
    def cv_sd(self) -> float | None:
        """Standard deviation over the folds (n - 1)."""
        return stdev(self.fold_scores) if len(self.fold_scores) > 1 else None


def trial_order(value: float, number: int) -> tuple[float, int]:
    """What trials are compared by, greater for the better one; of equals the first is better."""
    return value, -number


def best_trial(trials: Iterable[TrialRecord]) -> TrialRecord | None:
    """The complete trial with the best finite value; of equals the first."""
    complete = [
        (trial_order(trial.value, trial.number), trial)
        for trial in trials
        if trial.state == "COMPLETE" and trial.value is not None and math.isfinite(trial.value)
    ]
    return max(complete, key=lambda one: one[0])[1] if complete else None
