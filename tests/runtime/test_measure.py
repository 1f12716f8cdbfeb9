import gc
import itertools
import json
import random
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from bench.errors import ModelFileError
from bench.runtime import measure as measure_module
from bench.runtime.measure import (
    Schedule,
    WarmUp,
    cpu_name,
    main,
    measure,
    peak_rss_bytes,
    random_input,
    warm_up,
)
from bench.runtime.session import open_session

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


# --- the input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "shape", "dtype"),
    [
        ({}, (4, 8, 8, 3), np.uint8),
        ({"dtype": TensorProto.FLOAT}, (4, 8, 8, 3), np.float32),
        ({"dtype": TensorProto.FLOAT16}, (4, 8, 8, 3), np.float16),
        ({"shape": (4, 8, 8, 3)}, (4, 8, 8, 3), np.uint8),
    ],
)
def test_the_input_is_what_the_model_takes_and_the_same_each_time(make_model, how, shape, dtype):
    session = open_session(make_model(**how), device="cpu", threads=1).session
    first, again = random_input(session, 4), random_input(session, 4)
    assert first["image"].shape == shape
    assert first["image"].dtype == dtype
    assert (first["image"] == again["image"]).all()
    assert session.run(None, first)[0].shape == (4, 3)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"shape": (2, 8, 8, 3)}, "fixed at batch 2"),
        ({"shape": ("batch", "height", 8, 3)}, "only its first dimension may be dynamic"),
        ({"dtype": TensorProto.INT32}, r"not tensor\(int32\)"),
    ],
)
def test_a_model_that_no_random_picture_fits_is_refused(make_model, how, message):
    session = open_session(make_model(**how), device="cpu", threads=1).session
    with pytest.raises(ModelFileError, match=message):
        random_input(session, 4)


# --- the program ------------------------------------------------------------------------------


def request(path: Path, **changes: object) -> str:
    schedule = {"warmup_s": 0.0, "cap_s": 0.5, "measure_s": 0.0, "measure_calls": 5}
    base = {"path": str(path), "device": "cpu", "batch_size": 2, "threads": 1}
    return json.dumps({**base, "schedule": schedule, **changes})


def test_the_program_prints_one_document_with_raw_samples(make_model, capfd):
    assert main([request(make_model())]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    result = json.loads(out)["result"]
    assert len(result["sample"]["latencies_ns"]) == 5
    assert all(isinstance(ns, int) and ns > 0 for ns in result["sample"]["latencies_ns"])
    assert result["sample"]["load_ms"] > 0
    assert result["provider"] == "CPUExecutionProvider"
    assert result["threads"] == 1
    assert result["device_name"] == cpu_name()
    assert {"python", "onnxruntime", "numpy"} <= set(result["versions"])
    assert gc.isenabled()


def test_the_program_reports_a_user_error_by_its_class(capfd):
    assert main([request(Path("absent.onnx"))]) == 1
    error = json.loads(capfd.readouterr().out)["error"]
    assert error["kind"] == "ModelFileError"
    assert "absent.onnx does not exist" in error["message"]


def test_a_call_that_fails_is_a_measurement_error(make_model, capfd, monkeypatch):
    def fail(*_: object) -> None:
        raise RuntimeError("out of\nmemory")  # as ONNX Runtime puts it, on several lines

    monkeypatch.setattr(measure_module, "measure", fail)
    assert main([request(make_model())]) == 1
    error = json.loads(capfd.readouterr().out)["error"]
    assert error["kind"] == "MeasurementError"
    assert error["message"].endswith("failed to run: out of memory")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux carries it over")
def test_the_peak_memory_is_the_programs_own_and_not_its_parents():
    ballast = bytearray(300 * 2**20)
    code = "from bench.runtime.measure import peak_rss_bytes; print(peak_rss_bytes())"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert peak_rss_bytes() > len(ballast) > int(child.stdout)
