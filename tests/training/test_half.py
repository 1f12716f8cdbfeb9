"""Rounding to 16 bits: small errors at any magnitude, and nothing for what has 16 bits already."""

from __future__ import annotations

import pytest
import torch

from bench.training.half import from_half, rounded, to_half


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("magnitude", [1e-30, 1e-6, 1.0, 1e6, 1e30])
def test_the_error_is_that_of_eleven_bits_whatever_the_magnitude(magnitude: float) -> None:
    """float16 alone would lose 1e-30 to zero and 1e6 to infinity."""
    values = magnitude * noise(4, 50)
    errors = ((rounded(values) - values) / values).abs()
    assert 2**-14 < float(errors.max()) <= 2**-11


def test_the_error_is_smaller_than_that_of_bfloat16() -> None:
    values = noise(4, 500)
    ours, other = rounded(values) - values, values.bfloat16().float() - values
    assert float(ours.norm()) < 0.2 * float(other.norm())


def test_a_pictures_numbers_do_not_depend_on_its_neighbours() -> None:
    values = noise(3, 2, 5) * torch.tensor([1.0, 1e5, 1e-5]).view(3, 1, 1)
    alone = torch.cat([rounded(row) for row in values.split(1)])
    assert torch.equal(rounded(values), alone)


def test_what_is_rounded_is_rounded_once() -> None:
    once = rounded(noise(4, 50))
    assert torch.equal(rounded(once), once)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_has_16_bits_is_kept_as_it_is(dtype: torch.dtype) -> None:
    values = noise(4, 50).to(dtype)
    assert rounded(values) is values


@pytest.mark.parametrize("special", [0.0, float("inf"), float("-inf"), float("nan"), 1e-44])
def test_special_values_stay_special_and_harm_no_other_picture(special: float) -> None:
    values = noise(2, 6)
    values[0] = special
    back = rounded(values)
    assert torch.allclose(back[0], values[0], atol=1e-40, equal_nan=True)
    assert torch.allclose(back[1], values[1], rtol=2**-11)


def test_the_layout_in_memory_is_kept() -> None:
    values = noise(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    halves, shifts = to_half(values)
    assert (halves.dtype, shifts.dtype) == (torch.float16, torch.int16)
    assert halves.stride() == from_half(halves, shifts).stride() == values.stride()
