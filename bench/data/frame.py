"""Find the frame that all pictures of a set share, such as the white border of saved plots."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bench.records import Box

# Fewer pictures than this share too much by chance for their border to be called a frame.
_LEAST_PICTURES = 8
# A crop that leaves less than this share of the area is not a frame.
_LEAST_AREA = 0.25
# Plotting libraries blend up to this many lines of the frame into the picture's edge.
_SLIVER_PX = 2
# A blended line varies less from picture to picture than this share of the lines inside do.
_SLIVER_SPREAD = 0.35


class FrameFinder:
    """Running statistics over pictures of one size, mergeable across threads.

    A line of pixels belongs to the frame when it is the same in every picture: it may carry
    axis labels, but it carries nothing about the class. Lines at the frame's inner edge that
    hardly vary (the frame blended into the picture) go with it.
    """

    def __init__(self) -> None:
        self._count = 0
        self._same_size = True
        self._low: npt.NDArray[np.uint8] | None = None
        self._high: npt.NDArray[np.uint8] | None = None
        self._sum: npt.NDArray[np.uint64] | None = None
        self._sum_of_squares: npt.NDArray[np.uint64] | None = None

    def add(self, pixels: npt.NDArray[np.uint8]) -> None:
        """Take in one (H, W, 3) picture."""
        if not self._same_size:
            return
        # Sums of whole numbers are exact, and several times faster than means of real ones.
        brightness = pixels[..., 0].astype(np.uint32) + pixels[..., 1] + pixels[..., 2]
        self._take(1, pixels, pixels, brightness, brightness * brightness)

    def merge(self, other: FrameFinder) -> None:
        """Take in what another finder has seen."""
        self._same_size = self._same_size and other._same_size
        if not self._same_size or other._low is None:
            return
        assert other._high is not None
        assert other._sum is not None and other._sum_of_squares is not None
        self._take(other._count, other._low, other._high, other._sum, other._sum_of_squares)

    def _take(
        self,
        count: int,
        low: npt.NDArray[np.uint8],
        high: npt.NDArray[np.uint8],
        total: npt.NDArray[np.unsignedinteger],
        squares: npt.NDArray[np.unsignedinteger],
    ) -> None:
        self._count += count
        if self._low is None:
            self._low, self._high = low.copy(), high.copy()
            self._sum, self._sum_of_squares = total.astype(np.uint64), squares.astype(np.uint64)
            return
        if self._low.shape != low.shape:
            self._same_size = False
            return
        assert self._high is not None
        assert self._sum is not None and self._sum_of_squares is not None
        np.minimum(self._low, low, out=self._low)
        np.maximum(self._high, high, out=self._high)
        self._sum += total
        self._sum_of_squares += squares

    def box(self) -> Box | None:
        """Return the (left, top, right, bottom) box inside the frame, or None without one."""
        if self._count < _LEAST_PICTURES or not self._same_size or self._low is None:
            return None
        assert self._high is not None
        assert self._sum is not None and self._sum_of_squares is not None
        varies = (self._low != self._high).any(axis=2)
        if not varies.any():
            return None
        mean = self._sum / self._count
        variance = np.maximum(self._sum_of_squares / self._count - mean * mean, 0)
        rows, columns = np.flatnonzero(varies.any(axis=1)), np.flatnonzero(varies.any(axis=0))
        spread = np.sqrt(variance)[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        framed = varies.shape != spread.shape
        top, bottom = _without_slivers(spread.mean(axis=1)) if framed else (0, len(spread))
        left, right = _without_slivers(spread.mean(axis=0)) if framed else (0, spread.shape[1])
        box = (
            int(columns[0]) + left,
            int(rows[0]) + top,
            int(columns[0]) + right,
            int(rows[0]) + bottom,
        )
        area = (box[2] - box[0]) * (box[3] - box[1])
        whole = varies.shape[0] * varies.shape[1]
        return box if framed and area >= _LEAST_AREA * whole else None


def _without_slivers(spread: npt.NDArray[np.float64]) -> tuple[int, int]:
    """Return the first and one past the last line that vary as the lines inside do."""
    least = _SLIVER_SPREAD * float(np.median(spread))
    start, stop = 0, len(spread)
    while start < _SLIVER_PX and spread[start] < least:
        start += 1
    while stop > len(spread) - _SLIVER_PX and spread[stop - 1] < least:
        stop -= 1
    return start, stop
