"""What every measuring process does: read one request, take one sample, answer in one line.

One process measures one thing once: what another session, an allocator or a clock left behind
cannot leak into a measurement, and the variation between processes, which is larger than that
between calls, can be seen. `bench.latency` starts these processes.

Standard output ends with one line: {"result": {...}}, or {"error": {"kind": class of
`bench.errors`, "message": text}} and exit code 1.
"""

from __future__ import annotations

import gc
import json
import platform
import resource
import time
from collections.abc import Callable
from typing import Any, TypeVar

from bench.errors import BenchError, MeasurementError
from bench.runtime.machine import peak_rss_bytes
from bench.runtime.timing import Call, Schedule, measure, time_once, warm_up

T = TypeVar("T")


def answer(arguments: list[str], run: Callable[[dict[str, Any]], dict[str, Any]]) -> int:
    """Answer one request, a JSON document, and return the exit code."""
    try:
        (request,) = arguments
        document = {"result": run(json.loads(request))}
    except BenchError as error:
        document = {"error": {"kind": type(error).__name__, "message": str(error)}}
    print(json.dumps(document))
    return 0 if "result" in document else 1


def timed_ms(work: Callable[[], T]) -> tuple[float, T]:
    """Do one piece of work; return its milliseconds and what it gave."""
    start_ns = time.perf_counter_ns()
    done = work()
    return (time.perf_counter_ns() - start_ns) / 1e6, done


def take_sample(call: Call, request: dict[str, Any]) -> dict[str, Any]:
    """Warm up and measure by the request's schedule, without the garbage collector.

    Raises:
        MeasurementError: a call failed.
    """
    clock_ns = time.perf_counter_ns
    schedule = Schedule(**request["schedule"])
    gc.collect()
    gc.disable()
    try:
        first_call_ns = time_once(call, clock_ns)
        warm = warm_up(call, clock_ns, schedule)
        switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
        start_ns = clock_ns()
        latencies_ns = measure(call, clock_ns, schedule)
        measured_s = (clock_ns() - start_ns) / 1e9
        switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw - switches
    except BenchError:
        raise
    except Exception as error:  # the errors of the libraries share no base but Exception
        reason = " ".join(str(error).split())
        raise MeasurementError(f"{request['path']} failed to run: {reason}") from error
    finally:
        gc.enable()
    return {
        "latencies_ns": latencies_ns,
        "steady": warm.steady,
        "warmup_calls": warm.calls,
        "involuntary_switches": switches,
        "first_call_ms": first_call_ns / 1e6,
        "peak_rss_bytes": peak_rss_bytes(),
        "measured_s": measured_s,
    }


def base_versions() -> dict[str, str]:
    """Versions that every measurement depends on."""
    import numpy as np

    return {"python": platform.python_version(), "numpy": np.__version__}
