from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import numpy_helper

from bench.errors import ParityError
from bench.models.staged import StagedModel
from bench.promote import verify as verify_module
from bench.promote.verify import BATCH_SIZES, compare
from bench.records import ParityCheck, Rounding, from_json
from tests.exported import TEMPERATURE

Pictures = npt.NDArray[np.uint8]
LABELS = np.arange(20) % 3


def verify(trained: StagedModel, file: Path, pictures_nhwc: Pictures) -> tuple[ParityCheck, ...]:
    return verify_module.verify(trained, file, pictures_nhwc, LABELS, temperature=TEMPERATURE)


def test_a_faithful_file_passes_at_every_batch_size(exported: Any, pictures_nhwc: Pictures) -> None:
    checks = verify(exported.trained, exported.file, pictures_nhwc)

    assert [check.batch_size for check in checks] == list(BATCH_SIZES) == [1, 4, 17]
    for check in checks:
        assert check.provider == "CPUExecutionProvider"
        assert check.pictures == len(pictures_nhwc)
        assert check.max_abs_difference <= 1e-4
        assert check.top1_agreement == 1.0
        assert check.balanced_accuracy_difference == 0.0
        assert check.rounding is None


def test_a_file_of_other_weights_is_refused_with_the_difference(
    exported: Any, other_model: StagedModel, pictures_nhwc: Pictures
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
        verify(exported.trained, tampered, pictures_nhwc)


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

    checks = verify(exported.trained, exported.file, pictures_nhwc)

    assert asked == ["cpu", "cuda"]
    assert [check.batch_size for check in checks] == [1, 1, 4, 4, 17, 17]


def test_a_file_as_near_to_float64_as_the_model_is_passes(
    exported: Any, pictures_nhwc: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the tolerance at nothing, what the kernels round differently has to be excused."""
    monkeypatch.setattr(verify_module, "_TOLERANCE", 0.0)
    monkeypatch.setattr(verify_module, "_ROUNDING_FACTOR", 100.0)

    checks = verify(exported.trained, exported.file, pictures_nhwc)

    for check in checks:
        assert check.rounding is not None
        assert 0.0 < check.rounding.model < 1e-6
        assert check.max_abs_difference <= check.rounding.model + check.rounding.file


def test_a_network_that_insists_on_float32_has_the_plain_tolerance(
    exported: Any, pictures_nhwc: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify_module, "_TOLERANCE", 0.0)
    trained = copy.deepcopy(exported.trained)
    trained.network.conv1[0].register_forward_pre_hook(lambda _, inputs: inputs[0].float())

    with pytest.raises(ParityError, match=r"\(allowed 0\)"):
        verify(trained, exported.file, pictures_nhwc)


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


def judged(file: float, exact: float) -> ParityCheck:
    """A model that says 0.7, whose file says `file`, and which is `exact` in float64."""
    expected, actual = (as_array([[first, 1 - first]]) for first in (0.7, file))
    exact_nk = np.asarray([[exact, 1 - exact]])
    return compare("CPU", 1, expected, actual, np.asarray([0]), lambda: exact_nk)


@pytest.mark.parametrize(("of_model", "of_file"), [(1.5e-4, 1.5e-4), (1e-4, 2.8e-4)])
def test_rounding_to_float32_excuses_a_file_about_as_near_to_float64_as_the_model(
    of_model: float, of_file: float
) -> None:
    check = judged(file=0.7 + of_model + of_file, exact=0.7 + of_model)

    assert check.max_abs_difference == pytest.approx(of_model + of_file, rel=1e-2)
    assert check.rounding == Rounding(
        model=pytest.approx(of_model, rel=1e-2), file=pytest.approx(of_file, rel=1e-2)
    )


@pytest.mark.parametrize(
    ("file", "exact", "told"),
    [
        (0.70042, 0.7001, "from float64 the file by 0.00032, the model by 0.0001"),
        (0.7003, 0.7, "from float64 the file by 0.0003, the model by"),
        (0.704, 0.702, "by up to 0.004 (allowed 0.0001)"),  # more than any rounding
    ],
)
def test_rounding_excuses_nothing_else(file: float, exact: float, told: str) -> None:
    with pytest.raises(ParityError) as caught:
        judged(file, exact)

    assert told in str(caught.value)


def test_float64_is_not_computed_where_the_two_agree() -> None:
    def never() -> None:
        raise AssertionError("asked for")

    compare("CPU", 1, as_array([[0.7, 0.3]]), as_array([[0.70009, 0.29991]]), LABELS[:1], never)


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
