"""Depthwise convolutions get the library's gradients, by a faster way."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from bench.training.depthwise import input_gradient, weight_gradient

CASES = [
    # kernel, stride, padding, height, width
    (3, (2, 2), (1, 1), 10, 10),
    (3, (2, 1), (1, 0), 11, 9),
    (5, (1, 1), (2, 2), 10, 10),
    (5, (2, 2), (2, 2), 9, 12),
    (5, (2, 2), (0, 0), 11, 8),  # "same" padding is put on before
    (7, (1, 1), (3, 3), 8, 8),
    (7, (3, 3), (3, 1), 13, 10),
    (7, (1, 1), (3, 3), 4, 5),  # lower than the kernel
    (5, (1, 2), (4, 4), 8, 7),  # padded by more than half of it
    (9, (1, 1), (4, 4), 4, 1),  # windows that lie beside the picture
    (11, (1, 1), (5, 5), 2, 2),
    (9, (2, 2), (4, 4), 2, 2),
]


@pytest.mark.parametrize(("size", "stride", "padding", "height", "width"), CASES)
def test_both_gradients_are_those_of_autograd(
    size: int, stride: tuple[int, int], padding: tuple[int, int], height: int, width: int
) -> None:
    generator = torch.Generator().manual_seed(size)
    # Float64, so that a difference is a fault and not rounding.
    images = torch.randn(3, 4, height, width, generator=generator, dtype=torch.float64)
    weight = torch.randn(4, 1, size, size, generator=generator, dtype=torch.float64)
    images.requires_grad_()
    weight.requires_grad_()
    output = F.conv2d(images, weight, stride=stride, padding=padding, groups=4)
    outer = torch.randn(output.shape, generator=generator, dtype=torch.float64)
    expected = torch.autograd.grad(output, (images, weight), outer)

    with torch.no_grad():
        to_images = input_gradient(outer, images, weight, stride, padding)
        to_weight = weight_gradient(outer, images, weight, stride, padding)

    torch.testing.assert_close(to_images, expected[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(to_weight, expected[1], rtol=1e-12, atol=1e-12)
