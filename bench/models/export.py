"""Write a trained model as one ONNX file that explains itself.

Input `image`: (batch, S, S, 3) uint8, as `bench.runtime.preprocess` makes it. Output
`probabilities`: (batch, K) float32. Normalisation, temperature and softmax are inside the graph.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import torch
from timm.utils.model import reparameterize_model
from torch import nn

import bench
from bench.errors import ExportError
from bench.models.staged import StagedModel
from bench.runtime.metadata import ModelMetadata
from bench.workspace import atomic_path

OPSET = 20
# One protocol buffer holds 2 GiB at most; a little is left for the graph itself.
MOST_WEIGHT_BYTES = 2**31 - 2**24


class ServingModel(nn.Module):
    """Picture in, probabilities out: what the ONNX file computes."""

    scale: torch.Tensor
    bias: torch.Tensor
    temperature: torch.Tensor

    def __init__(self, model: StagedModel, *, temperature: float = 1.0) -> None:
        super().__init__()
        # Fuses branches that exist for training only (RepVGG, FastViT); a copy for the others.
        self.network = reparameterize_model(copy.deepcopy(model.network))
        self.register_buffer("scale", model.scale.clone())
        self.register_buffer("bias", model.bias.clone())
        self.register_buffer("temperature", torch.tensor(temperature))
        self.float().eval().to(memory_format=torch.contiguous_format)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(N, S, S, 3) uint8 -> (N, K) probabilities."""
        pixels = image.permute(0, 3, 1, 2).float()
        logits = self.network(pixels * self.scale + self.bias)
        return torch.softmax(logits / self.temperature, dim=1)


def export(model: ServingModel, metadata: ModelMetadata, target: Path) -> None:
    """Export with a dynamic batch dimension and fixed height and width.

    Raises:
        ExportError: torch cannot export this network, or it does not fit in one file.
    """
    weight_bytes = sum(tensor.nbytes for tensor in model.state_dict().values())
    if weight_bytes > MOST_WEIGHT_BYTES:
        raise ExportError(
            f"this network has {weight_bytes / 1e9:.1f} GB of weights, and one ONNX file holds "
            f"{MOST_WEIGHT_BYTES / 1e9:.1f} GB: choose a smaller backbone"
        )
    size = metadata.geometry.image_size
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    try:
        with _quiet(), _explicit_attention(model):
            program = torch.onnx.export(
                model,
                (example,),
                input_names=["image"],
                output_names=["probabilities"],
                opset_version=OPSET,
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                dynamo=True,
            )
    except (RuntimeError, torch.onnx.OnnxExporterError) as error:
        first = str(error).strip().splitlines()[0]
        raise ExportError(
            f"this network cannot be exported to ONNX ({first}): choose another backbone"
        ) from error
    assert program is not None
    program.model.metadata_props.update(metadata.to_props())
    program.model.producer_name, program.model.producer_version = "bench", bench.__version__
    with atomic_path(target) as temporary:
        program.save(temporary, external_data=False)


def rewrite_metadata(file: Path, metadata: ModelMetadata) -> None:
    """Replace what an exported file says of itself, and leave its graph as it is."""
    model = onnx.load(file)
    props = {prop.key: prop.value for prop in model.metadata_props}
    onnx.helper.set_model_props(model, {**props, **metadata.to_props()})
    with atomic_path(file) as temporary:
        onnx.save(model, temporary)


@contextlib.contextmanager
def _explicit_attention(model: nn.Module) -> Iterator[None]:
    """Let timm's attention be exported as matrix products and a softmax.

    The exporter takes torch's fused operator apart into a third more nodes, and fails where the
    strides of its result differ from what the exporter puts in its place (MaxViT).
    """
    fused: list[Any] = [
        module for module in model.modules() if getattr(module, "fused_attn", False) is True
    ]
    for module in fused:
        module.fused_attn = False
    try:
        yield
    finally:
        for module in fused:
            module.fused_attn = True


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints progress and warns about its own internals."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
