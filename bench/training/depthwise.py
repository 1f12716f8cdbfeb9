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

from typing import Any

import torch
import torch.nn.functional as F

Pair = tuple[int, int]

_WINDOW = 3  # columns of the widest kernel whose gradient the library computes fast


def pays(weight: torch.Tensor, stride: Pair, padding: Pair, *, half: bool) -> bool:
    """Whether a depthwise convolution's gradients are faster in this way."""
    size = weight.shape[-1]
    return (
        weight.shape[-2] == size
        and size % 2 == 1
        and size >= _WINDOW
        and max(padding) < size
        and (size > _WINDOW or (half and max(stride) > 1))
    )


class Depthwise(torch.autograd.Function):
    """A depthwise convolution: the library's output, with the gradients of this module."""

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
        (grad_output,) = gradients
        to_images, to_weight, to_bias, *_ = ctx.needs_input_grad
        place = ctx.stride, ctx.padding
        of_images = None
        if to_images and images.dtype == torch.bfloat16:
            of_images = input_gradient(grad_output, images, weight, *place)
        elif to_images:
            of_images = _of_library(grad_output, images, weight, *place, (True, False))[0]
        return (
            of_images,
            weight_gradient(grad_output, images, weight, *place) if to_weight else None,
            grad_output.sum((0, 2, 3)) if to_bias else None,
            None,
            None,
        )


def input_gradient(
    grad_output: torch.Tensor,
    images: torch.Tensor,
    weight: torch.Tensor,
    stride: Pair,
    padding: Pair,
) -> torch.Tensor:
    """The gradient of (N, C, H, W) `images`, from that of the output (N, C, P, Q)."""
    size = weight.shape[-1]
    turned = weight.flip(2, 3)
    if stride == (1, 1):
        around = [size - 1 - beside for beside in padding]
        return F.conv2d(grad_output, turned, padding=around, groups=len(weight))
    spread = torch.empty(
        (*grad_output.shape[:2], *(extent + size - 1 for extent in images.shape[2:])),
        dtype=grad_output.dtype,
        memory_format=torch.channels_last,
    ).zero_()
    rows, columns = (
        slice(size - 1 - before, size - 1 - before + step * (extent - 1) + 1, step)
        for before, step, extent in zip(padding, stride, grad_output.shape[2:], strict=True)
    )
    spread[:, :, rows, columns] = grad_output
    return F.conv2d(spread, turned, groups=len(weight))


def weight_gradient(
    grad_output: torch.Tensor,
    images: torch.Tensor,
    weight: torch.Tensor,
    stride: Pair,
    padding: Pair,
) -> torch.Tensor:
    """The gradient of the (C, 1, k, k) `weight`, k odd, from that of the output (N, C, P, Q)."""
    size, (height, width) = weight.shape[-1], images.shape[2:]
    above, left = padding
    rows, columns = (
        step * (extent - 1) + window
        for step, extent, window in zip(stride, grad_output.shape[2:], (size, _WINDOW), strict=True)
    )
    if height < size or above > size // 2:  # the library is fast at its own padding otherwise
        images = F.pad(images, (0, 0, above, rows - height - above))
        above = 0
    gradient = torch.zeros_like(weight)
    window = weight[..., :_WINDOW].contiguous(memory_format=torch.channels_last)
    grad_output = grad_output.contiguous(memory_format=torch.channels_last)
    # Neighbouring windows share a column, which is then computed twice: sizes are odd, and so is
    # the window's.
    for start in range(0, size - _WINDOW + 1, _WINDOW - 1):
        before = left - start
        if min(width, columns - before) <= max(0, -before):
            continue  # these columns of the kernel meet nothing but padding
        moved = F.pad(images, (before, columns - width - before))
        gradient[..., start : start + _WINDOW] = _of_library(
            grad_output,
            moved.contiguous(memory_format=torch.channels_last),
            window,
            stride,
            (above, 0),
            (False, True),
        )[1]
    return gradient


def _of_library(
    grad_output: torch.Tensor,
    images: torch.Tensor,
    weight: torch.Tensor,
    stride: Pair,
    padding: Pair,
    asked: tuple[bool, bool],
) -> tuple[torch.Tensor, ...]:
    """The library's gradients of the input and the weight, as far as asked for."""
    gradients: tuple[torch.Tensor, ...] = torch.ops.aten.convolution_backward(
        grad_output,
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
