"""Latency of ONNX files, one fresh process a measurement.

The same file varies by several per cent from process to process, and by far less within one, so
a row is made of several processes, and the rows of a comparison take turns: round 1 measures
them in order, round 2 backwards, and so on (ABBA), which cancels a slow drift of the machine.
Only one process works at a time; this one is blocked while a child measures.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median_low
from typing import Any

import msgspec

from bench import errors
from bench.errors import BenchError, InputError, MeasurementError
from bench.records import (
    Engine,
    LatencyRow,
    LatencyScope,
    ProcessSample,
    from_json,
)
from bench.runtime.session import Device
from bench.runtime.timing import Schedule

DISTURBED_FACTOR = 3
DISTURBED_LEAST_SWITCHES = 50
_STDERR_LINES = 5
_PROGRAMS: dict[Engine, str] = {
    "onnxruntime": "bench.runtime.measure",
    "torch": "bench.latency.rivals",
    "torch-compile": "bench.latency.rivals",
    "openvino": "bench.latency.rivals",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyProtocol:
    """How many processes make a row, and what each of them does.

    limit_s: a process that has not answered after so many seconds hangs, and is ended.
    """

    processes: int = 5
    schedule: Schedule = field(default_factory=Schedule)
    limit_s: float = 600.0

    def __post_init__(self) -> None:
        if self.processes < 1 or self.schedule.measure_calls < 1:
            raise InputError(
                "a latency needs at least 1 process and 1 call, "
                f"not {self.processes} and {self.schedule.measure_calls}"
            )
        if self.limit_s <= 0:
            raise InputError(f"a time limit must be more than 0 seconds, not {self.limit_s:g}")

    @classmethod
    def quick(cls) -> LatencyProtocol:
        """A rough figure in a few seconds."""
        schedule = Schedule(warmup_s=0.3, measure_s=1.0, measure_calls=30)
        return cls(processes=2, schedule=schedule)


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """What torch needs to build a network again, untrained: weights change no latency."""

    architecture: str  # timm's name
    classes: int
    image_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyJob:
    """One row to be measured.

    threads: None takes one for each physical core.
    image_size: height and width, for a model that leaves them open.
    picture: for the scope "end-to-end"; None makes one.
    network: for torch, which cannot run an ONNX file.
    arithmetic: OpenVINO's INFERENCE_PRECISION_HINT; None is the device's default.
    """

    path: str | Path
    model: str
    architecture_key: str
    device: Device
    batch_size: int
    threads: int | None = None
    precision: str = "fp32"
    size_bytes: int | None = None
    scope: LatencyScope = "model"
    engine: Engine = "onnxruntime"
    image_size: int | None = None
    picture: str | Path | None = None
    network: Network | None = None
    arithmetic: str | None = None
    tf32: bool = False
    cuda_graph: bool = False

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"a batch holds at least one picture, not {self.batch_size}")
        if self.threads is not None and self.threads < 1:
            raise InputError(f"threads must be at least 1, not {self.threads}")
        if self.scope == "device" and self.device == "cpu":
            raise InputError(
                "device-resident rows are for a GPU, whose memory is not the CPU's: "
                "give --device cuda, or --timed model"
            )
        if self.cuda_graph and self.scope != "device":
            raise InputError(
                "a CUDA graph needs input and output at fixed addresses: give --timed device"
            )

    def request(self, protocol: LatencyProtocol) -> str:
        """The document that a measuring process is started with."""
        told = asdict(self)
        for name in ("model", "architecture_key", "precision", "size_bytes"):
            del told[name]
        told["path"] = str(self.path)
        told["picture"] = None if self.picture is None else str(self.picture)
        return json.dumps({**told, "schedule": asdict(protocol.schedule)})


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildResult:
    """What one process measured, and what it proved about where.

    precision: where the engine chose its own arithmetic, whatever the file holds.
    """

    sample: ProcessSample
    provider: str
    threads: int
    device_name: str
    machine: str
    timed: str
    versions: dict[str, str]
    options: dict[str, str] = field(default_factory=dict)
    precision: str | None = None


Measure = Callable[[LatencyJob, LatencyProtocol], ChildResult]
Progress = Callable[[LatencyJob, int, int], None]  # job, processes finished, processes planned


def measure_many(
    jobs: Sequence[LatencyJob],
    *,
    protocol: LatencyProtocol,
    progress: Progress | None = None,
    measure: Measure | None = None,
) -> tuple[LatencyRow, ...]:
    """Measure several files (or batch sizes, or devices) in turns, and return a row for each.

    A process that was interrupted by others far more often than its fellows is measured again,
    once, and of the two the less interrupted one counts; the other is kept beside it. No call is
    ever dropped from a sample.

    measure: what measures one process; the default starts a child.

    Raises:
        ModelFileError: a file cannot be used, or not at the batch size asked for.
        DeviceError: a GPU was asked for and does not run here.
        MeasurementError: a process failed, or hung.
    """
    run = measure or measure_in_child
    results: list[list[ChildResult]] = [[] for _ in jobs]
    planned = protocol.processes * len(jobs)
    for finished, index in enumerate(abba_order(len(jobs), protocol.processes), start=1):
        results[index].append(run(jobs[index], protocol))
        if progress is not None:
            progress(jobs[index], finished, planned)
    rows = []
    for job, own in zip(jobs, results, strict=True):
        replaced = []
        for position in disturbed([result.sample for result in own]):
            pair = sorted([own[position], run(job, protocol)], key=_interruptions)
            own[position], worse = pair
            replaced.append(worse.sample)
        rows.append(_row(job, own, replaced))
    turns = secrets.token_hex(6)
    return tuple(replace(row, turns=turns) for row in rows)


def _interruptions(result: ChildResult) -> int:
    return result.sample.involuntary_switches


def abba_order(jobs: int, rounds: int) -> tuple[int, ...]:
    """Indices of jobs in the order of measuring: every second round runs backwards."""
    forward = list(range(jobs))
    return tuple(
        index for turn in range(rounds) for index in (reversed(forward) if turn % 2 else forward)
    )


def disturbed(samples: Sequence[ProcessSample]) -> tuple[int, ...]:
    """Positions of samples with far more involuntary context switches than is usual.

    More than three times the median of the processes (the lower one of an even number, so that
    one of two can be told), and more than 50.
    """
    switches = [sample.involuntary_switches for sample in samples]
    limit = max(DISTURBED_FACTOR * median_low(switches), DISTURBED_LEAST_SWITCHES)
    return tuple(index for index, count in enumerate(switches) if count > limit)


def measure_in_child(job: LatencyJob, protocol: LatencyProtocol) -> ChildResult:
    """Measure one job once, in a fresh process.

    Raises:
        BenchError: the class and message that the child reported.
        MeasurementError: the child ended without a report, its last lines are in the message; or
            it hung.
    """
    command = [sys.executable, "-m", _PROGRAMS[job.engine], job.request(protocol)]
    return run_child(command, protocol.limit_s, what=f"measuring {job.path}")


def run_child(command: Sequence[str], limit_s: float, *, what: str) -> ChildResult:
    """Run a measuring program and read its report; this process is blocked meanwhile.

    The child leads a process group of its own, so that whatever it starts ends with it.

    Raises:
        BenchError, MeasurementError: see `measure_in_child`.
    """
    child = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",  # native libraries print what they like
        start_new_session=True,
    )
    try:
        stdout, stderr = child.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired as error:
        raise MeasurementError(
            f"{what} must end within {limit_s:g} s and did not, so it was stopped: "
            "give more with --time-limit, or a smaller batch"
        ) from error
    finally:
        if child.returncode is None:  # hung, or Ctrl-C here
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
    return read_report(stdout, stderr, child.returncode)


def read_report(stdout: str, stderr: str, returncode: int) -> ChildResult:
    """Turn what a child printed into its result, or into the error that it met.

    Raises:
        BenchError, MeasurementError: see `measure_in_child`.
    """
    try:
        report = from_json(stdout.strip().rpartition("\n")[2], dict[str, Any])
        if "error" in report:
            raise _error_of(report["error"])
        return msgspec.convert(report["result"], ChildResult)
    except (msgspec.MsgspecError, KeyError) as error:
        tail = "\n".join(stderr.strip().splitlines()[-_STDERR_LINES:]) or "nothing"
        raise MeasurementError(
            f"the measuring process ended with code {returncode} and no result; "
            f"its last words were:\n{tail}"
        ) from error


def _error_of(error: dict[str, str]) -> BenchError:
    kind = getattr(errors, error["kind"], MeasurementError)
    raised: BenchError = kind(error["message"])
    return raised


def _row(
    job: LatencyJob, results: Sequence[ChildResult], replaced: Sequence[ProcessSample]
) -> LatencyRow:
    first = results[0]
    if any(replace(other, sample=first.sample) != first for other in results):
        raise MeasurementError(
            f"the processes that measured {job.path} ran on different providers, devices or "
            "versions, so they are not one row: leave the environment alone while measuring"
        )
    return LatencyRow(
        model=job.model,
        path=str(job.path),
        architecture_key=job.architecture_key,
        device=job.device,
        device_name=first.device_name,
        provider=first.provider,
        precision=first.precision or job.precision,
        batch_size=job.batch_size,
        threads=first.threads,
        timed=first.timed,
        samples=tuple(result.sample for result in results),
        versions=first.versions,
        scope=job.scope,
        engine=job.engine,
        machine=first.machine,
        size_bytes=job.size_bytes,
        options=first.options,
        replaced=tuple(replaced),
    )
