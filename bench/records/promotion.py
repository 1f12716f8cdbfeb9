"""Records of promoted models: scores, checks, variants, the model itself."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean, stdev

from bench.records.names import Precision, Protocol, Role
from bench.records.search import Recipe


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
