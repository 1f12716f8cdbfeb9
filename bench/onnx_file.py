"""What can be read of an ONNX file without running it: its arithmetic, its size, its metadata."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import ModelFileError
from bench.runtime.metadata import ModelMetadata
from bench.runtime.session import check_file

_QUANTISED_OPS = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul"}
    | {"ConvInteger", "MatMulInteger"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxFile:
    """Facts of one file.

    precision: "int8" where operators are quantised; otherwise the type of most weights, "fp16",
        "bf16" or "fp32".
    size_bytes: of the file and of the files in which it keeps weights.
    metadata: what `bench` wrote into it; None in a file of another maker.
    """

    precision: str
    size_bytes: int
    metadata: ModelMetadata | None


def describe_onnx(path: str | Path) -> OnnxFile:
    """Read a file's graph and metadata; weights that lie in other files are not read.

    Raises:
        ModelFileError: it is missing or not an ONNX model, or its `bench` metadata is damaged.
    """
    import onnx

    file = Path(path)
    check_file(file)
    try:
        model = onnx.load(file, load_external_data=False)
    except Exception as error:  # protobuf's errors share no base but Exception
        raise ModelFileError(
            f"{file} is damaged or not an ONNX model ({error}): export or copy it again"
        ) from error
    props = {entry.key: entry.value for entry in model.metadata_props}
    return OnnxFile(
        precision=_precision(model.graph),
        size_bytes=file.stat().st_size + sum(_external_sizes(model.graph, file.parent)),
        metadata=ModelMetadata.from_props(props) if "bench" in props else None,
    )


def _precision(graph: Any) -> str:
    from onnx import TensorProto

    if any(node.op_type in _QUANTISED_OPS for node in graph.node):
        return "int8"
    names = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16"}
    numbers = dict.fromkeys(names.values(), 0)
    for weight in graph.initializer:
        if weight.data_type in names:
            numbers[names[weight.data_type]] += math.prod(weight.dims)
    return max(numbers, key=lambda name: numbers[name])


def _external_sizes(graph: Any, folder: Path) -> list[int]:
    files = {
        folder / entry.value
        for weight in graph.initializer
        for entry in weight.external_data
        if entry.key == "location"
    }
    return [file.stat().st_size for file in files if file.exists()]
