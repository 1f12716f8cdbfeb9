"""Networks of all families become files that compute what they compute."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from export_table import (
    ARCHITECTURES,
    CLASSES,
    PICTURES,
    Row,
    as_markdown,
    export_and_verify,
    pictures,
    spread_model,
)
from onnx import numpy_helper

from bench.errors import ParityError
from bench.models.export import OPSET, ServingModel, export
from bench.promote.verify import verify
from bench.records import ParityCheck, Rounding
from bench.runtime.metadata import ModelMetadata

TINY = "test_resnet"
LABELS = np.arange(PICTURES) % len(CLASSES)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_network_becomes_one_verified_file_with_a_dynamic_batch(
    architecture: str, tmp_path: Path
) -> None:
    row = export_and_verify(architecture, tmp_path)

    assert row.opset == OPSET
    assert {check.batch_size for check in row.parity} == {1, 4, 17}
    assert [file.name for file in tmp_path.iterdir()] == [f"{architecture}.onnx"]
    graph = onnx.load(tmp_path / f"{architecture}.onnx").graph
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_param


def test_the_families_are_many() -> None:
    assert len(ARCHITECTURES) >= 20


# --- the check can fail -----------------------------------------------------------------------


def test_random_networks_answer_differently_from_picture_to_picture() -> None:
    """Freshly made they would not: nearly uniform answers agree with anything."""
    images_nhwc = pictures(64)
    probabilities = spread_model(TINY, images_nhwc).probabilities(torch.from_numpy(images_nhwc))

    assert probabilities.max(dim=1).values.mean() > 0.5
    assert len(set(probabilities.argmax(dim=1).tolist())) > 2


@pytest.mark.parametrize("share", [1e-2, 0.5])
def test_one_perturbed_weight_deep_in_the_network_is_found(tmp_path: Path, share: float) -> None:
    images_nhwc = pictures(64)
    model = spread_model(TINY, images_nhwc)
    metadata = ModelMetadata(
        classes=CLASSES,
        geometry=model.spec.geometry(image_size=64, crop=None, resize="center-crop"),
    )
    file = tmp_path / "model.onnx"
    export(ServingModel(model), metadata, file)
    verify(model, file, images_nhwc, LABELS)

    graph = onnx.load(file)
    kernels = [tensor for tensor in graph.graph.initializer if len(tensor.dims) == 4]
    kernel = kernels[len(kernels) // 2]
    altered = numpy_helper.to_array(kernel).copy()
    altered[0] *= 1 + share
    kernel.CopyFrom(numpy_helper.from_array(altered, kernel.name))
    onnx.save(graph, file)

    with pytest.raises(ParityError, match="probabilities by up to"):
        verify(model, file, images_nhwc, LABELS)


# --- the table --------------------------------------------------------------------------------


def test_the_table_shows_the_worst_provider_and_names_what_failed() -> None:
    def check(
        provider: str, batch_size: int, difference: float, rounding: Rounding | None = None
    ) -> ParityCheck:
        return ParityCheck(
            provider=provider,
            batch_size=batch_size,
            pictures=20,
            max_abs_difference=difference,
            top1_agreement=1.0,
            rounding=rounding,
        )

    row = Row(
        architecture="net",
        image_size=96,
        size_bytes=12_340_000,
        export_cpu_s=3.21,
        opset=20,
        parity=(check("CPU", 1, 1e-6), check("CUDA", 1, 3e-5), check("CPU", 4, 2e-6)),
    )
    rounded = replace(
        row,
        architecture="cancelling",
        parity=(
            check("CPU", 1, 2e-4, Rounding(model=2.5e-4, file=1e-4)),
            check("CPU", 4, 3e-4, Rounding(model=2e-4, file=3e-4)),
        ),
    )

    text = as_markdown([row, rounded], {"odd": "no such\noperator"}, "a machine", "2026-01-01")

    assert "| net | 96 | 12.3 | 3.2 | 3.0e-05 | 2.0e-06 | 20 |" in text
    assert "- odd: no such operator" in text
    assert "- cancelling: the file 3.0e-04, torch in float32 2.5e-04" in text
    assert "- net" not in text
    assert "CPU, CUDA" in text
