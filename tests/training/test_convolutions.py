"""Within `FastConvolutions` a layer gives the library's results, by a faster way."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from torch import nn

from bench.training.convolutions import FastConvolutions
from bench.training.depthwise import Depthwise
from bench.training.products import GradientProducts, PointwiseProduct

HALF = torch.autocast("cpu", torch.bfloat16)
FLOAT32 = nullcontext()


def layer(size: int, stride: int, *, bias: bool = False) -> nn.Conv2d:
    """Of 8 channels, each by itself."""
    torch.manual_seed(0)
    return nn.Conv2d(8, 8, size, stride, size // 2, groups=8, bias=bias)


def dense(channels: int, size: int, stride: int = 1, *, bias: bool = False) -> nn.Conv2d:
    """From 8 channels to so many."""
    torch.manual_seed(0)
    return nn.Conv2d(8, channels, size, stride, size // 2, bias=bias)


def small_map(pixels: int = 12) -> torch.Tensor:
    return torch.randn(4, 8, pixels, pixels, generator=torch.Generator().manual_seed(1))


LAYERS = [
    pytest.param(layer(3, 2), 12, id="depthwise 3x3, stride 2"),
    pytest.param(layer(5, 1, bias=True), 12, id="depthwise 5x5"),
    pytest.param(layer(5, 2), 12, id="depthwise 5x5, stride 2"),
    pytest.param(dense(512, 1), 2, id="1x1"),
    pytest.param(dense(512, 1, 2, bias=True), 3, id="1x1, stride 2"),
    pytest.param(dense(512, 3, bias=True), 2, id="3x3"),
    pytest.param(dense(512, 3, 2), 4, id="3x3, stride 2"),
]


@pytest.fixture(autouse=True)
def a_processor_with_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """From where on products are faster differs from processor to processor."""
    processor(monkeypatch, amx_bf16=True)


def processor(monkeypatch: pytest.MonkeyPatch, **capabilities: bool) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)


@pytest.fixture
def conv(request: pytest.FixtureRequest) -> nn.Conv2d:
    """A copy of the layer that the test is given, which it may change."""
    return copy.deepcopy(request.param)


def record_detours(monkeypatch: pytest.MonkeyPatch, taken: list[type]) -> None:
    for function in (Depthwise, GradientProducts, PointwiseProduct):
        monkeypatch.setattr(
            function,
            "apply",
            lambda *args, of=function, apply=function.apply: (taken.append(of), apply(*args))[1],
        )


def gradients(conv: nn.Conv2d, images: torch.Tensor) -> list[torch.Tensor]:
    images = images.clone().requires_grad_()
    output = conv(images)
    parameters = list(conv.parameters())
    return list(torch.autograd.grad(output.float().square().sum(), [images, *parameters]))


@pytest.mark.parametrize(("conv", "pixels"), LAYERS, indirect=["conv"])
def test_a_layer_under_autocast_has_about_the_output_and_the_gradients_of_float32(
    conv: nn.Conv2d, pixels: int
) -> None:
    images = small_map(pixels)
    exact = [conv(images).detach(), *gradients(conv, images)]
    with HALF, FastConvolutions():
        output = conv(images).detach()
        fast = [output.float(), *gradients(conv, images)]
    assert output.dtype == torch.bfloat16
    for ours, theirs in zip(fast, exact, strict=True):
        assert ours.dtype == theirs.dtype == torch.float32
        error = float((ours - theirs).norm() / theirs.norm())
        assert 0 < error < 0.01, "bfloat16 has 8 bits"


@pytest.mark.parametrize(("conv", "pixels"), LAYERS, indirect=["conv"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_layer_in_float32_has_the_output_and_the_gradients_of_the_library(
    conv: nn.Conv2d, pixels: int, memory_format: torch.memory_format
) -> None:
    conv = conv.to(memory_format=memory_format)
    images = small_map(pixels).contiguous(memory_format=memory_format)
    exact = [conv(images), *gradients(conv, images)]
    with FastConvolutions():
        fast = [conv(images), *gradients(conv, images)]
    for ours, theirs in zip(fast, exact, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("context", [HALF, FLOAT32])
@pytest.mark.parametrize(("conv", "pixels"), LAYERS, indirect=["conv"])
def test_what_is_frozen_is_given_no_gradient(
    conv: nn.Conv2d, pixels: int, context: AbstractContextManager[None]
) -> None:
    images = small_map(pixels)
    with context, FastConvolutions():
        (to_weight,) = torch.autograd.grad(conv(images).float().square().sum(), [conv.weight])
        conv.requires_grad_(False)
        images.requires_grad_()
        conv(images).float().square().sum().backward()
    assert to_weight.abs().max() > 0
    assert conv.weight.grad is None
    assert images.grad is not None and images.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("conv", "context", "pixels", "way"),
    [
        (layer(5, 1), HALF, 12, Depthwise),
        (layer(3, 2), HALF, 12, Depthwise),
        (layer(3, 1), HALF, 12, None),
        (layer(5, 1), FLOAT32, 12, Depthwise),
        (layer(5, 2), FLOAT32, 12, Depthwise),
        (layer(3, 2), FLOAT32, 12, None),  # in float32 it is fast
        (nn.Conv2d(8, 16, 5, groups=8), HALF, 12, None),  # two outputs of a channel
        (nn.Conv2d(8, 8, 5, groups=8, dilation=2), HALF, 12, None),
        (nn.Conv2d(8, 8, 5, padding="same", groups=8), HALF, 12, None),
        (dense(512, 1), HALF, 12, PointwiseProduct),  # 4,096 weights, 576 positions
        (dense(256, 1), HALF, 12, None),
        (dense(512, 1), FLOAT32, 12, None),
        (dense(512, 1), FLOAT32, 4, PointwiseProduct),
        (dense(256, 3), HALF, 6, GradientProducts),  # 18,432 weights, 144 positions
        (dense(128, 3), HALF, 6, None),
        (dense(256, 3), FLOAT32, 6, None),
        (dense(256, 3), FLOAT32, 1, GradientProducts),
        (nn.Conv2d(8, 512, 3, dilation=2), HALF, 6, None),
        (nn.Conv2d(8, 512, 1, padding="same"), HALF, 6, None),
    ],
)
def test_only_what_the_library_is_slow_at_takes_the_detour(
    conv: nn.Conv2d,
    context: AbstractContextManager[None],
    pixels: int,
    way: type[torch.autograd.Function] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken: list[type] = []
    record_detours(monkeypatch, taken)
    with context, FastConvolutions():
        conv(torch.zeros(4, 8, pixels, pixels))
    assert taken == [way] * (way is not None)


@pytest.mark.parametrize(
    ("conv", "pixels", "way"),
    [
        (dense(512, 1), 5, None),  # 4,096 weights, 100 positions
        (dense(512, 1), 3, PointwiseProduct),  # 36 positions
        (dense(512, 3), 2, GradientProducts),  # 36,864 weights, 16 positions
        (dense(256, 3), 2, None),
    ],
)
def test_where_bfloat16_gains_less_fewer_layers_take_it(
    conv: nn.Conv2d,
    pixels: int,
    way: type[torch.autograd.Function] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without tiles, the arithmetic takes longer beside the reordering."""
    processor(monkeypatch, amx_bf16=False, avx512_bf16=True)
    taken: list[type] = []
    record_detours(monkeypatch, taken)
    with HALF, FastConvolutions():
        conv(torch.zeros(4, 8, pixels, pixels))
    assert taken == [way] * (way is not None)


def test_without_gradients_only_a_dense_layer_of_single_positions_takes_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken: list[type] = []
    record_detours(monkeypatch, taken)
    with HALF, FastConvolutions(), torch.no_grad():
        dense(512, 1)(small_map(2))
        dense(512, 3)(small_map(2))
        layer(5, 1, bias=True)(small_map())
    assert taken == [PointwiseProduct]


@pytest.mark.parametrize("context", [HALF, FLOAT32])
@pytest.mark.parametrize(("conv", "pixels"), LAYERS, indirect=["conv"])
def test_what_follows_may_change_the_output_in_place(
    conv: nn.Conv2d, pixels: int, context: AbstractContextManager[None]
) -> None:
    """As squeeze-and-excitation does, in most efficient networks."""
    usual, in_place = nn.Sequential(conv, nn.ReLU()), nn.Sequential(conv, nn.ReLU(inplace=True))
    with context, FastConvolutions():
        outputs = [network(small_map(pixels)) for network in (usual, in_place)]
    expected, fast = (
        torch.autograd.grad(output.float().square().sum(), [conv.weight])[0] for output in outputs
    )
    assert torch.equal(*outputs) and torch.equal(fast, expected)
