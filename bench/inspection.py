"""What is inside an ONNX file, whoever made it, without running it."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from bench.errors import one_line
from bench.runtime.metadata import KEY, ModelMetadata, TensorSignature
from bench.runtime.session import check_file, damaged, weights_elsewhere

_QUANTISED_OPS = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul"}
    | {"ConvInteger", "MatMulInteger"}
)
_FLOATS = {
    onnx.TensorProto.FLOAT: "fp32",
    onnx.TensorProto.FLOAT16: "fp16",
    onnx.TensorProto.BFLOAT16: "bf16",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """The facts of an ONNX file.

    size_bytes: of the file and of the files in which it keeps weights.
    precision: "int8" where operators are quantised; otherwise the type of most weights, "fp16",
        "bf16" or "fp32".
    opsets: version by domain; the standard domain is "ai.onnx".
    operators: how often each operator occurs in the main graph, most frequent first.
    parameters: numbers in the graph's stored tensors, whatever their type.
    side_files: files beside this one that hold weights of it.
    bench: the document under the key `bench`, where `bench` made the file.
    other_metadata: what else the file says of itself.
    """

    path: str
    size_bytes: int
    precision: str
    producer: str
    ir_version: int
    opsets: dict[str, int]
    inputs: tuple[TensorSignature, ...]
    outputs: tuple[TensorSignature, ...]
    operators: dict[str, int]
    parameters: int
    side_files: tuple[str, ...]
    bench: dict[str, Any] | None
    other_metadata: dict[str, str]


def inspect_model(path: str | Path) -> Inspection:
    """Read an ONNX file.

    Raises:
        ModelFileError: it is missing, damaged or no ONNX model, reaches for weights that are
            missing or lie outside its folder, or its `bench` metadata is damaged or contradicts
            the graph.
    """
    file = Path(path)
    check_file(file)
    model = _load(file)
    try:
        return _describe(file, model)
    except ValueError as error:  # a name that is no text, a type that ONNX does not know
        raise damaged(file, error) from error


def _describe(file: Path, model: onnx.ModelProto) -> Inspection:
    graph = model.graph
    stored = {tensor.name for tensor in graph.initializer}
    inputs = tuple(_signature(value) for value in graph.input if value.name not in stored)
    outputs = tuple(_signature(value) for value in graph.output)
    props = {prop.key: prop.value for prop in model.metadata_props}
    metadata = ModelMetadata.from_props(props, file)
    if metadata is not None:
        metadata.check_signature(inputs, outputs, file)
    return Inspection(
        path=str(file),
        size_bytes=sum(each.stat().st_size for each in (file, *_side_paths(graph, file.parent))),
        precision=_precision(graph),
        producer=f"{model.producer_name} {model.producer_version}".strip(),
        ir_version=model.ir_version,
        opsets={opset.domain or "ai.onnx": opset.version for opset in model.opset_import},
        inputs=inputs,
        outputs=outputs,
        operators=dict(Counter(node.op_type for node in graph.node).most_common()),
        parameters=sum(math.prod(tensor.dims) for tensor in graph.initializer),
        side_files=tuple(sorted(path.name for path in _side_paths(graph, file.parent))),
        bench=json.loads(props[KEY]) if metadata is not None else None,
        other_metadata={name: value for name, value in props.items() if name != KEY},
    )


def _load(file: Path) -> onnx.ModelProto:
    try:
        # Given a path, the checker also refuses weights in a file that is missing, or that is
        # named by an absolute path, through `..`, or by a link. None of them is read.
        onnx.checker.check_model(str(file))
        return onnx.load(file, load_external_data=False)
    except (onnx.checker.ValidationError, ValueError) as error:
        reason = one_line(error)
        if "external" in reason.lower() or "TensorProto (" in reason:
            raise weights_elsewhere(file, reason) from error
        raise damaged(file, error) from error


def _side_paths(graph: onnx.GraphProto, folder: Path) -> set[Path]:
    return {
        folder / entry.value
        for tensor in graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }


def _precision(graph: onnx.GraphProto) -> str:
    if any(node.op_type in _QUANTISED_OPS for node in graph.node):
        return "int8"
    numbers = dict.fromkeys(_FLOATS.values(), 0)
    for tensor in graph.initializer:
        if tensor.data_type in _FLOATS:
            numbers[_FLOATS[tensor.data_type]] += math.prod(tensor.dims)
    return max(numbers, key=lambda name: numbers[name])


def _signature(value: onnx.ValueInfoProto) -> TensorSignature:
    tensor = value.type.tensor_type
    name = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
    return TensorSignature(
        name=value.name,
        kind=f"tensor({name})",
        shape=[
            dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None
            for dim in tensor.shape.dim
        ],
    )
