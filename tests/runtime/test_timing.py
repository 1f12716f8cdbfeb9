import itertools
import random
from collections.abc import Iterable

import numpy as np
import pytest

from bench.records import LatencyRow
from bench.runtime.timing import Schedule, WarmUp, measure, warm_up
from tests.records import latency_row, process_sample

MS = 1_000_000


class FakeMachine:
    """A clock that moves only when the work is called, by latencies known beforehand.

    Real time would make these tests slow and their answers a matter of luck.
    """

    def __init__(self, latencies_ns: Iterable[int]) -> None:
        self.now_ns = 0
        self.calls = 0
        self._latencies_ns = iter(latencies_ns)

    def call(self) -> None:
        self.calls += 1
        self.now_ns += next(self._latencies_ns)

    def clock_ns(self) -> int:
        return self.now_ns


def steady(ms: float) -> Iterable[int]:
    return itertools.repeat(int(ms * MS))


def falling(start_ms: float, end_ms: float, calls: int) -> Iterable[int]:
    step = (start_ms - end_ms) / calls
    falls = (int((start_ms - step * i) * MS) for i in range(calls))
    return itertools.chain(falls, steady(end_ms))


def with_outliers(ms: float, outlier_ms: float, every: int) -> Iterable[int]:
    return (int((outlier_ms if i % every == 0 else ms) * MS) for i in itertools.count(1))


def two_levels(low_ms: float, high_ms: float, calls_each: int) -> Iterable[int]:
    """Bimodal: the machine stays at one level for a while, then at the other."""
    return (int((high_ms if i // calls_each % 2 else low_ms) * MS) for i in itertools.count())


def noisy(ms: float, share: float) -> Iterable[int]:
    generator = random.Random(7)
    while True:
        yield int(ms * MS * (1 + generator.uniform(-share, share)))


@pytest.mark.parametrize(
    ("name", "latencies_ns", "expected"),
    [
        ("three windows suffice", steady(20), WarmUp(steady=True, calls=75)),
        ("a fast model goes on for a second", steady(4), WarmUp(steady=True, calls=250)),
        ("single outliers do not unsettle a median", with_outliers(20, 200, 10), True),
        ("noise within the tolerance is steady", noisy(20, 0.04), True),
        ("a fall is waited for", falling(40, 20, 100), WarmUp(steady=True, calls=175)),
        ("a drift slower than the tolerance passes", falling(60, 20, 10_000), True),
        ("two levels are unsteady", two_levels(20, 40, 40), False),
        ("slow calls make small windows", steady(400), WarmUp(steady=True, calls=21)),
        ("the cap ends what the clock cannot afford", falling(9_000, 1_000, 8), False),
    ],
)
def test_warm_up_ends_when_the_latency_stands_still(name, latencies_ns, expected):
    machine = FakeMachine(latencies_ns)
    outcome = warm_up(machine.call, machine.clock_ns, Schedule())
    assert outcome.calls == machine.calls
    if isinstance(expected, WarmUp):
        assert outcome == expected, name
    else:
        assert outcome.steady is expected, name


def test_a_drift_faster_than_the_tolerance_runs_into_the_cap():
    shrinking = (int(100 * MS * 0.99**i) for i in itertools.count())
    machine = FakeMachine(shrinking)
    assert not warm_up(machine.call, machine.clock_ns, Schedule(cap_s=8.0)).steady


def test_the_least_number_of_calls_is_kept_even_when_calls_are_slow():
    machine = FakeMachine(steady(500))
    schedule = Schedule(warmup_calls=20, cap_s=60)
    assert warm_up(machine.call, machine.clock_ns, schedule) == WarmUp(steady=True, calls=21)


@pytest.mark.parametrize(
    ("ms", "calls"),
    [(1, 3000), (10, 300), (30, 100), (100, 100)],
)
def test_measuring_ends_when_both_minima_are_reached(ms, calls):
    machine = FakeMachine(steady(ms))
    latencies_ns = measure(machine.call, machine.clock_ns, Schedule())
    assert latencies_ns == (ms * MS,) * calls


def test_no_sample_is_trimmed():
    known = [10 * MS, 900 * MS, 11 * MS, 10 * MS]
    machine = FakeMachine(known)
    schedule = Schedule(measure_calls=4, measure_s=0)
    assert measure(machine.call, machine.clock_ns, schedule) == tuple(known)


# --- from the loop to the row -----------------------------------------------------------------


def row_of(machines: list[FakeMachine], schedule: Schedule) -> LatencyRow:
    """A row of one fresh process for each machine, warmed up and measured by the real loop."""
    samples = []
    for machine in machines:
        warm = warm_up(machine.call, machine.clock_ns, schedule)
        samples.append(
            process_sample(
                *measure(machine.call, machine.clock_ns, schedule),
                steady=warm.steady,
                warmup_calls=warm.calls,
            )
        )
    return latency_row(*samples, batch_size=4)


def test_steady_processes_give_the_known_figures():
    row = row_of([FakeMachine(steady(ms)) for ms in (20, 21, 22, 23, 24)], Schedule())
    assert (row.p50_ms, row.p50_interval_ms) == (22, (20, 24))
    assert row.throughput_per_s == pytest.approx(4 / 0.022)
    assert row.steady


def test_outliers_stand_in_the_tail_and_not_in_the_middle():
    """Every eighth call takes ten times as long, so the 90th percentile is such a call."""
    row = row_of([FakeMachine(with_outliers(10, 100, 8)) for _ in range(5)], Schedule())
    assert (row.p50_ms, row.p90_ms, row.p99_ms) == (10, 100, 100)
    assert row.p50_interval_ms == (10, 10)
    assert row.steady


def test_percentiles_of_noise_are_those_of_all_calls_pooled():
    machines = [FakeMachine(noisy(10, 0.3)) for _ in range(5)]
    row = row_of(machines, Schedule(tolerance=0.2))
    pooled_ns = [ns for sample in row.samples for ns in sample.latencies_ns]
    assert row.p90_ms == pytest.approx(np.percentile(pooled_ns, 90) / MS)
    assert row.p99_ms == pytest.approx(np.percentile(pooled_ns, 99) / MS)


@pytest.mark.parametrize(
    ("name", "latencies_ns"),
    [
        ("a warm-up that never settles", two_levels(20, 40, 40)),
        ("a level that changes while measuring", itertools.chain([20 * MS] * 130, steady(24))),
        ("a slow drift while measuring", (int(20 * MS * 1.001**i) for i in itertools.count())),
    ],
)
def test_one_process_that_is_not_steady_marks_the_row(name, latencies_ns):
    machines = [FakeMachine(steady(20)) for _ in range(4)]
    assert row_of(machines, Schedule()).steady
    assert not row_of([*machines, FakeMachine(latencies_ns)], Schedule()).steady, name
