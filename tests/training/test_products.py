"""A convolution as matrix products is the library's, its gradients too."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from bench.training.products import GradientProducts, PointwiseProduct

CASES = [
    # kernel, stride, padding, height, width
    ((1, 1), (1, 1), (0, 0), 4, 3),
    ((1, 1), (2, 2), (0, 0), 5, 4),  # a shortcut past a stage's first block
    ((1, 1), (1, 2), (1, 0), 3, 4),
    ((3, 3), (1, 1), (1, 1), 3, 3),
    ((3, 3), (2, 2), (1, 1), 6, 5),
    ((3, 3), (1, 1), (0, 0), 4, 5),
    ((3, 3), (1, 1), (1, 1), 1, 1),  # all but the middle is padding
    ((2, 2), (2, 2), (0, 0), 5, 4),  # the last row is seen by nobody
    ((5, 3), (3, 1), (2, 2), 7, 4),
    ((1, 7), (1, 1), (0, 3), 3, 5),
]


@pytest.mark.parametrize(("kernel", "stride", "padding", "height", "width"), CASES)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_output_and_gradients_are_those_of_the_library(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    height: int,
    width: int,
    memory_format: torch.memory_format,
) -> None:
    generator = torch.Generator().manual_seed(0)
    # Float64, so that a difference is a fault and not rounding.
    images, weight, bias = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in [(3, 4, height, width), (6, 4, *kernel), (6,)]
    )
    images, weight = (tensor.contiguous(memory_format=memory_format) for tensor in (images, weight))
    inputs = [tensor.requires_grad_() for tensor in (images, weight, bias)]
    expected = F.conv2d(images, weight, bias, stride, padding)
    outer = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    expected_gradients = torch.autograd.grad(expected, inputs, outer)

    function = PointwiseProduct if (kernel, padding) == ((1, 1), (0, 0)) else GradientProducts
    output = function.apply(images, weight, bias, stride, padding)
    gradients = torch.autograd.grad(output, inputs, outer)

    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_a_gradient_may_be_one_number_for_all_positions() -> None:
    """As that of a sum is, whose strides are 0."""
    images, weight = torch.randn(3, 4, 3, 3), torch.randn(6, 4, 1, 1, requires_grad=True)
    (expected,) = torch.autograd.grad(F.conv2d(images, weight).sum(), [weight])
    for function in (PointwiseProduct, GradientProducts):
        output = function.apply(images, weight, None, (1, 1), (0, 0))
        (ours,) = torch.autograd.grad(output.sum(), [weight])
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("function", [PointwiseProduct, GradientProducts])
def test_numbers_are_rounded_once_and_the_weights_gradient_has_its_own_format(
    function: type[torch.autograd.Function],
) -> None:
    """An input's gradient of nine terms that are rounded one by one would be off by 0.0037."""
    generator = torch.Generator().manual_seed(0)
    size = 1 if function is PointwiseProduct else 3
    images = torch.randn(2, 64, 4, 4, generator=generator).bfloat16().requires_grad_()
    weight = torch.randn(32, 64, size, size, generator=generator).requires_grad_()
    place = (1, 1), (size // 2, size // 2)
    exact = F.conv2d(images.float(), weight.bfloat16().float(), None, *place)
    outer = torch.randn(exact.shape, generator=generator).bfloat16()
    expected = torch.autograd.grad(exact, [images, weight], outer.float())

    output = function.apply(images, weight, None, *place)
    gradients = torch.autograd.grad(output, [images, weight], outer)

    assert [tensor.dtype for tensor in (output, *gradients)] == [
        torch.bfloat16,
        torch.bfloat16,
        torch.float32,
    ]
    for ours, theirs in zip((output, *gradients), (exact, *expected), strict=True):
        error = (ours.float() - theirs.float()).norm() / theirs.float().norm()
        assert error < 0.003
