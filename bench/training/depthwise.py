"""Gradients of depthwise convolutions that keep pace on a CPU.

The CPU library (oneDNN) has fast kernels for every forward pass, but not for every gradient: others
fall back to code up to a hundred times slower, so one such layer costs more than the rest of a
network. That is so for the gradient of kernels that are wider than three columns, and in bfloat16
for the input's gradient at strides other than 1 too. Both gradients are therefore put into terms of
what is fast:

- the gradient of the input at stride s is a convolution at stride 1 of the output's gradient,
  with s - 1 zeros set between its values (Dumoulin and Visin, 2016, section 4.6);
- the gradient of a 5 x 5 (7 x 7 ...) kernel is put together from windows of three of its columns,
  each the gradient of a 5 x 3 (7 x 3 ...) kernel over the input moved by the window's place.

Shapes: N pictures, C channels, H x W of the input, P x Q of the output, k x k kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

Pair = tuple[int, int]

_WINDOW = 3  # columns of the widest kernel whose gradient the library computes fast


class FastDepthwise(TorchFunctionMode):
    """Within this context, slow depthwise convolutions are given the gradients of this module.

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
        if func is torch.conv2d and not kwargs and _is_slow(*args):
            images, weight, bias, stride, padding, *_ = args
            if torch.is_autocast_enabled("cpu"):
                # Autocast would cast inside the function, where autograd no longer sees it.
                images, weight = images.bfloat16(), weight.bfloat16()
                bias = None if bias is None else bias.bfloat16()
            with torch.autocast("cpu", enabled=False):
                return _Depthwise.apply(images, weight, bias, stride, padding)
        return func(*args, **(kwargs or {}))


def _is_slow(
    images: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: object = 1,
    padding: object = 0,
    dilation: object = 1,
    groups: int = 1,
) -> bool:
    size = weight.shape[-1]
    return (
        groups > 1
        and torch.is_grad_enabled()
        and images.device.type == "cpu"
        and images.ndim == 4
        and groups == images.shape[1] == weight.shape[0]
        and _is_pair(stride)
        and _is_pair(padding)
        and dilation == (1, 1)
        and weight.shape[-2] == size
        and size % 2 == 1
        and size >= _WINDOW
        and max(padding) < size
        and (size > _WINDOW or (torch.is_autocast_enabled("cpu") and max(stride) > 1))
    )


def _is_pair(value: object) -> TypeGuard[Pair]:
    return isinstance(value, tuple) and len(value) == 2


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        images: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        stride: Pair,
        padding: Pair,
    ) -> torch.Tensor:
        ctx.save_for_backward(images, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(images, weight, bias, stride, padding, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        images, weight = ctx.saved_tensors
        (outer,) = gradients
        to_images, to_weight, to_bias, *_ = ctx.needs_input_grad
        place = ctx.stride, ctx.padding
        of_images = None
        if to_images and images.dtype == torch.bfloat16:
            of_images = input_gradient(outer, images, weight, *place)
        elif to_images:
            of_images = _of_library(outer, images, weight, *place, (True, False))[0]
        return (
            of_images,
            weight_gradient(outer, images, weight, *place) if to_weight else None,
            outer.sum((0, 2, 3)) if to_bias else None,
            None,
            None,
        )


def input_gradient(
    outer: torch.Tensor, images: torch.Tensor, weight: torch.Tensor, stride: Pair, padding: Pair
) -> torch.Tensor:
    """The gradient of (N, C, H, W) `images`, from that of the output, `outer` (N, C, P, Q)."""
    size = weight.shape[-1]
    spread = torch.empty(
        (*outer.shape[:2], *(extent + size - 1 for extent in images.shape[2:])),
        dtype=outer.dtype,
        memory_format=torch.channels_last,
    ).zero_()
    rows, columns = (
        slice(size - 1 - before, size - 1 - before + step * (extent - 1) + 1, step)
        for before, step, extent in zip(padding, stride, outer.shape[2:], strict=True)
    )
    spread[:, :, rows, columns] = outer
    return F.conv2d(spread, weight.flip(2, 3), groups=len(weight))


def weight_gradient(
    outer: torch.Tensor, images: torch.Tensor, weight: torch.Tensor, stride: Pair, padding: Pair
) -> torch.Tensor:
    """The gradient of the (C, 1, k, k) `weight`, k odd, from that of the output (N, C, P, Q)."""
    size, (height, width) = weight.shape[-1], images.shape[2:]
    above, left = padding
    rows, columns = (
        step * (extent - 1) + window
        for step, extent, window in zip(stride, outer.shape[2:], (size, _WINDOW), strict=True)
    )
    if height < size or above > size // 2:  # the library is fast at its own padding otherwise
        images = F.pad(images, (0, 0, above, rows - height - above))
        above = 0
    gradient = torch.zeros_like(weight)
    window = weight[..., :_WINDOW].contiguous(memory_format=torch.channels_last)
    outer = outer.contiguous(memory_format=torch.channels_last)
    # Neighbouring windows share a column, which is then computed twice: sizes are odd, and so is
    # the window's.
    for start in range(0, size - _WINDOW + 1, _WINDOW - 1):
        before = left - start
        if min(width, columns - before) <= max(0, -before):
            continue  # these columns of the kernel meet nothing but padding
        moved = F.pad(images, (before, columns - width - before))
        gradient[..., start : start + _WINDOW] = _of_library(
            outer,
            moved.contiguous(memory_format=torch.channels_last),
            window,
            stride,
            (above, 0),
            (False, True),
        )[1]
    return gradient


def _of_library(
    outer: torch.Tensor,
    images: torch.Tensor,
    weight: torch.Tensor,
    stride: Pair,
    padding: Pair,
    asked: tuple[bool, bool],
) -> tuple[torch.Tensor, ...]:
    """The library's gradients of the input and the weight, as far as asked for."""
    gradients: tuple[torch.Tensor, ...] = torch.ops.aten.convolution_backward(
        outer,
        images,
        weight,
        None,
        stride,
        padding,
        (1, 1),
        False,
        (0, 0),
        len(weight),
        (*asked, False),
    )
    return gradients
