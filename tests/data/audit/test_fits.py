from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.optimize import minimize

from bench.data.audit.fits import cut, fit_windows, minimize_each
from bench.data.audit.thumbnails import COLUMNS, ROWS

WINDOWS = [
    (0.0, 0.0, 1.0, 1.0),
    (0.1, 0.05, 0.9, 0.97),
    (0.02, 0.3, 0.7, 0.99),
    (0.5, 0.5, 0.5, 0.5),  # a pixel is the least
]


def test_windows_are_cut_as_pillow_cuts_them():
    pictures = np.random.default_rng(0).random((len(WINDOWS), ROWS, COLUMNS), dtype=np.float32)
    sides = np.asarray(WINDOWS)

    stretched = cut(pictures, np.arange(len(WINDOWS)), sides)

    for picture, (left, top, right, bottom), got in zip(pictures, WINDOWS, stretched, strict=True):
        least = (left * COLUMNS + 1, top * ROWS + 1)
        box = (
            left * COLUMNS,
            top * ROWS,
            max(right * COLUMNS, least[0]),
            max(bottom * ROWS, least[1]),
        )
        whole = Image.fromarray(picture)
        wanted = whole.resize(whole.size, Image.Resampling.BILINEAR, box)
        inside = np.s_[2:-2, 8:-8]  # Pillow looks beyond the edges of a window
        np.testing.assert_allclose(got[inside], np.asarray(wanted)[inside], atol=1e-4)


def valleys(points: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Rosenbrock's valley, bent to another side in each problem, around a bowl."""
    bend = np.asarray([1.0, -1.0, 0.5])[which]
    x, y, *rest = points.T
    return (1 - x) ** 2 + 10 * (y - bend * x**2) ** 2 + sum((side - 0.3) ** 2 for side in rest)


STARTS = np.repeat(np.random.default_rng(1).random((3, 1, 4)), 5, axis=1)
STARTS[:, 1:] += 0.1 * np.eye(4)


def test_all_problems_together_end_where_scipy_ends_with_each():
    points, values = minimize_each(valleys, STARTS, trials=1000)

    for problem, start in enumerate(STARTS):
        alone = minimize(
            lambda point, problem=problem: valleys(point[None], np.asarray([problem]))[0],
            start[0],
            method="Nelder-Mead",
            options={"initial_simplex": start, "maxfev": 1000, "xatol": 1e-3, "fatol": 1e-3},
        )
        assert alone.success
        assert values[problem] == pytest.approx(alone.fun, abs=1e-6)
        assert points[problem] == pytest.approx(alone.x, abs=1e-3)


def test_no_problem_is_tried_much_more_often_than_asked():
    tried = np.zeros(len(STARTS), dtype=int)

    def counting(points: np.ndarray, which: np.ndarray) -> np.ndarray:
        np.add.at(tried, which, 1)
        return valleys(points, which)

    minimize_each(counting, STARTS, trials=30)

    a_step = 2 + 4  # a reflection, a contraction, and all corners but the best
    assert (tried >= 30).all()
    assert (tried < 30 + a_step).all()


def test_the_window_that_a_part_was_cut_from_is_found():
    rng = np.random.default_rng(2)
    noise = gaussian_filter(rng.normal(size=(4, ROWS, COLUMNS)), (0, 1, 2))
    grey = (128 + 300 * noise).clip(0, 255).astype(np.uint8)
    window = (0.06, 0.04, 0.95, 0.93)
    box = np.asarray(window) * (COLUMNS, ROWS, COLUMNS, ROWS)
    whole = Image.fromarray(grey[0])
    grey[1] = np.asarray(whole.resize(whole.size, Image.Resampling.BICUBIC, tuple(box)))
    near = np.repeat(np.asarray([[0.05, 0.05, 0.95, 0.95]]), 2, axis=0)

    sides, agreement = fit_windows(
        grey, np.zeros((ROWS, COLUMNS), np.float32), np.asarray([0, 2]), np.asarray([1, 3]), near
    )

    assert sides[0] == pytest.approx(window, abs=0.01)
    assert agreement[0] > 0.9
    assert agreement[1] < 0.6  # and two pictures that have nothing to do with one another
