"""The screen for shifts passes what agrees at some lag, and little else."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from bench.data.audit.detail import Detail
from bench.data.audit.shifts import ShiftScreen
from bench.data.audit.thumbnails import COLUMNS, ROWS

COUNT = 300  # more than one tile
LEAST = 0.45


def pictures(planted: dict[tuple[int, int], int]) -> np.ndarray:
    """Smooth noise; `planted` pairs show the same, so many columns later in the second."""
    rng = np.random.default_rng(0)
    noise = gaussian_filter(rng.normal(size=(COUNT, ROWS, 2 * COLUMNS)), (0, 1, 1.5))
    grey = (128 + 250 * noise).clip(0, 255).astype(np.uint8)
    shown = grey[:, :, :COLUMNS].copy()
    for (first, second), lag in planted.items():
        shown[first] = grey[first, :, COLUMNS // 2 : -COLUMNS // 2]
        shown[second] = grey[first, :, COLUMNS // 2 - lag :][:, :COLUMNS]
    return shown


@pytest.mark.parametrize("lag", [0, 1, 17, -40, 60, -60])
def test_pairs_pass_at_any_lag_and_in_any_two_tiles(lag: int):
    planted = {(0, 1): lag, (2, 299): lag, (280, 281): -lag}
    screen = ShiftScreen(Detail(pictures(planted)), np.arange(COUNT))

    first, second = screen.candidates(LEAST)

    passed = set(zip(first.tolist(), second.tolist(), strict=True))
    assert passed >= set(planted)
    assert len(passed) < 0.01 * COUNT**2 / 2
    assert (first < second).all()
