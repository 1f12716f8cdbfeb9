"""Tiny ONNX classifiers, built node by node so that their answers are known by heart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bench.runtime.metadata import ModelMetadata
from bench.runtime.preprocess import Geometry

ModelMaker = Callable[..., Path]

METADATA = ModelMetadata(
    classes=("red", "green", "blue"),
    geometry=Geometry(image_size=8),
    provenance={"study": "tiny", "trial": 3},
)


def colour_classifier(
    *,
    shape: tuple[int | str, ...] = ("batch", 8, 8, 3),
    dtype: int = TensorProto.UINT8,
    props: Mapping[str, str],
) -> onnx.ModelProto:
    """probabilities = softmax(mean colour): a red picture is of class 0, and so on."""
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["float", "axes"], ["mean"], keepdims=0),
            helper.make_node("MatMul", ["mean", "weight"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
        ],
        "colours",
        [helper.make_tensor_value_info("image", dtype, shape)],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [shape[0], 3])],
        [
            numpy_helper.from_array(np.array([1, 2], np.int64), "axes"),
            numpy_helper.from_array(np.eye(3, dtype=np.float32) / 64, "weight"),
        ],
    )
    opsets = [helper.make_opsetid("", 20)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    helper.set_model_props(model, dict(props))
    return model


@pytest.fixture
def make_model(tmp_path: Path) -> ModelMaker:
    def make(name: str = "model.onnx", *, props: Mapping[str, str] | None = None, **how) -> Path:
        path = tmp_path / name
        if props is None:  # a graph made otherwise is not the one that METADATA tells of
            props = {} if how else METADATA.to_props()
        onnx.save(colour_classifier(props=props, **how), path)
        return path

    return make


@pytest.fixture
def metadata() -> ModelMetadata:
    return METADATA
