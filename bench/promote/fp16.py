"""A half-precision file out of a float32 one, for CUDA."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

# Probabilities of many classes are small: their sum and ratio stay in 32 bits.
_FLOAT32_OPS = ("Softmax",)


def to_float16(source: Path) -> onnx.ModelProto:
    """Convert weights and arithmetic to 16 bits; input and output keep their types.

    Values beyond the range of 16 bits are clipped to it, as ONNX Runtime's converter does.
    """
    half = convert_float_to_float16(
        onnx.load(source),
        keep_io_types=True,
        op_block_list=[*DEFAULT_OP_BLOCK_LIST, *_FLOAT32_OPS],
    )
    # The converter appends casts at the end; the format wants producers before consumers.
    ordered = ONNXModel(half)
    ordered.topological_sort()
    return ordered.model
