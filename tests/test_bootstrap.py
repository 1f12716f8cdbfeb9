import numpy as np
import pytest

from bench.bootstrap import median_interval


@pytest.mark.parametrize("values", [(), (1.0,), (1.0, 2.0, 3.0, 4.0)])
def test_fewer_than_five_values_carry_no_interval(values):
    assert median_interval(values) is None


@pytest.mark.parametrize("values", [(3.0, 1.0, 2.0, 5.0, 4.0), (7.0,) * 5])
def test_of_five_values_the_interval_is_their_range(values):
    assert median_interval(values) == (min(values), max(values))


def test_more_values_make_a_narrower_interval():
    low, high = median_interval(tuple(np.linspace(0, 1, 31)))
    assert 0.2 < low < 0.5 < high < 0.8


def test_the_same_values_always_give_the_same_interval():
    values = tuple(np.random.default_rng(0).normal(size=9))
    assert median_interval(values) == median_interval(values)


@pytest.mark.parametrize(
    ("processes", "least", "most"),
    [
        (5, 0.91, 0.97),  # 0.9375 in theory: 1 - 2 / 2**5
        (11, 0.91, 0.98),
    ],
)
def test_the_interval_covers_the_true_median_about_as_often_as_it_says(processes, least, most):
    """Processes of one model differ by some per cent, and one in five by far more."""
    rng = np.random.default_rng(42)
    true_ms, covered = 10.0, 0
    for _ in range(300):
        spread = np.where(rng.random(processes) < 0.2, 0.15, 0.03)
        medians_ms = true_ms * np.exp(spread * rng.normal(size=processes))
        low_ms, high_ms = median_interval(tuple(medians_ms))
        covered += low_ms <= true_ms <= high_ms
    assert least <= covered / 300 <= most
