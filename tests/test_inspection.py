"""Facts of ONNX files, whoever made them."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from bench.inspection import inspect_model
from bench.runtime.metadata import TensorSignature
from tests.graphs import foreign_classifier


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A classifier that `bench` did not make, with its weight in a file beside it."""
    model = foreign_classifier(("n", 3, None, 4), after=("Relu", "Relu"), producer="acme")
    path = tmp_path / "foreign.onnx"
    onnx.save(model, path, save_as_external_data=True, location="foreign.data", size_threshold=0)
    return path


def test_a_file_that_bench_did_not_make_is_described_all_the_same(foreign: Path) -> None:
    inspection = inspect_model(foreign)

    assert inspection.bench is None
    assert (inspection.producer, inspection.opsets) == ("acme", {"ai.onnx": 20})
    assert inspection.inputs == (TensorSignature("pixels", "tensor(float)", ["n", 3, None, 4]),)
    assert inspection.outputs == (TensorSignature("scores", "tensor(float)", ["n", 2]),)
    assert inspection.operators == {"Relu": 2, "Flatten": 1, "MatMul": 1}
    assert inspection.parameters == 96
    assert inspection.side_files == ("foreign.data",)
    weights = foreign.with_suffix(".data")
    assert inspection.size_bytes == foreign.stat().st_size + weights.stat().st_size
