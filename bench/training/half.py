"""Activations in 16 bits: half of the disk and of what is read, for a small error.

float16 keeps 11 significant bits where bfloat16 keeps 8, but it ends at 65504 and loses bits below
6e-5. So each picture's activations are scaled by a power of two, which is exact, to have their
largest between 2^14 and 2^15: nothing overflows, and what loses bits is below 2^-28 of the largest.

Shapes: N pictures; values are (N, ...).
"""

from __future__ import annotations

import torch

_TOP = 15  # the largest value of a picture is scaled to below 2^15
_MOST_SHIFT = 126  # of float32's exponent; what would need more is zero for any purpose


def can_halve(activations: torch.Tensor) -> bool:
    """Whether 16 bits are fewer than there are; values of 16 bits are kept as they are."""
    return activations.dtype == torch.float32


def to_half(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return float16 values (N, ...) and the power of two (N,), int16, that each row is scaled by.

    The values keep their layout in memory.
    """
    largest = values.abs().flatten(1).amax(dim=1)
    shifts = (_TOP - torch.frexp(largest).exponent).clamp(-_MOST_SHIFT, _MOST_SHIFT)
    return (values * _powers(shifts, values)).half(), shifts.to(torch.int16)


def from_half(halves: torch.Tensor, shifts: torch.Tensor) -> torch.Tensor:
    """Return the float32 values (N, ...) that `to_half` was given, rounded."""
    return halves.float() * _powers(-shifts.to(torch.int32), halves)


def rounded(activations: torch.Tensor) -> torch.Tensor:
    """Return activations as they would come out of a store that keeps them in 16 bits."""
    return from_half(*to_half(activations)) if can_halve(activations) else activations


def _powers(shifts: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """2^shifts to the last bit, which no power function promises: written into the exponent."""
    powers = ((shifts + 127) << 23).view(torch.float32)
    return powers.view(-1, *[1] * (values.ndim - 1))
