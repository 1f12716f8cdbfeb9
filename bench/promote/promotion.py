"""Promote one candidate: retrain, export, verify, and score the file on the locked test set."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.data.unchanged import refuse_changed_pictures
from bench.metrics import score
from bench.models.export import OPSET, ServingModel, export, rewrite_metadata
from bench.models.staged import StagedModel
from bench.promote.calibrate import fit_calibration, with_test_effect
from bench.promote.retrain import retrain
from bench.promote.select import Candidate
from bench.promote.verify import verify
from bench.records import (
    ModelRecord,
    ParityCheck,
    Predictions,
    Scores,
    StudyPlan,
    WeightSource,
    from_json,
    to_builtins,
    to_json,
)
from bench.runtime.metadata import ModelMetadata, Normalisation, Provenance, Weights
from bench.runtime.predictor import Predictor
from bench.runtime.session import Device
from bench.training.folds import training_identity
from bench.training.trainer import Trainer
from bench.words import counted
from bench.workspace import Workspace, atomic_path, package_versions, write_atomic

MODEL_FILE = "model.onnx"
_MARK = "model.json"


def promote_candidate(
    trainer: Trainer, candidate: Candidate, workspace: Workspace, say: Callable[[str], None]
) -> ModelRecord:
    """Turn a trial into a verified, tested ONNX file; one that is there already is kept.

    The file gets its name once it is verified and carries its test score: no other ever has it.
    `say` hears what is being done.

    Raises:
        ModelError: the candidate came to nothing; a file that differs from the trained model is
            not kept.
        DataError: a test picture is gone or is not the one that the study was begun with.
    """
    folder = workspace.model(trainer.plan.study, candidate.name)
    identity = training_identity(trainer.plan, candidate.recipe)
    finished = _read_finished(folder, candidate, identity)
    if finished is not None:
        say("finished before, and kept")
        return finished
    for replaced in (folder / _MARK, folder / MODEL_FILE):
        replaced.unlink(missing_ok=True)
    record = _make(trainer, candidate, workspace, identity, say)
    write_atomic(folder / _MARK, to_json(record, indent=2))
    return record


def _make(
    trainer: Trainer,
    candidate: Candidate,
    workspace: Workspace,
    identity: str,
    say: Callable[[str], None],
) -> ModelRecord:
    """Train a candidate, write its file, and describe it."""
    plan, started = trainer.plan, time.perf_counter()
    calibration = fit_calibration(plan, candidate)
    pictures = counted(len(plan.split.development), "development picture")
    say(f"training on all {pictures}, {counted(plan.settings.epochs, 'epoch')}")
    retrained = retrain(trainer, candidate)
    serving = ServingModel(retrained.model, temperature=calibration.temperature)
    metadata = _metadata(trainer, candidate, calibration.temperature)
    images = trainer.networks.images(candidate.recipe.backbone)
    file = workspace.model(plan.study, candidate.name) / MODEL_FILE
    parity, predictions, scores = _write(
        plan, retrained.model, serving, metadata, images.read(plan.split.test), file, say
    )
    return ModelRecord(
        name=candidate.name,
        study=plan.study,
        role=candidate.role,
        trial=candidate.trial,
        recipe=candidate.recipe,
        architecture=retrained.model.spec.architecture,
        weights=str(plan.weights[candidate.recipe.backbone]),
        image_size=images.image_size,
        path=file.relative_to(workspace.root).as_posix(),
        size_bytes=file.stat().st_size,
        parameters=sum(p.numel() for p in serving.network.parameters()),
        opset=OPSET,
        parity=parity,
        cv_mean=candidate.cv_mean,
        cv_sd=candidate.cv_sd,
        test=scores,
        predictions=predictions,
        train_curve=retrained.train_curve,
        seconds=time.perf_counter() - started,
        identity=identity,
        calibration=with_test_effect(calibration, predictions, plan.dataset),
        weights_license=retrained.model.spec.license or "",
    )


def _write(
    plan: StudyPlan,
    trained: StagedModel,
    serving: ServingModel,
    metadata: ModelMetadata,
    test_nhwc: npt.NDArray[np.uint8],
    file: Path,
    say: Callable[[str], None],
) -> tuple[tuple[ParityCheck, ...], Predictions, Scores]:
    """Export a model; the file gets its name once it is verified and carries its test score."""
    labels_n = np.asarray(plan.dataset.labels, dtype=np.int64)[list(plan.split.test)]
    with atomic_path(file) as draft:
        say("exporting to ONNX")
        export(serving, metadata, draft)
        say("verifying the file against the trained model")
        parity = verify(trained, draft, test_nhwc, labels_n, temperature=metadata.temperature)
        say(f"scoring the file on {counted(len(labels_n), 'test picture')}")
        predictions, scores = evaluate(draft, plan)
        rewrite_metadata(draft, _with_test_score(metadata, scores, len(labels_n)))
    return parity, predictions, scores


def evaluate(file: Path, plan: StudyPlan, *, device: Device = "cpu") -> tuple[Predictions, Scores]:
    """Predict the locked test set from its picture files, with the ONNX file alone.

    Raises:
        DataError: a test picture is gone or is not the one that the study was begun with.
    """
    dataset, test = plan.dataset, plan.split.test
    refuse_changed_pictures(dataset, test)
    predictor = Predictor(file, device=device)
    predicted = predictor.predict([dataset.picture_path(index) for index in test])
    rows = tuple(tuple(p.probabilities[name] for name in dataset.classes) for p in predicted)
    labels = tuple(dataset.pictures[index].label for index in test)
    scores = score(np.asarray(labels), np.asarray(rows, dtype=np.float32), dataset.classes)
    return Predictions(indices=test, labels=labels, probabilities=rows), scores


def _read_finished(folder: Path, candidate: Candidate, identity: str) -> ModelRecord | None:
    mark, file = folder / _MARK, folder / MODEL_FILE
    if not (mark.exists() and file.exists()):
        return None
    try:
        record = from_json(mark.read_bytes(), ModelRecord)
    except ValueError:
        return None  # of another version
    if record.calibration is None:
        return None  # exported before graphs had a temperature
    same = (record.trial, record.identity) == (candidate.trial, identity)
    return record if same and record.size_bytes == file.stat().st_size else None


def _metadata(trainer: Trainer, candidate: Candidate, temperature: float) -> ModelMetadata:
    plan, spec = trainer.plan, trainer.networks.spec(candidate.recipe.backbone)
    return ModelMetadata(
        classes=plan.dataset.classes,
        geometry=trainer.networks.geometry(candidate.recipe.backbone),
        normalisation=Normalisation(mean=spec.mean, std=spec.std),
        temperature=temperature,
        provenance={
            "study": plan.study,
            "trial": candidate.trial,
            "role": candidate.role,
            "recipe": to_builtins(candidate.recipe),
            "architecture": spec.architecture,
            "weights": _shipped(plan.weights[candidate.recipe.backbone]),
            "weights_license": spec.license,
            "dataset": plan.dataset.name,
            "dataset_fingerprint": plan.dataset.fingerprint,
            "split_fingerprint": plan.split.fingerprint,
            "synthetic_data": plan.dataset.synthetic,
            "cv_balanced_accuracy": candidate.cv_mean,
            "cv_balanced_accuracy_sd": candidate.cv_sd,
            "versions": package_versions(),
        },
    )


def _shipped(source: WeightSource) -> Weights:
    """The source of the weights as the world may read it: where a file lay is left out."""
    detail = Path(source.detail).name if source.kind == "file" else source.detail
    return {"kind": source.kind, "detail": detail, "digest": source.digest}


def _with_test_score(metadata: ModelMetadata, scores: Scores, pictures: int) -> ModelMetadata:
    provenance: Provenance = {
        **metadata.provenance,
        "test_balanced_accuracy": scores.balanced_accuracy,
        "test_pictures": pictures,
    }
    return replace(metadata, provenance=provenance)
