"""Convolutions that keep pace on a CPU where the library's own do not.

Shapes: N pictures, C channels, H x W of the input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeGuard

import torch
from torch.overrides import TorchFunctionMode

from bench.training import depthwise, products
from bench.training.depthwise import Depthwise, Pair
from bench.training.products import GradientProducts, PointwiseProduct

_Function = type[Depthwise] | type[GradientProducts] | type[PointwiseProduct]


class FastConvolutions(TorchFunctionMode):
    """Within this context, convolutions that the CPU library is slow at go another way.

    Networks are run as they are, whatever class of convolution they use; all others go their
    usual way.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        function = _faster(*args) if func is torch.conv2d and not kwargs else None
        if function is None:
            return func(*args, **(kwargs or {}))
        images, weight, bias, stride, padding, *_ = args
        if torch.is_autocast_enabled("cpu"):
            # Autocast would cast inside the function, where autograd no longer sees it.
            dtype = torch.get_autocast_dtype("cpu")
            images = images.to(dtype)
            if function is Depthwise:  # the others round it themselves
                weight = weight.to(dtype)
            bias = None if bias is None else bias.to(dtype)
        with torch.autocast("cpu", enabled=False):
            return function.apply(images, weight, bias, stride, padding)


def _faster(
    images: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: object = 1,
    padding: object = 0,
    dilation: object = 1,
    groups: int = 1,
) -> _Function | None:
    """What is faster than the library at this convolution, if anything is."""
    ordinary = images.device.type == "cpu" and images.ndim == 4 and dilation == (1, 1)
    if not (ordinary and _is_pair(stride) and _is_pair(padding)):
        return None
    half = torch.is_autocast_enabled("cpu")
    if groups == 1:
        return products.faster(images, weight, stride, padding, half=half)
    if torch.is_grad_enabled() and groups == images.shape[1] == len(weight):
        return Depthwise if depthwise.pays(weight, stride, padding, half=half) else None
    return None


def _is_pair(value: object) -> TypeGuard[Pair]:
    return isinstance(value, tuple) and len(value) == 2
