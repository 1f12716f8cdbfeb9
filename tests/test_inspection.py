"""Facts of ONNX files, whoever made them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bench.inspection import inspect_model
from bench.runtime.metadata import TensorSignature


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A classifier that `bench` did not make, with its weight in a file beside it."""
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["pixels"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weight"], ["sum"]),
            helper.make_node("Relu", ["sum"], ["positive"]),
            helper.make_node("Relu", ["positive"], ["scores"]),
        ],
        "foreign",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 3, None, 4])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(np.ones((48, 2), np.float32), "weight")],
    )
    opsets = [helper.make_opsetid("", 20)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="acme")
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
