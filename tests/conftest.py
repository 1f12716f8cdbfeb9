"""Pictures of noise, and one record of each kind that stages exchange."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from bench.records import (
    Arithmetic,
    ClassScores,
    Dataset,
    Environment,
    LatencyRow,
    ModelRecord,
    ParityCheck,
    Picture,
    Predictions,
    Recipe,
    Scores,
    Settings,
    Split,
    StudyPlan,
    WeightSource,
)
from tests import records
from tests.records import process_sample
from tests.storages import empty_storage, on_each_storage

if TYPE_CHECKING:
    from bench.database import Database
    from tests.postgresql import Server

PictureMaker = Callable[..., Path]


def save_noise(path: Path, rng: np.random.Generator, size: tuple[int, int], mode: str) -> None:
    """Write a picture of noise; the suffix chooses the format."""
    width, height = size
    path.parent.mkdir(parents=True, exist_ok=True)
    if mode == "I;16":
        image = Image.fromarray(rng.integers(0, 65_536, (height, width), dtype=np.uint16))
    else:
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        image = image.convert(mode)
    image.save(path)


@pytest.fixture
def make_pictures(tmp_path: Path) -> PictureMaker:
    """Writes `<folder>/<class>/<number><suffix>` below `tmp_path` and returns the folder."""

    def make(
        folder: str = "pictures",
        classes: Sequence[str] = ("cat", "dog"),
        *,
        each: int = 3,
        size: tuple[int, int] = (24, 16),
        suffix: str = ".png",
        mode: str = "RGB",
        seed: int = 0,
    ) -> Path:
        rng = np.random.default_rng(seed)
        for name in classes:
            for number in range(each):
                save_noise(tmp_path / folder / name / f"{number}{suffix}", rng, size, mode)
        return tmp_path / folder

    return make


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Server]:
    """A PostgreSQL server with a database `bench` that has all tables."""
    pytest.importorskip("psycopg", reason="the extra `postgresql` is not installed")
    from bench.database import Database
    from tests.postgresql import programs, serve

    folder = programs()
    if folder is None:
        pytest.skip("no PostgreSQL server is installed (Debian: apt-get install postgresql)")
    with serve(folder) as server:
        server.ask("CREATE DATABASE bench")
        Database.open(server.url("bench")).close()
        yield server


@pytest.fixture
def postgresql_url(postgresql: Server) -> str:
    """An empty storage in PostgreSQL."""
    postgresql.empty("bench")
    return postgresql.url("bench")


storage_url = on_each_storage(empty_storage)


@pytest.fixture
def database(storage_url: str) -> Iterator[Database]:
    """An empty database, in a storage of each kind."""
    from bench.database import Database

    with Database.open(storage_url) as opened:
        yield opened


@pytest.fixture
def plan() -> StudyPlan:
    pictures = tuple(
        Picture(
            path=f"{label}/{number}.png",
            label=label,
            sha256=f"{label}{number}",
            width=30,
            height=20,
            mode="RGB",
            group=f"piece{number}",
        )
        for label in range(2)
        for number in range(3)
    )
    dataset = Dataset(
        name="pets", root="/pets", kind="folder", classes=("cat", "dog"), pictures=pictures
    )
    split = Split(
        dataset_fingerprint=dataset.fingerprint, seed=1, test=(0, 3), folds=((1, 4), (2, 5))
    )
    return StudyPlan(
        study="pets",
        space={
            "name": "cpu",
            "parameters": {
                "backbone": {"choices": ["resnet50"]},
                "learning_rate": {"low": 1e-5, "high": 0.1},
            },
        },
        dataset=dataset,
        split=split,
        settings=Settings(
            epochs=2,
            batch_size=4,
            image_size=None,
            resize="squash",
            family="photo",
            pretrained=False,
            seed=1,
            pruner="median",
        ),
        weights={"resnet50": WeightSource(kind="file", detail="r50.pth", digest="ab12")},
        device="cpu",
        arithmetic={
            "resnet50": Arithmetic(
                device="cpu", dtype="float32", channels_last=True, reason="fastest"
            )
        },
        workspace="/runs",
        notes=("a remark",),
    )


@pytest.fixture
def environment() -> Environment:
    return Environment(
        created="2026-01-01T00:00:00+00:00",
        cpu="Test CPU",
        cores=2,
        memory_bytes=8 * 2**30,
        gpu=None,
        python="3.12.0",
        platform="Linux",
        versions={"numpy": "2.0"},
    )


@pytest.fixture
def model_record() -> ModelRecord:
    return ModelRecord(
        name="best",
        study="pets",
        role="best",
        trial=4,
        recipe=Recipe(backbone="resnet50", mixup=0.2),
        architecture="resnet50.a1_in1k",
        weights="random",
        image_size=224,
        path="pets/models/best/model.onnx",
        size_bytes=94_000_000,
        parameters=23_500_000,
        opset=20,
        parity=(
            ParityCheck(
                provider="CPUExecutionProvider",
                batch_size=8,
                pictures=2,
                max_abs_difference=1e-6,
                top1_agreement=1.0,
            ),
        ),
        cv_mean=0.8,
        cv_sd=None,
        test=Scores(
            balanced_accuracy=0.5,
            accuracy=0.5,
            precision=0.25,
            recall=0.5,
            f1=1 / 3,
            log_loss=0.7,
            per_class=(
                ClassScores(name="cat", precision=0.5, recall=1.0, f1=2 / 3, support=1),
                ClassScores(name="dog", precision=0.0, recall=0.0, f1=0.0, support=1),
            ),
            confusion=((1, 0), (1, 0)),
        ),
        predictions=Predictions(
            indices=(0, 3), labels=(0, 1), probabilities=((0.75, 0.25), (0.625, 0.375))
        ),
        train_curve=(0.9, 0.6),
        seconds=12.5,
    )


@pytest.fixture
def latency_row() -> LatencyRow:
    """Three processes; their calls take 10, 20 and 60 ms and a little more from call to call."""
    samples = [
        process_sample(*(base_ms * 1_000_000 + 1000 * call for call in range(5)))
        for base_ms in (10, 20, 60)
    ]
    return records.latency_row(*samples, batch_size=4)
