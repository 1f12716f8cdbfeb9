"""A hand-made study, consistent enough to be reported, with no training behind it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.records import (
    Calibration,
    ClassScores,
    Dataset,
    Environment,
    LatencyRow,
    ModelRecord,
    ParityCheck,
    Picture,
    Policy,
    Predictions,
    Protocol,
    ProtocolScores,
    Recipe,
    Role,
    Scores,
    SeedRun,
    Settings,
    Split,
    StudyReport,
    TiedBy,
    TrialRecord,
    TrialState,
)
from bench.statistics import calibration
from bench.statistics.answers import groups_of
from bench.statistics.calibration import effect_of
from tests.records import epoch_scores, latency_row, process_sample, trial_record

EPOCHS = 4
FOLDS = 3
POLICIES: tuple[Policy, ...] = ("none", "light", "medium", "strong")
BACKBONES = ("resnet50", "legacy_xception", "tf_efficientnet_lite0")

MakeReport = Callable[..., StudyReport]


def make_dataset(root: Path, names: tuple[str, ...], per_class: int, *, grouped: bool) -> Dataset:
    """Grouped: two pictures each, such that a test picture and one of a fold never share one."""
    pictures = tuple(
        Picture(
            path=f"{label}/{number}.png",
            label=label,
            sha256=f"{label}-{number}",
            width=60,
            height=40,
            mode="RGB",
            group=f"{label}-{number % 4}-{number // 8}" if grouped else None,
        )
        for label in range(len(names))
        for number in range(per_class)
    )
    return Dataset(name="demo", root=str(root), kind="folder", classes=names, pictures=pictures)


def make_split(dataset: Dataset) -> Split:
    """A quarter of each class is locked; the others go round the folds."""
    indices = range(len(dataset.pictures))
    rest = [index for index in indices if index % 4]
    return Split(
        dataset_fingerprint=dataset.fingerprint,
        seed=0,
        test=tuple(index for index in indices if index % 4 == 0),
        folds=tuple(tuple(rest[fold::FOLDS]) for fold in range(FOLDS)),
    )


def make_trial(number: int, *, backbones: tuple[str, ...] = BACKBONES) -> TrialRecord:
    """Trial 0 is the default recipe, every fifth fails, two of five are pruned."""
    chance = random.Random(number)
    states: tuple[TrialState, ...] = ("COMPLETE", "PRUNED", "COMPLETE", "PRUNED", "FAIL")
    state = states[number % 5]
    level = 0.55 + 0.3 * (1 - 0.9 ** (number + 1)) + chance.uniform(-0.06, 0.06)
    recipe = Recipe(
        backbone=backbones[number % len(backbones)],
        learning_rate=10 ** chance.uniform(-5, -2),
        weight_decay=10 ** chance.uniform(-4, -1.5),
        augmentation=chance.choice(POLICIES),
        freeze_depth=chance.randint(0, 5),
        label_smoothing=chance.uniform(0, 0.15),
    )
    epochs = tuple(
        epoch_scores(
            fold,
            epoch,
            train_loss=2.0 * 0.6**epoch + chance.uniform(0, 0.1),
            loss=1.8 * 0.75**epoch + chance.uniform(0, 0.2),
            score=level * (1 - 0.5 ** (epoch + 1)) + chance.uniform(-0.03, 0.03),
        )
        for fold in range(1 if state == "PRUNED" else FOLDS)
        for epoch in range(EPOCHS)
    )
    return trial_record(
        *(() if state == "FAIL" else epochs),
        number=number,
        state=state,
        value=None if state == "FAIL" else level,
        recipe=Recipe(backbone=backbones[0]) if number == 0 else recipe,
        is_default=number == 0,
        finished_s=30.0 * (number + 1),
        error="RuntimeError: out of memory" if state == "FAIL" else None,
    )


def make_predictions(dataset: Dataset, split: Split, accuracy: float) -> Predictions:
    """The first share of every ten answers is right, the others name the next class."""
    total = len(dataset.classes)
    labels = tuple(dataset.pictures[index].label for index in split.test)
    rows = []
    for place, label in enumerate(labels):
        right = place % 10 < round(10 * accuracy)
        answer = label if right else (label + 1) % total
        top = 0.55 + 0.4 * ((place * 7) % 10) / 10
        rows.append(tuple(top if k == answer else (1 - top) / (total - 1) for k in range(total)))
    return Predictions(indices=split.test, labels=labels, probabilities=tuple(rows))


def make_scores(dataset: Dataset, predictions: Predictions) -> Scores:
    total = len(dataset.classes)
    counts = [[0] * total for _ in range(total)]
    for label, row in zip(predictions.labels, predictions.probabilities, strict=True):
        counts[label][row.index(max(row))] += 1
    recalls = [row[k] / sum(row) for k, row in enumerate(counts)]
    mean = sum(recalls) / total
    return Scores(
        balanced_accuracy=mean,
        accuracy=mean,
        precision=mean,
        recall=mean,
        f1=mean,
        log_loss=0.7,
        per_class=tuple(
            ClassScores(name=name, precision=recall, recall=recall, f1=recall, support=sum(row))
            for name, recall, row in zip(dataset.classes, recalls, counts, strict=True)
        ),
        confusion=tuple(tuple(row) for row in counts),
    )


def make_model(
    dataset: Dataset,
    split: Split,
    trial: TrialRecord,
    *,
    name: str,
    role: Role = "best",
    accuracy: float = 0.8,
    cv_mean: float | None = 0.8,
    weights: str = "timm",
) -> ModelRecord:
    predictions = make_predictions(dataset, split, accuracy)
    return ModelRecord(
        name=name,
        study="demo",
        role=role,
        trial=trial.number,
        recipe=trial.recipe,
        architecture=trial.recipe.backbone,
        weights=weights,
        image_size=224,
        path=f"demo/models/{name}/model.onnx",
        size_bytes=94_000_000,
        parameters=23_500_000,
        opset=20,
        parity=(
            ParityCheck(
                provider="CPUExecutionProvider",
                batch_size=8,
                pictures=32,
                max_abs_difference=2.1e-6,
                top1_agreement=1.0,
            ),
        ),
        cv_mean=cv_mean,
        cv_sd=None if cv_mean is None else 0.021,
        test=make_scores(dataset, predictions),
        predictions=predictions,
        train_curve=(1.9, 1.2, 0.8, 0.6),
        seconds=60.0,
    )


def make_seed_run(
    dataset: Dataset, split: Split, model: ModelRecord, number: int, accuracy: float
) -> SeedRun:
    predictions = make_predictions(dataset, split, accuracy)
    return SeedRun(
        number=number,
        trial=model.trial,
        test=make_scores(dataset, predictions),
        predictions=predictions,
        seconds=60.0,
        identity="",
    )


def with_protocols(
    report: StudyReport, accuracy: float, protocol: Protocol = "random"
) -> StudyReport:
    """A grouped study whose models were also trained under another protocol."""
    predictions = make_predictions(report.dataset, report.split, accuracy)
    scores = tuple(
        ProtocolScores(
            study=report.study,
            model=model.name,
            trial=model.trial,
            protocol=protocol,
            fold_scores=(0.9, 0.92, 0.91),
            test=make_scores(report.dataset, predictions),
            predictions=predictions,
            seconds=1.0,
            identity="ab",
        )
        for model in report.models
    )
    split = replace(report.split, protocol="grouped")
    return replace(report, split=split, protocol_scores=scores)


def conflicting(report: StudyReport, pairs: int = 1) -> StudyReport:
    """A study in which a picture of the first class shows the same as some of the second."""
    second = report.dataset.labels.index(1)
    found = tuple((0, second + k) for k in range(pairs))
    return replace(report, dataset=replace(report.dataset, conflicts=found))


def tied_by_duplicates(report: StudyReport) -> StudyReport:
    """A study in which nobody named groups, and two pictures of one fold were found to be alike."""
    alike = report.split.folds[0][:2]
    pictures = tuple(
        replace(picture, group="alike") if index in alike else picture
        for index, picture in enumerate(report.dataset.pictures)
    )
    found = TiedBy(rule="copies found by the audit", pictures=2, groups=1, found=True)
    return replace(
        report,
        dataset=replace(report.dataset, pictures=pictures, tied=(found,)),
        split=replace(report.split, protocol="grouped"),
    )


def with_temperature(report: StudyReport, temperature: float, why_none: str | None) -> StudyReport:
    """A study whose models ship with a temperature; out of fold nothing is known."""

    def calibrated(model: ModelRecord) -> ModelRecord:
        after = np.asarray(model.predictions.probabilities)
        groups, unit = groups_of(report.dataset, model.predictions.indices)
        effect = effect_of(
            np.asarray(model.predictions.labels),
            calibration.with_temperature(after, 1 / temperature),
            after,
            groups,
            unit,
        )
        told = Calibration(temperature=temperature, why_none=why_none, test=effect)
        return replace(model, calibration=told)

    return replace(report, models=tuple(map(calibrated, report.models)))


def make_latency(model: ModelRecord, *, batch_size: int = 1, calls: int = 300) -> LatencyRow:
    """Three processes whose calls take 10 ms a picture, give or take."""
    samples = [
        process_sample(
            *(
                batch_size * (10_000_000 + 100_000 * process + 1000 * call)
                for call in range(calls // 3)
            )
        )
        for process in range(3)
    ]
    return latency_row(
        *samples,
        model=model.name,
        path=model.path,
        architecture_key=model.architecture_key,
        batch_size=batch_size,
    )


@pytest.fixture
def make_report(tmp_path: Path) -> MakeReport:
    """Builds a study of `names` classes and `trials` trials; every part can be changed."""

    def build(
        *,
        names: tuple[str, ...] = ("blues", "jazz", "rock"),
        trials: int = 12,
        promoted: bool = True,
        pictures_on_disk: bool = False,
        weights: str = "timm",
        synthetic: bool = False,
        winner_accuracy: float = 0.8,
        default_accuracy: float = 0.6,
        per_class: int = 12,
        grouped: bool = False,
        seed_accuracies: tuple[float, ...] = (),
    ) -> StudyReport:
        dataset = make_dataset(tmp_path / "pictures", names, per_class, grouped=grouped)
        dataset = replace(dataset, synthetic=synthetic)
        split = make_split(dataset)
        records = tuple(make_trial(number) for number in range(trials))
        models: tuple[ModelRecord, ...] = ()
        latencies: tuple[LatencyRow, ...] = ()
        if promoted:
            best = make_model(
                dataset,
                split,
                records[2],
                name="best",
                accuracy=winner_accuracy,
                cv_mean=0.81,
                weights=weights,
            )
            default = make_model(
                dataset,
                split,
                records[0],
                name="default",
                role="default",
                accuracy=default_accuracy,
                cv_mean=0.70,
                weights=weights,
            )
            seeds = tuple(
                make_seed_run(dataset, split, best, number, accuracy)
                for number, accuracy in enumerate(seed_accuracies, start=1)
            )
            best = replace(best, further_seeds=seeds)
            models = (default, best)
            latencies = tuple(
                make_latency(m, batch_size=b, calls=c)
                for m in models
                for b, c in ((1, 300), (8, 90))
            )
        if pictures_on_disk:
            save_pictures(dataset)
        return StudyReport(
            study="demo",
            space="cpu",
            dataset=dataset,
            split=split,
            settings=Settings(
                epochs=EPOCHS,
                batch_size=16,
                image_size=224,
                resize="squash",
                family="photo",
                pretrained=weights != "random",
                seed=0,
                pruner="median",
            ),
            device="cpu",
            trials=records,
            models=models,
            latencies=latencies,
            environment=Environment(
                created="2026-01-01T00:00:00+00:00",
                cpu="Test CPU",
                cores=2,
                memory_bytes=8 * 2**30,
                gpu=None,
                python="3.12.0",
                platform="Linux",
                versions={"torch": "2.0", "onnxruntime": "1.0"},
            ),
        )

    return build


def save_pictures(dataset: Dataset) -> None:
    for index, picture in enumerate(dataset.pictures):
        path = dataset.picture_path(index)
        path.parent.mkdir(parents=True, exist_ok=True)
        color = (40 * picture.label % 256, 90, 20 * index % 256)
        Image.new("RGB", (picture.width, picture.height), color).save(path)
