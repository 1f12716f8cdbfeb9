from __future__ import annotations

import pytest

from bench.errors import InputError
from bench.promote.precisions import VariantChoice
from bench.records import Precision


@pytest.mark.parametrize(
    ("given", "cuda", "made"),
    [
        (None, False, ("int8",)),
        (None, True, ("fp16", "int8")),
        ("fp32", True, ()),
        ("fp32,int8", True, ("int8",)),
        ("fp32,fp16", False, ("fp16",)),  # asked for: made, though nothing here runs it fast
        ("int8, fp16, int8", False, ("fp16", "int8")),
    ],
)
def test_what_is_made_beside_float32(
    given: str | None, cuda: bool, made: tuple[Precision, ...]
) -> None:
    assert VariantChoice.parse(given, 0.5).on(cuda=cuda) == made


@pytest.mark.parametrize(
    ("given", "fragment"),
    [
        ("fp64", "takes fp32, fp16, int8, not 'fp64' (did you mean `fp16`?)"),
        ("fp32,", "not ''"),
        ("FP32", "not 'FP32'"),
    ],
)
def test_another_precision_is_refused(given: str, fragment: str) -> None:
    with pytest.raises(InputError) as caught:
        VariantChoice.parse(given, 0.5)
    assert fragment in str(caught.value)


@pytest.mark.parametrize("points", [-0.1, 100.1, float("nan"), float("inf")])
def test_a_tolerance_is_a_number_of_points(points: float) -> None:
    with pytest.raises(InputError, match="--tolerance"):
        VariantChoice.parse("fp32", points)
