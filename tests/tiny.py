"""Small things that several tests train on: pictures told apart by their colour, and a plan."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from bench.data.reading import load_dataset
from bench.data.splits import make_split
from bench.promote.select import Candidate
from bench.records import (
    Arithmetic,
    EpochDone,
    EpochScores,
    Event,
    Recipe,
    Settings,
    StudyPlan,
    TrialJob,
    WeightSource,
)
from bench.space import SearchSpace
from bench.training.trainer import Trainer

CLASSES = ("blue", "green", "red")
# Plain float32 on the CPU, because numbers are compared to the last bit.
PLAIN = Arithmetic(device="cpu", dtype="float32", channels_last=False, reason="test")
BACKBONE = "test_resnet"
CANDIDATE = Candidate(
    name="net-best",
    role="best",
    trial=3,
    recipe=Recipe(backbone=BACKBONE, learning_rate=1e-3, freeze_depth=4),
    cv_mean=0.5,
    cv_sd=0.1,
)
SPACE: dict[str, Any] = {
    "name": "tiny",
    "family": "photo",
    "training": {"folds": 2, "epochs": 2, "batch_size": 8, "image_size": 32},
    "parameters": {
        "backbone": {"choices": [BACKBONE]},
        "learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
        "augmentation": {"choices": ["none", "light", "medium", "strong"]},
        "freeze_depth": {"low": 0, "high": 5},
    },
    "defaults": {"learning_rate": 1e-3, "augmentation": "light", "freeze_depth": 2},
}


def coloured_noise(each: int, side: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """(N, side, side, 3) pictures, dark noise with one bright colour, and their (N,) classes."""
    rng = np.random.default_rng(0)
    labels = np.tile(np.arange(len(CLASSES), dtype=np.int64), each)
    images = rng.integers(0, 120, (len(labels), side, side, 3), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[:, :, 2 - label] += 120
    return images, labels


def write_pictures(folder: Path, each: int = 13) -> Path:
    """Write `folder`/<class>/<number>.png, 40 pixels a side."""
    images, labels = coloured_noise(each, side=40)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        file = folder / CLASSES[label] / f"{number:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    return folder


def make_plan(data: Path, workspace: Path) -> StudyPlan:
    """A study of `SPACE` from random weights."""
    dataset, space = load_dataset(data, crop="none"), SearchSpace.from_dict(SPACE)
    return StudyPlan(
        study="tiny",
        space=space.as_dict(),
        dataset=dataset,
        split=make_split(dataset, folds=space.folds, test_fraction=0.2, seed=0),
        settings=Settings(
            epochs=space.epochs,
            batch_size=space.batch_size,
            image_size=space.image_size,
            resize=space.resize,
            family=space.family,
            pretrained=False,
            seed=0,
            pruner="none",
        ),
        weights={BACKBONE: WeightSource(kind="random")},
        device="cpu",
        arithmetic={BACKBONE: PLAIN},
        workspace=str(workspace),
    )


def all_events(trainer: Trainer, job: TrialJob) -> list[Event]:
    """Answer every epoch with go on."""
    events = trainer.run(job)
    told = [next(events)]
    while isinstance(told[-1], EpochDone):
        told.append(events.send(True))
    return told


def timeless(event: Event) -> Event:
    """An event without the seconds it took, and without what only a training tells."""
    if isinstance(event, EpochDone):
        return replace(event, scores=timeless_scores(event.scores), conditions=None)
    return event


def timeless_scores(scores: EpochScores) -> EpochScores:
    return replace(scores, seconds=0.0)
