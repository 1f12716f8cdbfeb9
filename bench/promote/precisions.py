"""Which precisions a user wants beside float32, and how much accuracy they may cost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

from bench.errors import InputError, did_you_mean
from bench.records import Precision

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
TOLERANCE_POINTS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantChoice:
    """The precisions asked for; float32 is always made, because the others are made from it.

    precisions: None leaves the choice to the machine (see `on`).
    tolerance_points: percentage points of balanced accuracy that a variant may lose.
    """

    precisions: tuple[Precision, ...] | None = None
    tolerance_points: float = TOLERANCE_POINTS

    def __post_init__(self) -> None:
        if not (math.isfinite(self.tolerance_points) and 0 <= self.tolerance_points <= 100):
            raise InputError(
                "--tolerance is a number of percentage points from 0 to 100, "
                f"not {self.tolerance_points:g}"
            )

    @classmethod
    def parse(cls, variants: str | None, tolerance_points: float) -> VariantChoice:
        """Read `--variants fp32,int8`.

        Raises:
            InputError: a precision is unknown, or the tolerance is not a number of points.
        """
        if variants is None:
            return cls(tolerance_points=tolerance_points)
        names = [name.strip() for name in variants.split(",")]
        for name in names:
            if name not in PRECISIONS:
                raise InputError(
                    f"--variants takes {', '.join(PRECISIONS)}, not {name!r}"
                    f"{did_you_mean(name, PRECISIONS)}"
                )
        chosen = tuple(precision for precision in PRECISIONS if precision in names)
        return cls(precisions=chosen, tolerance_points=tolerance_points)

    def on(self, *, cuda: bool) -> tuple[Precision, ...]:
        """What to make beside float32; if none is named, INT8, and FP16 where CUDA works."""
        machine: tuple[Precision, ...] = ("fp16", "int8") if cuda else ("int8",)
        chosen = machine if self.precisions is None else self.precisions
        return tuple(precision for precision in chosen if precision != "fp32")
