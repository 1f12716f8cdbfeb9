"""The measuring loop: call until the latency stands still, then time single calls.

The same loop times ONNX Runtime (`bench.runtime.measure`) and what it is compared with
(`bench.latency.rivals`). The clock is given, so tests know every latency beforehand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

Call = Callable[[], object]
Clock = Callable[[], int]  # nanoseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How long to warm up and to measure.

    The warm-up ends as steady once at least `warmup_calls` calls and `warmup_s` seconds are
    over and the medians of the last `steady_windows` windows lie within `tolerance` of their
    least; it ends as unsteady after `cap_s` seconds. A window is `window_calls` calls; of slow
    calls it is as many as fit `window_s` seconds, and never fewer than three. The measurement
    goes on until both `measure_calls` calls and `measure_s` seconds are over.
    """

    warmup_calls: int = 20
    warmup_s: float = 1.0
    cap_s: float = 10.0
    window_calls: int = 25
    window_s: float = 1.0
    steady_windows: int = 3
    tolerance: float = 0.05
    measure_s: float = 3.0
    measure_calls: int = 100


_LEAST_WINDOW_CALLS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmUp:
    """How a warm-up ended, and after how many calls."""

    steady: bool
    calls: int


def warm_up(call: Call, clock_ns: Clock, schedule: Schedule) -> WarmUp:
    """Call until the latency stands still, or until the cap (see `Schedule`)."""
    start_ns = clock_ns()
    medians_ns: list[float] = []
    calls = 0
    while True:
        window_ns = _time_window(call, clock_ns, schedule)
        calls += len(window_ns)
        medians_ns.append(median(window_ns))
        elapsed_s = (clock_ns() - start_ns) / 1e9
        long_enough = calls >= schedule.warmup_calls and elapsed_s >= schedule.warmup_s
        if long_enough and _is_steady(medians_ns, schedule):
            return WarmUp(steady=True, calls=calls)
        if elapsed_s >= schedule.cap_s:
            return WarmUp(steady=False, calls=calls)


def measure(call: Call, clock_ns: Clock, schedule: Schedule) -> tuple[int, ...]:
    """Time single calls, in nanoseconds, until both minima are reached. None is left out."""
    start_ns = clock_ns()
    latencies_ns: list[int] = []
    elapsed_ns = 0
    while len(latencies_ns) < schedule.measure_calls or elapsed_ns < schedule.measure_s * 1e9:
        latencies_ns.append(time_once(call, clock_ns))
        elapsed_ns = clock_ns() - start_ns
    return tuple(latencies_ns)


def _time_window(call: Call, clock_ns: Clock, schedule: Schedule) -> list[int]:
    window_ns: list[int] = []
    while len(window_ns) < schedule.window_calls:
        window_ns.append(time_once(call, clock_ns))
        if len(window_ns) >= _LEAST_WINDOW_CALLS and sum(window_ns) >= schedule.window_s * 1e9:
            break
    return window_ns


def time_once(call: Call, clock_ns: Clock) -> int:
    """Nanoseconds of one call."""
    before_ns = clock_ns()
    call()
    return clock_ns() - before_ns


def _is_steady(medians_ns: list[float], schedule: Schedule) -> bool:
    last = medians_ns[-schedule.steady_windows :]
    return len(last) == schedule.steady_windows and max(last) <= min(last) * (
        1 + schedule.tolerance
    )
