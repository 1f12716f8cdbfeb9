"""Tiny ONNX classifiers, built node by node so that their answers are known by heart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from bench.runtime.metadata import ModelMetadata
from bench.runtime.preprocess import Geometry
from tests.graphs import graph_model

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
    return graph_model(
        [
            helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["float", "axes"], ["mean"], keepdims=0),
            helper.make_node("MatMul", ["mean", "weight"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
        ],
        inputs={"image": (dtype, shape)},
        outputs={"probabilities": (TensorProto.FLOAT, [shape[0], 3])},
        weights={"axes": np.array([1, 2], np.int64), "weight": np.eye(3, dtype=np.float32) / 64},
        props=props,
    )


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
