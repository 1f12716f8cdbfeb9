"""The frozen records that stages hand to one another, which are also JSON on disk.

Raw values are kept and the rest is derived; a unit is part of the name it belongs to. Records
hold plain Python values (no arrays, no torch), so every one of them survives a round trip
through `to_json` and `from_json`.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal, TypeVar

import msgspec

from bench.bootstrap import median_interval
from bench.words import counted

T = TypeVar("T")

# INTERRUPTED: it was running when its study's owner ended; the next owner takes it up again.
TrialState = Literal["RUNNING", "INTERRUPTED", "WAITING", "COMPLETE", "PRUNED", "FAIL"]
SourceKind = Literal["folder", "gtzan", "csv"]
Family = Literal["spectrogram", "photo"]
Policy = Literal["none", "light", "medium", "strong"]
ResizeRule = Literal["squash", "center-crop"]
FailureKind = Literal[
    "out of memory",
    "non-finite loss",
    "worker died",
    "time limit",
    "bad input",  # a picture that went, a size that a network cannot take
    "bad trial code",
    "workspace",  # a full or unwritable disk: the study's affair, not the trial's
]
BatchNormMode = Literal["frozen", "updating"]
Store = Literal["exact", "half"]
Role = Literal["best", "default"]
PairKind = Literal["identical", "copy", "cropped", "shifted"]
ShortcutFacet = Literal["size", "mode", "format", "frame"]
Precision = Literal["fp32", "fp16", "int8"]
# How pictures are shared out between training and testing; the order is that of docs/protocols.md.
Protocol = Literal["grouped", "gtzan-filtered", "file", "random"]
Box = tuple[int, int, int, int]

GTZAN_GENRES = (
    "blues",
    "classical",
    "country",
    "disco",
    "hiphop",
    "jazz",
    "metal",
    "pop",
    "reggae",
    "rock",
)


def to_json(record: object, *, indent: int = 0) -> bytes:
    """Encode a record (or a tuple of records) as JSON."""
    encoded = msgspec.json.encode(record)
    return msgspec.json.format(encoded, indent=indent) if indent else encoded


def from_json(data: bytes | str, kind: type[T]) -> T:
    """Decode and validate JSON as a record.

    Raises:
        msgspec.ValidationError: the JSON does not have the shape of `kind`.
    """
    return msgspec.json.decode(data, type=kind)


def to_builtins(record: object) -> Any:
    """Turn a record into dicts, lists, strings and numbers."""
    return msgspec.to_builtins(record)


def fingerprint_of(record: object) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of a record's JSON with sorted keys."""
    encoded = msgspec.json.encode(msgspec.to_builtins(record), order="sorted")
    return hashlib.sha256(encoded).hexdigest()[:16]


