"""One tiny network, exported once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from bench.models.backbones import BackboneSpec, describe_backbone
from bench.models.export import ServingModel, export
from bench.models.staged import StagedModel, build_model
from bench.records import WeightSource
from bench.runtime.metadata import ModelMetadata
from tests.tiny import BACKBONE, CLASSES

SIZE = 32
TEMPERATURE = 1.5


@dataclass(frozen=True)
class Exported:
    trained: StagedModel
    model: ServingModel
    metadata: ModelMetadata
    file: Path


def untrained(spec: BackboneSpec, seed: int) -> StagedModel:
    source = WeightSource(kind="random")
    return build_model(spec, source, classes=3, image_size=SIZE, seed=seed).eval()


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    spec = describe_backbone(BACKBONE)
    trained = untrained(spec, seed=0)
    model = ServingModel(trained, temperature=TEMPERATURE)
    metadata = ModelMetadata(
        classes=CLASSES,
        geometry=spec.geometry(image_size=SIZE, crop=(1, 2, 30, 40), resize="center-crop"),
        provenance={"study": "tiny", "trial": 3},
        temperature=TEMPERATURE,
    )
    file = tmp_path_factory.mktemp("exported") / "model.onnx"
    export(model, metadata, file)
    return Exported(trained, model, metadata, file)


@pytest.fixture(scope="session")
def other_model() -> StagedModel:
    """The same architecture with other weights."""
    return untrained(describe_backbone(BACKBONE), seed=1)


@pytest.fixture(scope="session")
def pictures_nhwc() -> npt.NDArray[np.uint8]:
    """20 pictures of noise, so that the last batches of 4 and 17 differ in size."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (20, SIZE, SIZE, 3), dtype=np.uint8)
