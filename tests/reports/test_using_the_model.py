"""The lines that the README and a report tell people to run give what `Predictor` gives."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.models.backbones import describe_backbone
from bench.models.export import ServingModel, export
from bench.records import ResizeRule
from bench.runtime.metadata import ModelMetadata
from bench.runtime.predictor import Predictor
from reports.markdown import write_report
from tests.exported import untrained
from tests.reports.conftest import MakeReport
from tests.tiny import BACKBONE, CLASSES

README = Path(__file__).parents[2] / "README.md"


def only_block(markdown: str) -> str:
    """The block of Python that opens a model with ONNX Runtime."""
    blocks = re.findall(r"```python\n(.*?)```", markdown, re.DOTALL)
    (block,) = (block for block in blocks if "InferenceSession" in block)
    return str(block)


@pytest.fixture(params=["README", "report"])
def block(request: pytest.FixtureRequest, make_report: MakeReport, tmp_path: Path) -> str:
    if request.param == "README":
        return only_block(README.read_text("utf-8"))
    report = write_report([make_report(trials=3)], tmp_path / "report")
    return only_block(report.markdown.read_text("utf-8"))


@pytest.mark.parametrize("resize", ["squash", "center-crop"])
@pytest.mark.parametrize("size", [(60, 41), (41, 60), (33, 48)])
def test_the_printed_lines_answer_as_the_predictor_does(
    block: str, tmp_path: Path, resize: ResizeRule, size: tuple[int, int]
) -> None:
    spec = describe_backbone(BACKBONE)
    model, picture = tmp_path / "model.onnx", tmp_path / "picture.png"
    geometry = spec.geometry(image_size=32, crop=(1, 2, 31, 40), resize=resize)
    metadata = ModelMetadata(classes=CLASSES, geometry=geometry)
    export(ServingModel(untrained(spec, seed=0)), metadata, model)
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(picture)
    (expected,) = Predictor(model, device="cpu").predict([picture])

    names: dict[str, Any] = {}
    code = re.sub(r'InferenceSession\(\s*"[^"]*"', f"InferenceSession({str(model)!r}", block)
    exec(code.replace('"picture.png"', repr(str(picture))), names)

    assert names["probabilities"][0].tolist() == pytest.approx(
        list(expected.probabilities.values()), abs=1e-6
    )
