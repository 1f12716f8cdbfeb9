"""Dense convolutions of small maps whose work is done by matrix products on a CPU.

For a convolution the CPU library (oneDNN) brings the weights into an order of its own at each call,
and their gradient back out of it; for a matrix product it does not. Late layers have hundreds of
weights for each position of their small maps, so that the reordering takes longer than the
arithmetic. What helps there:

- a convolution of single positions (1 x 1 kernels) is a matrix product, and so are its gradients;
- the gradients of a larger kernel are products for each place in it, over the positions where that
  place meets the input (im2col, place by place: Chellapilla, Puri and Simard, 2006). On a map of
  3 x 3, two fifths of what a 3 x 3 kernel sees is padding, which needs no arithmetic.

Shapes: N pictures, C and D channels of the input and the output, H x W of the input, P x Q of the
output, k x l kernels; rows are (N P Q, channels), channels last.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F

from bench.models.processor import has_instructions
from bench.training.depthwise import Pair

# From so many weights a position of the output on, of all pictures together, products were faster:
# kernels of a single position, and larger ones. The faster the arithmetic in 16 bits, the more the
# reordering weighs. `benchmarks/results/cpu-steps.md` has the timings: with tiles (AMX) they are of
# outputs that were products too.
_LEAST_WITH_TILES = 6, 128
_LEAST_IN_BFLOAT16 = 100, 1500
_LEAST_IN_FLOAT32 = 50, 2000


def faster(
    images: torch.Tensor, weight: torch.Tensor, stride: Pair, padding: Pair, *, half: bool
) -> type[PointwiseProduct] | type[GradientProducts] | None:
    """What is faster than the library at a convolution without groups, if anything is."""
    of_single_positions, of_larger = _least(half)
    positions = len(images)
    for extent, size, step, beside in zip(
        images.shape[2:], weight.shape[2:], stride, padding, strict=True
    ):
        positions *= (extent + 2 * beside - size) // step + 1
    if weight.shape[2:] == (1, 1) and padding == (0, 0):
        return PointwiseProduct if weight.numel() >= of_single_positions * positions else None
    pays = torch.is_grad_enabled() and weight.numel() >= of_larger * positions
    return GradientProducts if pays else None


def _least(half: bool) -> tuple[int, int]:
    if not half:
        return _LEAST_IN_FLOAT32
    return _LEAST_WITH_TILES if has_instructions("amx_bf16") else _LEAST_IN_BFLOAT16


class PointwiseProduct(torch.autograd.Function):
    """A convolution of 1 x 1 kernels without groups and padding, and its gradients.

    They are computed in the number format of the images, and handed on in that of what they belong
    to.
    """

    @staticmethod
    def forward(
        ctx: Any,
        images: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        stride: Pair,
        padding: Pair,
    ) -> torch.Tensor:
        weight = _saved_and_rounded(ctx, images, weight)
        ctx.seen = (..., *(slice(None, None, step) for step in stride))
        seen = images[ctx.seen]
        # Not a view of the product: what follows may change the output in place.
        output = torch.empty(
            (len(seen), len(weight), *seen.shape[2:]),
            dtype=images.dtype,
            memory_format=torch.channels_last,
        )
        rows, kernels = _rows(seen), weight[:, :, 0, 0].t()
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
        grad_rows = _rows(grad_output)
        to_images, to_weight, to_bias, *_ = ctx.needs_input_grad
        grad_images = grad_weight = None
        if to_images:
            grad_images = _images(grad_rows @ weight[:, :, 0, 0], grad_output.shape)
            if grad_images.shape != images.shape:  # at strides some positions are not seen
                grad_seen, grad_images = grad_images, torch.zeros_like(images)
                grad_images[ctx.seen] = grad_seen
        if to_weight:
            grad_weight = torch.empty_like(weight, dtype=ctx.weight_dtype)
            grad_weight[:, :, 0, 0] = grad_rows.t() @ _rows(images[ctx.seen])
        return grad_images, grad_weight, grad_rows.sum(0) if to_bias else None, None, None


class GradientProducts(torch.autograd.Function):
    """A convolution without groups: the library's output, with the gradients of this module.

    They are computed in the number format of the images, and handed on in that of what they belong
    to.
    """

    @staticmethod
    def forward(
        ctx: Any,
        images: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        stride: Pair,
        padding: Pair,
    ) -> torch.Tensor:
        weight = _saved_and_rounded(ctx, images, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(images, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        images, weight = ctx.saved_tensors
        (grad_output,) = gradients
        to_images, to_weight, to_bias, *_ = ctx.needs_input_grad
        # Rows outermost, so that neighbouring ones of all pictures are one piece of memory.
        grad_pnqd, images_hnwc = grad_output.permute(2, 0, 3, 1), images.permute(2, 0, 3, 1)
        kernel_kldc = weight.permute(2, 3, 0, 1)
        (height, _, width, _), (p, _, q, _) = images_hnwc.shape, grad_pnqd.shape
        (of_k, of_l), (down, across), (above, beside) = weight.shape[2:], ctx.stride, ctx.padding
        met_rows = [*_meetings(height, p, of_k, down, above)]
        grad_weight = sums_hnwc = grad_images = None
        if to_weight:
            grad_weight = torch.empty_like(weight, dtype=ctx.weight_dtype)
        if to_images:
            # In 32 bits, so that up to k l terms are rounded once.
            at_least_float32 = torch.promote_types(images.dtype, torch.float32)
            sums_hnwc = images.new_zeros(images_hnwc.shape, dtype=at_least_float32)
        for column, (to_columns, of_columns) in enumerate(
            _meetings(width, q, of_l, across, beside)
        ):
            grad_column = grad_pnqd[:, :, to_columns].contiguous()
            images_column = images_hnwc[:, :, of_columns].contiguous()
            for row, (to_rows, of_rows) in enumerate(met_rows):
                grad_met = grad_column[to_rows]
                grad_rows = grad_met.view(-1, len(weight))
                if grad_weight is not None:
                    rows = images_column[of_rows].reshape(-1, weight.shape[1])
                    grad_weight[:, :, row, column] = grad_rows.t() @ rows
                if sums_hnwc is not None:
                    term = grad_rows @ kernel_kldc[row, column]
                    sums_hnwc[of_rows, :, of_columns] += term.view(
                        *grad_met.shape[:3], term.shape[1]
                    )
        if sums_hnwc is not None:
            grad_images = torch.empty_like(images).copy_(sums_hnwc.permute(1, 3, 0, 2))
        grad_bias = grad_output.sum((0, 2, 3)) if to_bias else None
        return grad_images, grad_weight, grad_bias, None, None


def _saved_and_rounded(ctx: Any, images: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Save for the backward pass what it needs; return the weight in the images' number format."""
    ctx.weight_dtype = weight.dtype
    weight = weight.to(images.dtype)
    ctx.save_for_backward(images, weight)
    return weight


def _meetings(
    extent: int, outputs: int, size: int, step: int, padding: int
) -> Iterator[tuple[slice, slice]]:
    """For each place along a kernel: the outputs at which it meets the input, and what it meets."""
    for place in range(size):
        first = max(0, -((place - padding) // step))
        last = min(outputs - 1, (extent - 1 + padding - place) // step)
        count = max(0, last + 1 - first)
        met = first * step + place - padding
        yield slice(first, first + count), slice(met, met + step * count, step)


def _rows(images: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) -> (N H W, C), the same memory where channels lie last."""
    return images.permute(0, 2, 3, 1).reshape(-1, images.shape[1])


def _images(rows: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """(N H W, C) -> (N, C, H, W), the same memory; `shape` is that of another C."""
    return rows.view(shape[0], *shape[2:], rows.shape[1]).permute(0, 3, 1, 2)
