"""Dense convolutions of small maps, computed as matrix products on a CPU.

For a convolution the CPU library (oneDNN) brings the weights into an order of its own at each call,
and their gradient back out of it; for a matrix product it does not. Late layers have hundreds of
weights for each position of their small maps, so that the reordering takes longer than the
arithmetic. There, what each position's kernel sees is laid out as a row, and all three of the
layer's products (output, gradient of the input, gradient of the weight) are matrix products of rows
(im2col: Chellapilla, Puri and Simard, 2006).

Shapes: N pictures, C and D channels of the input and the output, H x W of the input, P x Q of the
output, k x l kernels; rows are (N P Q, k l C), channels last.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from bench.training.depthwise import Pair

# From so many weights a position of the output on, of all pictures together, products were faster
# on two cores with AVX-512 and with AVX2. Kernels of one position need no rows laid out.
_LEAST_OF_1X1 = {"half": 6, "float32": 50}
_LEAST = {"half": 128, "float32": 2000}


def pays(
    images: torch.Tensor, weight: torch.Tensor, stride: Pair, padding: Pair, *, half: bool
) -> bool:
    """Whether products are faster; in 16 bits the library's reordering costs the most."""
    least = _LEAST_OF_1X1 if weight.shape[2:] == (1, 1) else _LEAST
    rows, columns = _extents(images, weight, stride, padding)
    return weight.numel() >= least["half" if half else "float32"] * len(images) * rows * columns


class Product(torch.autograd.Function):
    """A convolution without groups, and its gradients, as products of rows."""

    @staticmethod
    def forward(
        ctx: Any,
        images: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        stride: Pair,
        padding: Pair,
    ) -> torch.Tensor:
        ctx.save_for_backward(images, weight)  # rows would take k l times the memory
        ctx.stride, ctx.padding = stride, padding
        extents = _extents(images, weight, stride, padding)
        # Not a view of the product: what follows may change the output in place.
        output = torch.empty(
            (len(images), len(weight), *extents),
            dtype=images.dtype,
            memory_format=torch.channels_last,
        )
        rows, kernels = _im2col(images, weight, stride, padding), _matrix(weight).t()
        output_rows = output.permute(0, 2, 3, 1).view(len(rows), len(weight))
        if bias is None:
            torch.mm(rows, kernels, out=output_rows)
        else:
            torch.addmm(bias, rows, kernels, out=output_rows)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        images, weight = ctx.saved_tensors
        (grad_output,) = gradients
        grad_rows = grad_output.permute(0, 2, 3, 1).reshape(-1, len(weight))
        to_images, to_weight, to_bias, *_ = ctx.needs_input_grad
        grad_images = grad_weight = None
        if to_images:
            grad_seen = (grad_rows @ _matrix(weight)).view(
                len(images), *grad_output.shape[2:], *weight.shape[2:], weight.shape[1]
            )
            grad_images = _col2im(grad_seen, images.shape, ctx.stride, ctx.padding)
        if to_weight:
            channels, *kernel = weight.shape[1:]
            rows = _im2col(images, weight, ctx.stride, ctx.padding)
            grad_weight = (grad_rows.t() @ rows).view(len(weight), *kernel, channels)
            grad_weight = grad_weight.permute(0, 3, 1, 2)
        return grad_images, grad_weight, grad_rows.sum(0) if to_bias else None, None, None


def _extents(
    images: torch.Tensor, weight: torch.Tensor, stride: Pair, padding: Pair
) -> tuple[int, int]:
    """P and Q."""
    p, q = (
        (extent + 2 * beside - size) // step + 1
        for extent, beside, size, step in zip(
            images.shape[2:], padding, weight.shape[2:], stride, strict=True
        )
    )
    return p, q


def _matrix(weight: torch.Tensor) -> torch.Tensor:
    """(D, C, k, l) -> (D, k l C), the same memory where that is channels last."""
    return weight.permute(0, 2, 3, 1).reshape(len(weight), -1)


def _im2col(
    images: torch.Tensor, weight: torch.Tensor, stride: Pair, padding: Pair
) -> torch.Tensor:
    """(N, C, H, W) -> (N P Q, k l C): what the kernel sees at each position."""
    extents, kernel = _extents(images, weight, stride, padding), weight.shape[2:]
    above, left = padding
    if above or left:
        images = F.pad(images, (left, left, above, above))
    images_nhwc = images.permute(0, 2, 3, 1)
    n, row, column, channel = images_nhwc.stride()
    seen = images_nhwc.as_strided(
        (len(images), *extents, *kernel, images.shape[1]),
        (n, stride[0] * row, stride[1] * column, row, column, channel),
    )
    return seen.reshape(len(images) * extents[0] * extents[1], -1)


def _col2im(
    grad_seen: torch.Tensor, shape: torch.Size, stride: Pair, padding: Pair
) -> torch.Tensor:
    """(N, P, Q, k, l, C) gradients of what each position saw -> (N, C, H, W), their sums."""
    (n, channels, height, width), kernel = shape, grad_seen.shape[3:5]
    if kernel == (1, 1) == stride and padding == (0, 0):
        return grad_seen.view(n, height, width, channels).permute(0, 3, 1, 2)
    above, left = padding
    # In 32 bits, so that up to k l terms are rounded once.
    sums = torch.zeros(
        n,
        height + 2 * above,
        width + 2 * left,
        channels,
        dtype=torch.promote_types(grad_seen.dtype, torch.float32),
    )
    for row in range(kernel[0]):
        for column in range(kernel[1]):
            rows, columns = (
                slice(first, first + step * (extent - 1) + 1, step)
                for first, step, extent in zip(
                    (row, column), stride, grad_seen.shape[1:3], strict=True
                )
            )
            sums[:, rows, columns] += grad_seen[:, :, :, row, column]
    sums = sums[:, above : above + height, left : left + width]
    return sums.to(grad_seen.dtype).permute(0, 3, 1, 2)
