from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import numpy_helper

from bench.errors import ParityError
from bench.promote.export import ServingModel
from bench.promote.verify import BATCH_SIZES, _compare, verify

Pictures = npt.NDArray[np.uint8]


def test_a_faithful_file_passes_at_every_batch_size(exported: Any, pictures_nhwc: Pictures) -> None:
    checks = verify(exported.model, exported.file, pictures_nhwc)

    assert [check.batch_size for check in checks] == list(BATCH_SIZES) == [1, 4, 17]
    for check in checks:
        assert check.provider == "CPUExecutionProvider"
        assert check.pictures == len(pictures_nhwc)
        assert check.max_abs_difference <= 1e-4
        assert check.top1_agreement == 1.0


def test_a_file_of_other_weights_is_refused_with_the_difference(
    exported: Any, other_model: ServingModel, pictures_nhwc: Pictures
) -> None:
    with pytest.raises(ParityError) as caught:
        verify(other_model, exported.file, pictures_nhwc)

    for fragment in ("CPUExecutionProvider", "batch 1", "allowed 0.0001", "not kept"):
        assert fragment in str(caught.value)


def test_one_altered_weight_is_enough(
    exported: Any, pictures_nhwc: Pictures, tmp_path: Path
) -> None:
    graph = onnx.load(exported.file)
    (bias,) = (t for t in graph.graph.initializer if t.name.endswith("fc.bias"))
    altered = numpy_helper.to_array(bias).copy()
    altered[0] += 0.01
    bias.CopyFrom(numpy_helper.from_array(altered, bias.name))
    tampered = tmp_path / "model.onnx"
    onnx.save(graph, tampered)

    with pytest.raises(ParityError):
        verify(exported.model, tampered, pictures_nhwc)


def as_array(rows: list[list[float]]) -> npt.NDArray[np.float32]:
    return np.asarray(rows, dtype=np.float32)


@pytest.mark.parametrize(
    ("expected", "actual", "agreement"),
    [
        ([[0.7, 0.3]], [[0.70009, 0.29991]], 1.0),
        # The two classes are closer than the tolerance, so either may win.
        ([[0.50004, 0.49996]], [[0.49997, 0.50003]], 0.0),
    ],
)
def test_differences_within_the_tolerance_are_borne(
    expected: list[list[float]], actual: list[list[float]], agreement: float
) -> None:
    check = _compare("CPU", 1, as_array(expected), as_array(actual))

    assert check.top1_agreement == agreement


@pytest.mark.parametrize(
    "actual",
    [[[0.7002, 0.2998]], [[0.3, 0.7]], [[np.nan, np.nan]]],
)
def test_a_difference_beyond_the_tolerance_or_no_number_at_all_is_not(
    actual: list[list[float]],
) -> None:
    with pytest.raises(ParityError):
        _compare("CPU", 1, as_array([[0.7, 0.3]]), as_array(actual))