# --- data -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One readable picture; `path` is relative to the data set's root, with forward slashes."""

    path: str
    label: int
    sha256: str
    width: int
    height: int
    mode: str
    group: str | None = None
    given_split: Literal["train", "test"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenPicture:
    """A file that looked like a picture and could not be decoded; left out of everything."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TiedBy:
    """How many pictures one rule ties to another picture, and how many sets they make.

    `found` says that they are tied because they show the same thing, not because a group was given.
    """

    rule: str
    pictures: int
    groups: int
    found: bool = False

    def __str__(self) -> str:
        pictures, groups = counted(self.pictures, "picture"), counted(self.groups, "group")
        return f"{self.rule}: {pictures} tied in {groups}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Pictures by class, as found on disk. `crop` is (left, top, right, bottom) in pixels."""

    name: str
    root: str
    kind: SourceKind
    classes: tuple[str, ...]
    pictures: tuple[Picture, ...]
    broken: tuple[BrokenPicture, ...] = ()
    crop: Box | None = None
    synthetic: bool = False
    tied: tuple[TiedBy, ...] = ()  # by rule, before what they tie was joined into groups
    # Duplicates that carry different labels, as indices of pictures, the lower first.
    conflicts: tuple[tuple[int, int], ...] = ()

    @property
    def fingerprint(self) -> str:
        """Identity of the content: classes, labels, groups, bytes and crop, not the place."""
        return fingerprint_of(
            (
                self.classes,
                [(p.path, p.label, p.group, p.given_split, p.sha256) for p in self.pictures],
                self.crop,
            )
        )

    @property
    def labels(self) -> tuple[int, ...]:
        return tuple(picture.label for picture in self.pictures)

    @property
    def counts(self) -> tuple[int, ...]:
        """Pictures of each class, in the order of `classes`."""
        labels = self.labels
        return tuple(labels.count(index) for index in range(len(self.classes)))

    @property
    def is_gtzan(self) -> bool:
        """Whether the classes are exactly GTZAN's ten genres."""
        return self.classes == GTZAN_GENRES

    @property
    def sets(self) -> tuple[str | None, ...]:
        """Name of the set that each picture stays with; None for one that is alone.

        A set is named after its group; copies that nothing else ties, after the first of them.
        """
        copies: dict[str, list[str]] = {}
        for picture in self.pictures:
            copies.setdefault(picture.sha256, []).append(picture.path)
        return tuple(
            picture.group or (paths[0] if len(paths := copies[picture.sha256]) > 1 else None)
            for picture in self.pictures
        )

    @property
    def ties_are_found(self) -> bool:
        """Whether pictures are tied, and only because they show the same thing."""
        return bool(self.tied) and all(tied.found for tied in self.tied)

    def picture_path(self, index: int) -> Path:
        return Path(self.root) / self.pictures[index].path


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two pictures that show the same thing, as indices into `Dataset.pictures`.

    kind: "identical" files; a "copy" of the whole picture, saved anew; one "cropped" out of the
        other; or "shifted", the same recording later on.
    correlation: of the detail of both, aligned, where they overlap.
    shift: how much later the content of `first` stands in `second`, as a share of the width.
    """

    first: int
    second: int
    kind: PairKind
    correlation: float
    shift: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupGuess:
    """Groups that file names suggest: `pattern` finds a group's name in a picture's path."""

    pattern: str
    groups: int
    pictures: int
    example: str  # a group's name


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortcut:
    """A class that can be told from the others without looking at what a picture shows.

    `recall` and `false_alarms` are shares of the class and of all others that a small tree,
    which saw nothing but `facet`, called by the class's name.
    """

    label: int
    facet: ShortcutFacet
    recall: float
    false_alarms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SuspiciousLabel:
    """A picture whose out-of-fold prediction speaks against its label, with both probabilities."""

    picture: int
    predicted: int
    given_probability: float
    predicted_probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelCheck:
    """What a linear probe on `features` says of the labels.

    `suspicious` is empty where the probe knows too little to accuse anybody: `note` says so.
    """

    features: str
    balanced_accuracy: float
    suspicious: tuple[SuspiciousLabel, ...]
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What was found in a data set; `thresholds` are the scores asked of pairs, by class."""

    pairs: tuple[Pair, ...]
    thresholds: tuple[float, ...]
    blank: tuple[int, ...]
    group_guess: GroupGuess | None
    shortcuts: tuple[Shortcut, ...]
    labels: LabelCheck


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A locked test set, and the validation part of each cross-validation fold.

    All numbers are indices into `Dataset.pictures`. The training part of fold `k` is every
    picture that is neither in `test`, `left_out` nor in `folds[k]`.
    """

    dataset_fingerprint: str
    seed: int
    test: tuple[int, ...]
    folds: tuple[tuple[int, ...], ...]
    protocol: Protocol | None = None  # None: stored before protocols had names
    left_out: tuple[int, ...] = ()  # pictures that a published protocol does not use

    @property
    def fingerprint(self) -> str:
        return fingerprint_of((self.dataset_fingerprint, self.test, self.folds))

    @property
    def development(self) -> tuple[int, ...]:
        """Every picture of the folds, in ascending order."""
        return tuple(sorted(index for fold in self.folds for index in fold))

    def training_part(self, fold: int) -> tuple[int, ...]:
        return tuple(sorted(i for k, part in enumerate(self.folds) if k != fold for i in part))


# What the different labels of one pair of duplicates mean: a thing may have several classes.
CONFLICT_MEANING = "one label of each is wrong, or what it shows belongs to both classes"


def describe_conflicts(dataset: Dataset, what: str) -> str:
    """How many pairs of duplicates carry different labels (`what` names these), with one of them.

    The data set has such pairs.
    """
    first, second = (dataset.pictures[index] for index in dataset.conflicts[0])
    pairs = counted(
        len(dataset.conflicts), "pair of duplicates carries", "pairs of duplicates carry"
    )
    return (
        f"{pairs} {what}, such as {first.path} ({dataset.classes[first.label]}) and "
        f"{second.path} ({dataset.classes[second.label]})"
    )


def ungrouped_remark(dataset: Dataset) -> str | None:
    """What a person should know of pictures without a group where others have one, or None."""
    alone = sum(picture.group is None for picture in dataset.pictures)
    if alone in (0, len(dataset.pictures)):
        return None
    return (
        f"{alone:,} of {len(dataset.pictures):,} pictures {'has' if alone == 1 else 'have'} no "
        "group: each counts as a source of its own, so pieces of one recording or source among "
        "them may stand on both sides of a split, which inflates scores"
    )


def how_split(protocol: Protocol, dataset: Dataset) -> str:
    """What a protocol does with the pictures of a data set, in words, for people."""
    if protocol == "grouped" and dataset.ties_are_found:
        sizes = Counter(name for name in dataset.sets if name is not None).values()
        duplicates = sum(size for size in sizes if size > 1)
        return f"by class, with {counted(duplicates, 'found duplicate')} kept together"
    words: dict[Protocol, str] = {
        "grouped": "no group stands on both sides of a split",
        "gtzan-filtered": "the fault-filtered parts share no artist and no replica",
        "file": "the test part that came with the data is kept",
        "random": "every picture is drawn by itself",
    }
    return words[protocol]


# --- search ---------------------------------------------------------------------------------

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


# --- promotion ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A value and its 95 % interval, or the reason why there is none."""

    value: float
    interval: tuple[float, float] | None
    why_not: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassScores:
    name: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Scores of one set of predictions; `confusion[true][predicted]` counts pictures."""

    balanced_accuracy: float
    accuracy: float
    precision: float
    recall: float
    f1: float
    log_loss: float
    per_class: tuple[ClassScores, ...]
    confusion: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """Class probabilities of pictures, in the order of `indices` (into `Dataset.pictures`)."""

    indices: tuple[int, ...]
    labels: tuple[int, ...]
    probabilities: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationScores:
    """How far probabilities can be believed; smaller is better. See docs/calibration.md.

    log_loss: in nats.
    brier: the sum over the classes of squared errors, 0..2.
    ece: expected calibration error of the predicted class, 0..1.
    ece_by_chance: what it would be on as many pictures if these very probabilities were right:
        the mean, and the range that holds it in 95 of 100 cases.
    """

    log_loss: Estimate
    brier: Estimate
    ece: float
    ece_by_chance: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationEffect:
    """What a temperature does to the probabilities of some pictures; a change is after - before."""

    pictures: int
    before: CalibrationScores
    after: CalibrationScores
    log_loss_change: Estimate
    brier_change: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The temperature in a model's graph, and the evidence for it.

    temperature: logits are divided by it before the softmax; 1 leaves them as they are.
    fitted: the temperature that fits all out-of-fold predictions best; None without them.
    fold_temperatures: for each fold, the one that fits all other folds best.
    why_none: why the graph has temperature 1, where it does.
    out_of_fold: each fold's pictures before and after the temperature of the other folds.
    test: the shipped file on the locked test set, without and with its temperature.
    """

    temperature: float
    fitted: float | None = None
    fold_temperatures: tuple[float, ...] = ()
    why_none: str | None = None
    out_of_fold: CalibrationEffect | None = None
    test: CalibrationEffect | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounding:
    """Largest distances of probabilities from the model's in float64: the model's and the file's,
    both in float32.
    """

    model: float
    file: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityCheck:
    """The ONNX file against the torch model on the same held-out pictures.

    `balanced_accuracy_difference` is the file's minus the model's; None where it was not taken.
    `rounding` is what excuses a difference of more than 1e-4; None where there is none.
    """

    provider: str
    batch_size: int
    pictures: int
    max_abs_difference: float
    top1_agreement: float
    balanced_accuracy_difference: float | None = None
    rounding: Rounding | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantCheck:
    """A variant against its float32 file on the same development pictures, one by one.

    lost: pictures that the float32 file classifies rightly and the variant does not; gained: the
    other way round.
    class_pictures: of each class that occurs; empty in records of before it was kept.
    difference: of balanced accuracies, the variant's minus the float32 file's, with its interval
        over groups; None in records of before it was taken.
    """

    provider: str  # the execution provider that ran the variant
    pictures: int
    top1_agreement: float
    fp32_balanced_accuracy: float
    balanced_accuracy: float
    lost: int
    gained: int
    class_pictures: tuple[int, ...] = ()
    difference: Estimate | None = None

    @property
    def difference_points(self) -> float:
        """Balanced accuracy of the variant minus the float32 file's, in percentage points."""
        return 100 * (self.balanced_accuracy - self.fp32_balanced_accuracy)

    @property
    def interval_points(self) -> tuple[float, float] | None:
        """95 % interval of `difference_points`, where there is one."""
        if self.difference is None or self.difference.interval is None:
            return None
        low, high = self.difference.interval
        return 100 * low, 100 * high

    @property
    def answer_points(self) -> float | None:
        """What one answer is worth in percentage points, in the class of the fewest pictures."""
        if not self.class_pictures:
            return None
        return 100 / (len(self.class_pictures) * min(self.class_pictures))


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantRecord:
    """A model in another precision, offered or refused; a refused one has no file."""

    precision: Precision
    path: str  # relative to the workspace
    size_bytes: int  # also of a file that was refused and removed; 0 if none could be made
    tolerance_points: float  # percentage points of balanced accuracy that it may lose
    refused: str | None = None  # why it is not offered
    check: VariantCheck | None = None  # None: it could not be made or run
    method: str = ""  # of calibration
    calibration_pictures: int = 0
    layers: int = 0  # convolutions and matrix products that could be quantised
    float_layers: tuple[str, ...] = ()  # those of them that stay in float32
    test: Scores | None = None  # of the offered file on the locked test set
    seconds: float = 0.0
    identity: str = ""  # of what it was made from, to know whether it must be done again

    @property
    def offered(self) -> bool:
        return self.refused is None


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedRun:
    """A promoted trial trained once more with another seed, and tested; its file is not kept.

    `number` counts from 1; 0 is the training whose file ships.
    """

    number: int
    trial: int
    test: Scores
    predictions: Predictions
    seconds: float
    identity: str  # of the training, to know whether it must be done again


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRecord:
    """One promoted model: a file, where it came from, and what the file scored on the test set."""

    name: str
    study: str
    role: Role
    trial: int
    recipe: Recipe
    architecture: str  # timm's name of the network
    weights: str  # where the starting weights came from, or "random"
    image_size: int
    path: str  # relative to the workspace
    size_bytes: int
    parameters: int
    opset: int
    parity: tuple[ParityCheck, ...]
    cv_mean: float | None
    cv_sd: float | None
    test: Scores
    predictions: Predictions
    train_curve: tuple[float, ...]  # mean training loss of each epoch of the retraining
    seconds: float
    identity: str = ""  # of the training, to know whether it must be done again
    variants: tuple[VariantRecord, ...] = ()
    further_seeds: tuple[SeedRun, ...] = ()
    weights_license: str = ""  # of the starting weights; empty where timm or the record has none
    calibration: Calibration | None = None  # of early versions, whose graphs divide by nothing

    @property
    def temperature(self) -> float:
        """What the graph divides the logits by."""
        return 1.0 if self.calibration is None else self.calibration.temperature

    @property
    def architecture_key(self) -> str:
        """Models with the same key have the same graph, hence the same latency."""
        return f"{self.architecture}@{self.image_size}x{len(self.test.per_class)}"

    @property
    def offered_variants(self) -> tuple[VariantRecord, ...]:
        return tuple(variant for variant in self.variants if variant.offered)

    def variant_key(self, variant: VariantRecord) -> str:
        """The variant's `architecture_key`: layers left in float32 make another graph."""
        left = f" without {','.join(variant.float_layers)}" if variant.float_layers else ""
        return f"{self.architecture_key} {variant.precision}{left}"

    @property
    def paths(self) -> tuple[str, ...]:
        """Every file of this model that is offered, the float32 file first."""
        return (self.path, *(variant.path for variant in self.offered_variants))


# What one call covers (see `bench.runtime.measure`).
LatencyScope = Literal["model", "end-to-end", "device"]
Engine = Literal["onnxruntime", "torch", "torch-compile", "openvino"]

DRIFT_TOLERANCE = 0.05
_LEAST_DRIFT_CALLS = 9


def latest_row(
    latencies: Sequence[LatencyRow], key: str, device: str, *, scope: LatencyScope = "model"
) -> LatencyRow | None:
    """The last measurement of a graph, by its key, with one picture on a device."""
    wanted = (key, device, scope, 1)
    for row in reversed(latencies):
        if (row.architecture_key, row.device, row.scope, row.batch_size) == wanted:
            return row
    return None


def model_order(cv_mean: float | None, role: Role, name: str) -> tuple[float, bool, str]:
    """What models are sorted by, best first; never by test score, which selects nothing.

    One that was not cross-validated to the end comes last.
    """
    return -(-math.inf if cv_mean is None else cv_mean), role != "best", name


def ranked(models: Iterable[ModelRecord]) -> tuple[ModelRecord, ...]:
    """Models by cross-validated score, best first."""
    return tuple(sorted(models, key=lambda one: model_order(one.cv_mean, one.role, one.name)))


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtocolScores:
    """What a promoted model's recipe scores when it is trained under another protocol's split."""

    study: str
    model: str  # the promoted model's name
    trial: int
    protocol: Protocol
    fold_scores: tuple[float, ...]  # balanced accuracy of each fold's last epoch
    test: Scores
    predictions: Predictions
    seconds: float
    identity: str  # of the training, to know whether it must be done again

    @property
    def cv_mean(self) -> float:
        return fmean(self.fold_scores)

    @property
    def cv_sd(self) -> float:
        """Standard deviation over the folds (n - 1)."""
        return stdev(self.fold_scores)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSample:
    """One fresh process's raw measurement of single calls.

    steady: the warm-up ended because the latency stood still, not because its time was over.
    import_ms, load_ms, first_call_ms: the cold start: importing the engine, opening the model,
        and its first call.
    gpu: clocks, temperature and power right after the last call, where there is a GPU.
    """

    latencies_ns: tuple[int, ...]
    steady: bool
    warmup_calls: int
    involuntary_switches: int
    import_ms: float | None = None  # not measured by early versions
    load_ms: float
    first_call_ms: float
    peak_rss_bytes: int
    measured_s: float
    gpu: dict[str, str] = field(default_factory=dict)

    @property
    def drifts(self) -> bool:
        """Whether the medians of the measurement's three thirds are more than 5 % apart."""
        calls = len(self.latencies_ns)
        if calls < _LEAST_DRIFT_CALLS:
            return False
        cuts = (0, calls // 3, 2 * calls // 3, calls)
        medians = [
            percentile(self.latencies_ns[low:high], 50) for low, high in itertools.pairwise(cuts)
        ]
        return max(medians) > min(medians) * (1 + DRIFT_TOLERANCE)


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyRow:
    """Latency of one file on one device at one batch size; derived values are properties.

    replaced: samples that other programs interrupted so often that they were taken again; kept,
        and in no figure.
    """

    model: str
    path: str
    architecture_key: str
    device: str  # "cpu", "cuda" or "tensorrt"
    device_name: str
    provider: str  # the execution provider that was proved to run the graph
    precision: str
    batch_size: int
    threads: int
    timed: str  # what one call covers, in words
    samples: tuple[ProcessSample, ...]
    versions: dict[str, str]
    scope: LatencyScope = "model"
    engine: Engine = "onnxruntime"
    machine: str = ""  # processor and cores; early versions knew the device alone
    size_bytes: int | None = None  # of the model file and what it refers to
    options: dict[str, str] = field(default_factory=dict)
    replaced: tuple[ProcessSample, ...] = ()

    @property
    def setup(self) -> tuple[object, ...]:
        """Where and how it was measured, but for model and batch: rows compare within it."""
        return (
            *(self.machine, self.device, self.device_name, self.engine, self.provider),
            *(self.precision, self.threads, self.scope, self.timed),
            tuple(sorted(self.options.items())),
        )

    @property
    def place(self) -> str:
        """The processor with its cores, or the GPU."""
        return self.machine if self.machine and self.device == "cpu" else self.device_name

    @property
    def calls(self) -> int:
        return sum(len(sample.latencies_ns) for sample in self.samples)

    @property
    def pooled_ms(self) -> tuple[float, ...]:
        return tuple(sorted(ns / 1e6 for sample in self.samples for ns in sample.latencies_ns))

    @property
    def process_medians_ms(self) -> tuple[float, ...]:
        return tuple(percentile(sample.latencies_ns, 50) / 1e6 for sample in self.samples)

    @property
    def p50_ms(self) -> float:
        """The median of the processes' medians."""
        return percentile(self.process_medians_ms, 50)

    @property
    def p50_interval_ms(self) -> tuple[float, float] | None:
        """95 % bootstrap interval over the processes; None of fewer than five."""
        return median_interval(self.process_medians_ms)

    @property
    def p90_ms(self) -> float:
        return percentile(self.pooled_ms, 90)

    @property
    def p99_ms(self) -> float | None:
        """Pooled 99th percentile; None with fewer than 300 calls, which cannot carry one."""
        return percentile(self.pooled_ms, 99) if self.calls >= 300 else None

    @property
    def throughput_per_s(self) -> float:
        """Pictures a second at this batch size, from the median."""
        return self.batch_size * 1000.0 / self.p50_ms

    @property
    def steady(self) -> bool:
        """Every process warmed up to a standstill and did not drift while it was measured."""
        return all(sample.steady and not sample.drifts for sample in self.samples)

    @property
    def cold_start_ms(self) -> float | None:
        """From a fresh interpreter to the first answer: import, load and first call; median."""
        totals = [
            sample.import_ms + sample.load_ms + sample.first_call_ms
            for sample in self.samples
            if sample.import_ms is not None
        ]
        return percentile(tuple(totals), 50) if totals else None

    @property
    def import_ms(self) -> float | None:
        known = tuple(s.import_ms for s in self.samples if s.import_ms is not None)
        return percentile(known, 50) if known else None

    @property
    def load_ms(self) -> float:
        return percentile(tuple(sample.load_ms for sample in self.samples), 50)

    @property
    def first_call_ms(self) -> float:
        return percentile(tuple(sample.first_call_ms for sample in self.samples), 50)

    @property
    def peak_rss_bytes(self) -> int:
        """The largest of the processes' peaks."""
        return max(sample.peak_rss_bytes for sample in self.samples)


def percentile(values: tuple[float, ...] | tuple[int, ...], q: float) -> float:
    """Linear-interpolation percentile (Hyndman and Fan, 1996, type 7), as numpy's default.

    Raises:
        ValueError: `values` is empty.
    """
    if not values:
        raise ValueError("a percentile needs at least one value")
    ordered = sorted(values)
    position = (len(ordered) - 1) * q / 100.0
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


# --- the whole ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """The machine and the versions that produced a result."""

    created: str  # ISO 8601, UTC
    cpu: str
    cores: int
    memory_bytes: int
    gpu: str | None
    python: str
    platform: str
    versions: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyReport:
    """Everything that a report is made of; `notes` are remarks every table must carry."""

    study: str
    space: str
    dataset: Dataset
    split: Split
    settings: Settings
    device: str
    trials: tuple[TrialRecord, ...]
    models: tuple[ModelRecord, ...]
    latencies: tuple[LatencyRow, ...]
    environment: Environment
    notes: tuple[str, ...] = ()
    ended: str | None = None  # the limit that ended the search before its number of trials
    protocol_scores: tuple[ProtocolScores, ...] = ()  # of the models, under further protocols
