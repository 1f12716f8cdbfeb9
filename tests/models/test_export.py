from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch

import bench
from bench.errors import ExportError
from bench.models import export as export_module
from bench.models.export import OPSET, ServingModel, export, rewrite_metadata
from bench.runtime.predictor import Predictor

Pictures = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def graph(exported: Any) -> onnx.ModelProto:
    return onnx.load(exported.file)


def shape(value: onnx.ValueInfoProto) -> list[int | str]:
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


def test_the_input_is_bytes_of_pictures_in_batches_of_any_size(graph: onnx.ModelProto) -> None:
    (image,) = graph.graph.input

    batch, *sides = shape(image)
    assert (image.name, sides) == ("image", [32, 32, 3])
    assert isinstance(batch, str)
    assert image.type.tensor_type.elem_type == onnx.TensorProto.UINT8


def test_the_output_is_a_probability_of_each_class(graph: onnx.ModelProto) -> None:
    (probabilities,) = graph.graph.output

    assert (probabilities.name, shape(probabilities)[1:]) == ("probabilities", [3])
    assert probabilities.type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def test_the_file_is_a_valid_model_of_the_stated_opset_and_stands_alone(
    exported: Any, graph: onnx.ModelProto
) -> None:
    onnx.checker.check_model(graph)
    assert {opset.version for opset in graph.opset_import if opset.domain == ""} == {OPSET}
    assert [file.name for file in exported.file.parent.iterdir()] == ["model.onnx"]


def test_batch_normalisation_is_folded_into_the_convolutions(graph: onnx.ModelProto) -> None:
    operators = {node.op_type for node in graph.graph.node}

    assert "Conv" in operators
    assert "BatchNormalization" not in operators


def test_the_runtime_reads_back_what_the_file_says_of_itself(exported: Any) -> None:
    predictor = Predictor(exported.file, device="cpu")

    assert predictor.metadata == exported.metadata


@pytest.mark.parametrize("batch_size", [1, 2, 4, 17])
@torch.no_grad()
def test_the_file_computes_what_torch_computes_at_any_batch_size(
    exported: Any, pictures_nhwc: Pictures, batch_size: int
) -> None:
    images = pictures_nhwc[:batch_size]

    theirs = Predictor(exported.file, device="cpu").probabilities(images)

    np.testing.assert_allclose(theirs.sum(axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(theirs, exported.model(torch.from_numpy(images)).numpy(), atol=1e-5)


@torch.no_grad()
def test_the_temperature_is_in_the_graph(exported: Any, pictures_nhwc: Pictures) -> None:
    model = exported.model
    pixels = torch.from_numpy(pictures_nhwc).permute(0, 3, 1, 2).float()
    logits = model.network(pixels * model.scale + model.bias)
    predictor = Predictor(exported.file, device="cpu")

    theirs = predictor.probabilities(pictures_nhwc)

    assert predictor.metadata.temperature == 1.5
    np.testing.assert_allclose(theirs, torch.softmax(logits / 1.5, dim=1).numpy(), atol=1e-5)
    assert not np.allclose(theirs, torch.softmax(logits, dim=1).numpy(), atol=1e-4)
    np.testing.assert_array_equal(theirs.argmax(axis=1), logits.argmax(dim=1).numpy())


def test_a_network_that_torch_cannot_export_is_refused_and_leaves_no_file(
    exported: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise RuntimeError("no such operator\nand a long trace")

    monkeypatch.setattr(torch.onnx, "export", failing)

    with pytest.raises(ExportError, match=r"\(no such operator\): choose another backbone"):
        export(exported.model, exported.metadata, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


class Attention(torch.nn.Module):
    """Has the flag that timm's attention has."""

    def __init__(self, *, fused: bool) -> None:
        super().__init__()
        self.fused_attn = fused


def test_attention_is_exported_as_plain_products_and_left_as_it_was(
    exported: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = copy.deepcopy(exported.model)
    attention = Attention(fused=True), Attention(fused=False)
    model.network = torch.nn.Sequential(model.network, *attention)
    seen = []

    def failing(*_: object, **__: object) -> None:
        seen.extend(module.fused_attn for module in attention)
        raise RuntimeError("seen enough")

    monkeypatch.setattr(torch.onnx, "export", failing)

    with pytest.raises(ExportError, match="seen enough"):
        export(model, exported.metadata, tmp_path / "model.onnx")

    assert seen == [False, False]
    assert [module.fused_attn for module in attention] == [True, False]


def test_the_served_copy_leaves_the_trained_model_as_it_was(exported: Any) -> None:
    assert isinstance(exported.model, ServingModel)
    assert not exported.model.training
    assert {parameter.dtype for parameter in exported.model.parameters()} == {torch.float32}


def test_metadata_is_rewritten_without_a_touch_to_the_graph(
    exported: Any, graph: onnx.ModelProto, pictures_nhwc: Pictures, tmp_path: Path
) -> None:
    copied = tmp_path / "model.onnx"
    copied.write_bytes(exported.file.read_bytes())
    scored = replace(exported.metadata, provenance={"test_balanced_accuracy": 0.75})

    rewrite_metadata(copied, scored)

    after = onnx.load(copied)
    assert after.graph.SerializeToString(deterministic=True) == graph.graph.SerializeToString(
        deterministic=True
    )
    before, now = (Predictor(file, device="cpu") for file in (exported.file, copied))
    assert now.metadata == scored
    np.testing.assert_array_equal(
        now.probabilities(pictures_nhwc), before.probabilities(pictures_nhwc)
    )
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def test_the_file_names_its_maker(graph: onnx.ModelProto) -> None:
    assert (graph.producer_name, graph.producer_version) == ("bench", bench.__version__)


def test_what_does_not_fit_in_one_file_is_refused(
    exported: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_module, "MOST_WEIGHT_BYTES", 1000)

    with pytest.raises(ExportError, match=r"GB of weights, .*: choose a smaller backbone"):
        export(exported.model, exported.metadata, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []
