"""Time one ONNX file in this process, and print the raw numbers as one JSON document.

    python -m bench.runtime.measure '{"path": "model.onnx", "device": "cpu", "batch_size": 1,
                                      "threads": null, "schedule": {}}'

One process measures one file once: what another session, an allocator or a clock left behind
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
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.errors import BenchError, MeasurementError, ModelFileError
from bench.runtime.cuda import cuda_device_name, one_line
from bench.runtime.session import Device, OpenedSession, open_session

TIMED = "session.run, numpy in and out"
SEED = 20_111

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
        latencies_ns.append(_time_once(call, clock_ns))
        elapsed_ns = clock_ns() - start_ns
    return tuple(latencies_ns)


def _time_window(call: Call, clock_ns: Clock, schedule: Schedule) -> list[int]:
    window_ns: list[int] = []
    while len(window_ns) < schedule.window_calls:
        window_ns.append(_time_once(call, clock_ns))
        if len(window_ns) >= _LEAST_WINDOW_CALLS and sum(window_ns) >= schedule.window_s * 1e9:
            break
    return window_ns


def _time_once(call: Call, clock_ns: Clock) -> int:
    before_ns = clock_ns()
    call()
    return clock_ns() - before_ns


def _is_steady(medians_ns: list[float], schedule: Schedule) -> bool:
    last = medians_ns[-schedule.steady_windows :]
    return len(last) == schedule.steady_windows and max(last) <= min(last) * (
        1 + schedule.tolerance
    )


# --- the child program ------------------------------------------------------------------------

_DTYPES: dict[str, npt.DTypeLike] = {
    "tensor(uint8)": np.uint8,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
}


def random_input(session: Any, batch_size: int) -> dict[str, npt.NDArray[Any]]:
    """Random pixels of the session's only input, the same in every process.

    uint8 inputs get 0..255, floating-point inputs 0..1.

    Raises:
        ModelFileError: there are several inputs, one of another type, a dynamic dimension
            other than the first, or a batch fixed at another size.
    """
    inputs = session.get_inputs()
    if len(inputs) != 1:
        names = ", ".join(item.name for item in inputs)
        raise ModelFileError(f"a picture classifier has one input, this model has {names}")
    (item,) = inputs
    if item.type not in _DTYPES:
        known = ", ".join(_DTYPES)
        raise ModelFileError(f"input `{item.name}` must be one of {known}, not {item.type}")
    shape = _concrete_shape(item.name, item.shape, batch_size)
    generator = np.random.default_rng(SEED)
    if item.type == "tensor(uint8)":
        return {item.name: generator.integers(0, 256, shape, dtype=np.uint8)}
    return {item.name: generator.random(shape, dtype=np.float32).astype(_DTYPES[item.type])}


def _concrete_shape(name: str, shape: list[int | str | None], batch_size: int) -> tuple[int, ...]:
    if not shape:
        raise ModelFileError(f"input `{name}` must be a batch of pictures, not a single number")
    batch, *rest = shape
    if isinstance(batch, int) and batch != batch_size:
        raise ModelFileError(
            f"input `{name}` is fixed at batch {batch}, so it cannot be measured at "
            f"{batch_size}: ask for {batch}, or export with a dynamic batch"
        )
    fixed = tuple(size for size in rest if isinstance(size, int))
    if len(fixed) != len(rest):
        raise ModelFileError(
            f"input `{name}` has shape {shape}; only its first dimension may be dynamic: "
            "export with a fixed height and width"
        )
    return (batch_size, *fixed)


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Open the requested file, time it, and return the document's `result`."""
    device: Device = request["device"]
    start_ns = time.perf_counter_ns()
    opened = open_session(request["path"], device=device, threads=request["threads"])
    load_ms = (time.perf_counter_ns() - start_ns) / 1e6
    feeds = random_input(opened.session, request["batch_size"])

    def call() -> object:
        return opened.session.run(None, feeds)

    try:
        sample = _sample(call, Schedule(**request["schedule"]))
    except Exception as error:  # ONNX Runtime's errors share no base but Exception
        raise MeasurementError(f"{request['path']} failed to run: {one_line(error)}") from error
    return {
        "sample": {**sample, "load_ms": load_ms},
        "provider": opened.provider,
        "threads": opened.threads,
        "device_name": _device_name(device),
        "timed": TIMED,
        "versions": _versions(opened),
    }


def _sample(call: Call, schedule: Schedule) -> dict[str, Any]:
    clock_ns = time.perf_counter_ns
    gc.collect()
    gc.disable()
    first_call_ns = _time_once(call, clock_ns)
    warm = warm_up(call, clock_ns, schedule)
    switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
    start_ns = clock_ns()
    latencies_ns = measure(call, clock_ns, schedule)
    measured_s = (clock_ns() - start_ns) / 1e9
    switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw - switches
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


def peak_rss_bytes() -> int:
    """Largest resident memory that this process has had.

    Linux carries `ru_maxrss` over from the process that started this one, so a parent with
    torch loaded would be measured instead; `VmHWM` begins anew with each program.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _device_name(device: Device) -> str:
    return cuda_device_name() if device == "cuda" else cpu_name()


def cpu_name() -> str:
    """The processor's name as the kernel tells it, otherwise as Python knows it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _versions(opened: OpenedSession) -> dict[str, str]:
    import onnxruntime

    versions = {
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "numpy": np.__version__,
    }
    if opened.device == "cuda":
        versions["cuda"] = onnxruntime.cuda_version
    return versions


def main(arguments: list[str]) -> int:
    """Answer one request; the last line of standard output is the JSON document."""
    try:
        (request,) = arguments
        document = {"result": run(json.loads(request))}
    except BenchError as error:
        document = {"error": {"kind": type(error).__name__, "message": str(error)}}
    print(json.dumps(document))
    return 0 if "result" in document else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
