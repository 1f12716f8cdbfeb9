from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import numpy_helper

from bench.errors import ParityError
from bench.promote import verify as verify_module
from bench.promote.export import ServingModel
from bench.promote.verify import BATCH_SIZES, compare, verify
from bench.records import ParityCheck, from_json

Pictures = npt.NDArray[np.uint8]
LABELS = np.arange(20) % 3


def test_a_faithful_file_passes_at_every_batch_size(exported: Any, pictures_nhwc: Pictures) -> None:
    checks = verify(exported.model, exported.file, pictures_nhwc, LABELS)

    assert [check.batch_size for check in checks] == list(BATCH_SIZES) == [1, 4, 17]
    for check in checks:
        assert check.provider == "CPUExecutionProvider"
        assert check.pictures == len(pictures_nhwc)
        assert check.max_abs_difference <= 1e-4
        assert check.top1_agreement == 1.0
        assert check.balanced_accuracy_difference == 0.0


def test_a_file_of_other_weights_is_refused_with_the_difference(
    exported: Any, other_model: ServingModel, pictures_nhwc: Pictures
) -> None:
    with pytest.raises(ParityError) as caught:
        verify(other_model, exported.file, pictures_nhwc, LABELS)

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
        verify(exported.model, tampered, pictures_nhwc, LABELS)


def test_every_provider_in_use_is_compared(
    exported: Any, pictures_nhwc: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    class Recording(verify_module.Predictor):
        """Runs on the CPU what it is asked to run on CUDA, which this machine may not have."""

        def __init__(self, file: Path, *, device: Any) -> None:
            asked.append(device)
            super().__init__(file, device="cpu")

    monkeypatch.setattr(verify_module, "Predictor", Recording)
    monkeypatch.setattr(verify_module, "cuda_works", lambda: (True, "a convolution ran"))

    checks = verify(exported.model, exported.file, pictures_nhwc, LABELS)

    assert asked == ["cpu", "cuda"]
    assert [check.batch_size for check in checks] == [1, 1, 4, 4, 17, 17]


# --- one comparison ---------------------------------------------------------------------------


def as_array(rows: list[list[float]]) -> npt.NDArray[np.float32]:
    return np.asarray(rows, dtype=np.float32)


def compared(
    expected: list[list[float]], actual: list[list[float]], labels: list[int]
) -> ParityCheck:
    return compare("CPU", 1, as_array(expected), as_array(actual), np.asarray(labels))


def test_differences_within_the_tolerance_are_borne() -> None:
    check = compared([[0.7, 0.3]], [[0.70009, 0.29991]], [0])

    assert check.max_abs_difference == pytest.approx(9e-5, rel=1e-2)
    assert (check.top1_agreement, check.balanced_accuracy_difference) == (1.0, 0.0)


def test_where_two_classes_are_closer_than_the_tolerance_either_may_win() -> None:
    tied, swapped = [0.50004, 0.49996], [0.49997, 0.50003]

    check = compared([tied, swapped], [swapped, tied], [0, 0])

    assert (check.top1_agreement, check.balanced_accuracy_difference) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("expected", "actual", "faults"),
    [
        ([[0.7, 0.3]], [[0.7002, 0.2998]], ["probabilities by up to 0.0002 (allowed 0.0001)"]),
        ([[0.7, 0.3]], [[np.nan, np.nan]], ["probabilities by up to nan"]),
        (
            [[0.7, 0.3]],
            [[0.3, 0.7]],
            ["probabilities by up to 0.4", "top class of 1 of 1", "balanced accuracy by -1.0000"],
        ),
        # All within the tolerance, and yet the score is another one.
        ([[0.50004, 0.49996]], [[0.49997, 0.50003]], ["balanced accuracy by -1.0000"]),
    ],
)
def test_each_breach_is_named(
    expected: list[list[float]], actual: list[list[float]], faults: list[str]
) -> None:
    with pytest.raises(ParityError) as caught:
        compared(expected, actual, [0])

    assert str(caught.value).count("; ") == len(faults)
    for fault in [*faults, "CPU at batch 1", "not kept"]:
        assert fault in str(caught.value)


def test_a_class_counts_alike_however_many_pictures_it_has() -> None:
    """A flip of the only picture of class 1 is half of the score, of one in four an eighth."""
    tied, swapped, sure = [0.50004, 0.49996], [0.49997, 0.50003], [0.9, 0.1]
    four = [sure, sure, sure, tied, swapped], [sure, sure, sure, swapped, swapped]
    with pytest.raises(ParityError, match=r"balanced accuracy by -0\.1250"):
        compared(*four, [0, 0, 0, 0, 1])
    with pytest.raises(ParityError, match=r"balanced accuracy by \+0\.5000"):
        compared(four[0][:4], four[1][:4], [0, 0, 0, 1])


def test_records_from_before_the_balanced_accuracy_was_taken_are_read() -> None:
    old = (
        b'{"provider": "CPU", "batch_size": 1, "pictures": 2, "max_abs_difference": 1e-6,'
        b' "top1_agreement": 1.0}'
    )
    assert from_json(old, ParityCheck).balanced_accuracy_difference is None
