"""Fused layers give what a network gives, in fewer operations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import fx, nn

from bench.training.arithmetic import has_bfloat16
from bench.training.fusion import CAN_FUSE, fused

pytestmark = pytest.mark.skipif(not CAN_FUSE, reason="this build of torch has no oneDNN")

CHANNELS_LAST = torch.channels_last
IMAGES = torch.rand(4, 8, 10, 10, generator=torch.Generator().manual_seed(0)).to(
    memory_format=CHANNELS_LAST
)


def prepared(network: nn.Module) -> nn.Module:
    """For prediction, with statistics that are none of a fresh network."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            if module.affine:
                nn.init.normal_(module.weight, mean=1.0, std=0.2)
                nn.init.normal_(module.bias, std=0.1)
    return network.eval().to(memory_format=CHANNELS_LAST)


def conv(stride: int = 1, groups: int = 1, *, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(8, 8, 3, stride, 1, groups=groups, bias=bias)


class Residual(nn.Module):
    """conv, norm, + what it was given, activation."""

    def __init__(self, activation: nn.Module, *, in_place: bool = False) -> None:
        super().__init__()
        self.conv, self.norm, self.activation = conv(), nn.BatchNorm2d(8), activation
        self.in_place = in_place

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        output = self.norm(self.conv(images))
        if self.in_place:
            output += images
        else:
            output = output + images
        return self.activation(output)


class Shortcut(nn.Module):
    """A block's two branches, each a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.long = nn.Sequential(conv(2), nn.BatchNorm2d(8), nn.ReLU(), conv(), nn.BatchNorm2d(8))
        self.short = nn.Sequential(nn.Conv2d(8, 8, 1, 2), nn.BatchNorm2d(8))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return F.relu(self.long(images) + self.short(images))


class Using(nn.Module):
    """One convolution, whose output is used in some way."""

    def __init__(self, use: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.conv, self.use = conv(), use

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.use(self.conv(images), images)


def changed_view(output: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """What is added in place is looked at again, through a view."""
    images = images * 2
    view = images.permute(0, 2, 3, 1)
    images += output
    return images + view.permute(0, 3, 1, 2)


def padded(sides: tuple[int, ...], *, groups: int = 8, value: float = 0.0) -> nn.Module:
    """A convolution at stride 2 of (left, right, top, bottom) padded images."""
    pad = nn.ConstantPad2d(sides, value)  # type: ignore[arg-type]  # four numbers
    return nn.Sequential(pad, nn.Conv2d(8, 8, 3, 2, groups=groups), nn.BatchNorm2d(8), nn.ReLU6())


class UsingPadded(nn.Module):
    """A depthwise convolution of a padded map, with which something else is done too."""

    def __init__(self, use: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.conv, self.use = nn.Conv2d(8, 8, 3, 2, groups=8), use

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        images = images - 0.5
        wide = F.pad(images, (0, 1, 0, 1))
        changed = self.use(images, wide)
        return self.conv(wide) + changed.mean()


CASES = [
    # network, operations that are left
    (nn.Sequential(conv(), nn.BatchNorm2d(8), nn.ReLU()), {"conv": 1}),
    (nn.Sequential(conv(bias=True), nn.BatchNorm2d(8), nn.ReLU(inplace=True)), {"conv": 1}),
    (nn.Sequential(conv(2, 8), nn.BatchNorm2d(8, affine=False), nn.ReLU6()), {"conv": 1}),
    (nn.Sequential(conv(), nn.BatchNorm2d(8), nn.SiLU(inplace=True)), {"conv": 1}),
    (nn.Sequential(conv(), nn.Hardswish(), conv()), {"conv": 2}),
    (nn.Sequential(conv(), nn.Hardtanh(-0.5, 0.25)), {"conv": 1}),
    (nn.Sequential(conv(), nn.Hardtanh()), {"conv": 1}),
    (nn.Sequential(conv(), nn.Hardtanh(-0.5)), {"conv": 1}),
    (nn.Sequential(conv(), nn.BatchNorm2d(8), nn.Tanh()), {"conv": 1, "tanh": 1}),
    (
        nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), conv()),
        {"native_batch_norm": 1, "relu": 1, "conv": 1},
    ),
    (Residual(nn.ReLU()), {"conv+": 1}),
    (Residual(nn.ReLU(inplace=True), in_place=True), {"conv+": 1}),
    (Residual(nn.Identity()), {"conv+": 1}),
    (Residual(nn.SiLU()), {"conv+": 1, "silu": 1}),
    (Shortcut(), {"conv": 2, "conv+": 1}),
    (Using(lambda output, _: output + output), {"conv": 1, "add": 1}),
    (Using(lambda output, _: output + 1.0), {"conv": 1, "add": 1}),
    (Using(lambda output, _: F.relu(output) + output), {"conv": 1, "relu": 1, "add": 1}),
    # of another size, and only there after the convolution
    (Using(lambda output, images: output + images[:1]), {"conv": 1, "slice": 1, "add": 1}),
    (Using(lambda output, images: output + images.neg()), {"conv": 1, "neg": 1, "add": 1}),
    (Using(changed_view), {"mul": 1, "permute": 2, "conv": 1, "add_": 1, "add": 1}),
    (padded((0, 1, 0, 1)), {"conv": 1}),
    (padded((2, 1, 1, 2)), {"conv": 1}),
    (nn.Conv2d(8, 8, 3, padding="valid", groups=8), {"conv": 1}),
    (nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), conv(2, 8)), {"conv": 1}),
    # more arithmetic than it saves; needed by others; changed before the convolution
    (padded((0, 1, 0, 1), groups=1), {"constant_pad_nd": 1, "conv": 1}),
    (padded((0, 3, 0, 1)), {"constant_pad_nd": 1, "conv": 1}),
    (
        UsingPadded(lambda _, wide: wide),
        {"sub": 1, "constant_pad_nd": 1, "mean": 1, "conv": 1, "add": 1},
    ),
    (
        UsingPadded(lambda images, _: images.relu_()),
        {"sub": 1, "constant_pad_nd": 1, "relu_": 1, "mean": 1, "conv": 1, "add": 1},
    ),
    # cut off; not zeros; dilated
    (padded((0, -1, 0, 1)), {"constant_pad_nd": 1, "conv": 1}),
    (padded((0, 1, 0, 1), value=0.5), {"constant_pad_nd": 1, "conv": 1}),
    (
        nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(8, 8, 3, dilation=2, groups=8)),
        {"constant_pad_nd": 1, "conv": 1},
    ),
    (nn.Sequential(nn.ConvTranspose2d(8, 8, 3), nn.ReLU()), {"convolution": 1, "relu": 1}),
]


def operations(graph: object) -> dict[str, int]:
    assert isinstance(graph, fx.GraphModule), "it was not fused"
    names = {
        "mkldnn._convolution_pointwise": "conv",
        "mkldnn._convolution_pointwise.binary": "conv+",
    }
    targets = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
    plain = [target.removesuffix(".default") for target in targets]
    left = [names.get(name, name.split(".")[1] if "." in name else name) for name in plain]
    return dict(Counter(name for name in left if "getitem" not in name))


@pytest.mark.parametrize(("network", "left"), CASES, ids=[" ".join(left) for _, left in CASES])
def test_a_convolution_takes_on_what_stands_around_it(
    network: nn.Module, left: dict[str, int]
) -> None:
    network = prepared(network)
    with torch.no_grad():
        expected = network(IMAGES.clone())
    faster, first = fused(network, IMAGES.clone())
    assert operations(faster) == left
    assert first.stride() == expected.stride()
    torch.testing.assert_close(first, expected, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        other = IMAGES.flip(0)
        torch.testing.assert_close(faster(other.clone()), network(other), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        "test_resnet",
        "test_efficientnet",
        "test_convnext",
        pytest.param("resnet50", marks=pytest.mark.slow),
        pytest.param("legacy_xception", marks=pytest.mark.slow),
        pytest.param("tf_efficientnet_lite0", marks=pytest.mark.slow),
        pytest.param("mobilenetv3_small_050", marks=pytest.mark.slow),
        pytest.param("regnety_002", marks=pytest.mark.slow),
        pytest.param("densenet121", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(
    "half",
    [
        False,
        pytest.param(
            True,
            marks=pytest.mark.skipif(
                not has_bfloat16(), reason="oneDNN has no bfloat16 on this processor"
            ),
        ),
    ],
)
def test_a_networks_fused_features_are_its_features(name: str, half: bool) -> None:
    network = prepared(timm.create_model(name))
    images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(1)).to(
        memory_format=CHANNELS_LAST
    )

    def features(images: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            return network.forward_features(images)

    with torch.no_grad():
        exact, usual = network.forward_features(images), features(images)
    faster, output = fused(features, images)
    left = operations(faster)
    assert left.keys() >= {"conv"}
    # of the first layer, which is not depthwise
    assert left.get("constant_pad_nd", 0) == (1 if name.startswith("tf_") else 0)
    assert output.dtype == usual.dtype
    error, usual_error = (
        float((values.float() - exact).norm() / exact.norm()) for values in (output, usual)
    )
    assert error < (max(0.01, 1.5 * usual_error) if half else 1e-4)


def looks_at_its_input(images: torch.Tensor) -> torch.Tensor:
    return images * images.mean().item()


def draws(images: torch.Tensor) -> torch.Tensor:
    return images * torch.rand_like(images)


@pytest.mark.parametrize("function", [looks_at_its_input, draws])
def test_what_cannot_be_fused_is_given_back(
    function: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    assert fused(function, IMAGES)[0] is function
