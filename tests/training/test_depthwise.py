"""Depthwise convolutions get the library's gradients, by a faster way."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bench.training import depthwise
from bench.training.depthwise import FastDepthwise, input_gradient, weight_gradient

HALF = torch.autocast("cpu", torch.bfloat16)

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


def layer(size: int, stride: int, *, bias: bool = False) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(8, 8, size, stride, size // 2, groups=8, bias=bias)


def gradients(conv: nn.Conv2d, images: torch.Tensor) -> list[torch.Tensor]:
    images = images.clone().requires_grad_()
    output = conv(images)
    parameters = list(conv.parameters())
    return list(torch.autograd.grad(output.float().square().sum(), [images, *parameters]))


@pytest.mark.parametrize(("size", "stride", "bias"), [(3, 2, False), (5, 1, True), (5, 2, False)])
def test_a_layer_under_autocast_has_the_output_and_about_the_gradients_of_float32(
    size: int, stride: int, bias: bool
) -> None:
    conv = layer(size, stride, bias=bias)
    images = torch.randn(4, 8, 12, 12, generator=torch.Generator().manual_seed(1))
    exact = gradients(conv, images)
    with torch.autocast("cpu", torch.bfloat16):
        usual = conv(images)
        with FastDepthwise():
            assert torch.equal(conv(images), usual)
            fast = gradients(conv, images)
    for ours, theirs in zip(fast, exact, strict=True):
        assert ours.dtype == theirs.dtype == torch.float32
        error = float((ours - theirs).norm() / theirs.norm())
        assert 0 < error < 0.01, "bfloat16 has 8 bits"


@pytest.mark.parametrize(("size", "stride", "bias"), [(5, 1, True), (5, 2, False), (7, 1, False)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_layer_in_float32_has_the_output_and_the_gradients_of_the_library(
    size: int, stride: int, bias: bool, memory_format: torch.memory_format
) -> None:
    conv = layer(size, stride, bias=bias).to(memory_format=memory_format)
    pixels = torch.randn(4, 8, 12, 12, generator=torch.Generator().manual_seed(1))
    images = pixels.contiguous(memory_format=memory_format)
    usual, exact = conv(images), gradients(conv, images)
    with FastDepthwise():
        assert torch.equal(conv(images), usual)
        fast = gradients(conv, images)
    for ours, theirs in zip(fast, exact, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("context", [HALF, nullcontext()])
def test_what_is_frozen_is_given_no_gradient(context: AbstractContextManager[None]) -> None:
    images = torch.randn(4, 8, 12, 9, generator=torch.Generator().manual_seed(1))
    conv = layer(5, 1, bias=True)
    with context, FastDepthwise():
        conv(images).float().square().sum().backward()  # the input needs none
        exact = conv.weight.grad
        conv.requires_grad_(False)
        images.requires_grad_()
        conv.weight.grad = None
        conv(images).float().square().sum().backward()
    assert exact is not None and exact.abs().max() > 0
    assert conv.weight.grad is None
    assert images.grad is not None and images.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("conv", "context", "detour"),
    [
        (layer(5, 1), HALF, True),
        (layer(3, 2), HALF, True),
        (layer(3, 1), HALF, False),
        (layer(5, 1), nullcontext(), True),
        (layer(5, 2), nullcontext(), True),
        (layer(3, 2), nullcontext(), False),  # in float32 it is fast
        (nn.Conv2d(8, 8, 5), HALF, False),  # not depthwise
        (nn.Conv2d(8, 16, 5, groups=8), HALF, False),
        (nn.Conv2d(8, 8, 5, groups=8, dilation=2), HALF, False),
        (
            nn.Conv2d(8, 8, 5, padding="same", groups=8),
            HALF,
            False,
        ),
    ],
)
def test_only_what_the_library_is_slow_at_takes_the_detour(
    conv: nn.Conv2d,
    context: AbstractContextManager[None],
    detour: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken: list[bool] = []
    apply = depthwise._Depthwise.apply
    monkeypatch.setattr(
        depthwise._Depthwise, "apply", lambda *args: (taken.append(True), apply(*args))[1]
    )
    with context, FastDepthwise():
        conv(torch.zeros(2, 8, 12, 12))
        with torch.no_grad():
            conv(torch.zeros(2, 8, 12, 12))
    assert taken == [True] * detour
