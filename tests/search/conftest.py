"""A study without pictures, and a database for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.records import Dataset, Picture, Settings, Split, StudyPlan, WeightSource
from bench.space import SearchSpace
from tests.tiny import PLAIN

EPOCHS = 3
SPACE: dict[str, Any] = {
    "name": "two",
    "family": "photo",
    "training": {"folds": 2, "epochs": EPOCHS, "batch_size": 8, "image_size": 32},
    "parameters": {
        "backbone": {"choices": ["small", "large"]},
        "learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
        "freeze_depth": {"low": 0, "high": 5},
    },
    "defaults": {"learning_rate": 1e-3, "freeze_depth": 4},
}


@pytest.fixture
def storage_url(tmp_path: Path) -> str:
    """SQLite alone: most rules of a search do not depend on the storage."""
    return f"sqlite:///{tmp_path / 'bench.db'}"


@pytest.fixture
def study_plan(tmp_path: Path) -> StudyPlan:
    return small_plan(tmp_path)


def small_plan(workspace: Path) -> StudyPlan:
    """Two backbones, two folds of three epochs; nothing in it is ever opened."""
    pictures = tuple(
        Picture(path=f"{n}.png", label=n % 2, sha256=f"{n}", width=8, height=8, mode="RGB")
        for n in range(12)
    )
    dataset = Dataset(
        name="pets", root="/nowhere", kind="folder", classes=("cat", "dog"), pictures=pictures
    )
    return StudyPlan(
        study="pets",
        space=SearchSpace.from_dict(SPACE).as_dict(),
        dataset=dataset,
        split=Split(
            dataset_fingerprint=dataset.fingerprint,
            seed=0,
            test=(0, 1),
            folds=((2, 3, 4, 5, 6), (7, 8, 9, 10, 11)),
        ),
        settings=Settings(
            epochs=EPOCHS,
            batch_size=8,
            image_size=32,
            resize="squash",
            family="photo",
            pretrained=False,
            seed=0,
            pruner="median",
        ),
        weights={"small": WeightSource(kind="random"), "large": WeightSource(kind="random")},
        device="cpu",
        arithmetic={"small": PLAIN, "large": PLAIN},
        workspace=str(workspace),
    )
