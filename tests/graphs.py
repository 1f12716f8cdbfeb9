"""Small ONNX files, built by hand for tests that no network is needed for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Shape = Sequence[int | str | None]
Weights = Mapping[str, npt.NDArray[np.generic]]


def graph_model(
    nodes: Iterable[onnx.NodeProto],
    *,
    inputs: Mapping[str, tuple[int, Shape]],
    outputs: Mapping[str, tuple[int, Shape]],
    weights: Weights,
    props: Mapping[str, str] | None = None,
    producer: str = "",
) -> onnx.ModelProto:
    """A model of these nodes; inputs and outputs are element types and shapes by name."""
    graph = helper.make_graph(
        [*nodes],
        "by_hand",
        [helper.make_tensor_value_info(name, *given) for name, given in inputs.items()],
        [helper.make_tensor_value_info(name, *given) for name, given in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", 20)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name=producer)
    helper.set_model_props(model, dict(props or {}))
    return model


def foreign_classifier(
    shape: Shape = ("n", 3, 4, 4), *, after: Sequence[str] = (), producer: str = ""
) -> onnx.ModelProto:
    """A float classifier of two classes that `bench` did not make: no metadata, other names.

    after: operators that the scores go through, one after another.
    """
    chain = ["flat", *(f"after{k}" for k in range(len(after))), "scores"]
    nodes = [helper.make_node("Flatten", ["pixels"], ["flat"])]
    operators = ["MatMul", *after]
    for operator, (source, target) in zip(operators, pairwise(chain), strict=True):
        sources = [source, "weight"] if operator == "MatMul" else [source]
        nodes.append(helper.make_node(operator, sources, [target]))
    return graph_model(
        nodes,
        inputs={"pixels": (TensorProto.FLOAT, shape)},
        outputs={"scores": (TensorProto.FLOAT, ("n", 2))},
        weights={"weight": np.ones((48, 2), np.float32)},
        producer=producer,
    )
