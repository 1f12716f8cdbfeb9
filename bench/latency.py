"""Latency of ONNX files, one fresh process a measurement.

The same file varies by several per cent from process to process, and by far less within one, so
a row is made of several processes, and the rows of a comparison take turns: round 1 measures
them in order, round 2 backwards, and so on (ABBA), which cancels a slow drift of the machine.
Only one process works at a time; this one is blocked while a child measures.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median_low
from typing import Any, Literal

import msgspec

from bench import errors
from bench.errors import BenchError, InputError, MeasurementError
from bench.records import LatencyRow, ProcessSample, from_json

Device = Literal["cpu", "cuda"]

DISTURBED_FACTOR = 3
DISTURBED_LEAST_SWITCHES = 50
_STDERR_LINES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyProtocol:
    """How many processes make a row, and how long each warms up and measures.

    cap_s: a warm-up that is not steady after so many seconds is given up, and marked so.
    """

    processes: int = 5
    warmup_calls: int = 20
    warmup_s: float = 1.0
    measure_s: float = 3.0
    measure_calls: int = 100
    cap_s: float = 10.0

    def __post_init__(self) -> None:
        if self.processes < 1 or self.measure_calls < 1:
            raise InputError(
                "a latency needs at least 1 process and 1 call, "
                f"not {self.processes} and {self.measure_calls}"
            )

    @classmethod
    def quick(cls) -> LatencyProtocol:
        """A rough figure in a few seconds."""
        return cls(processes=2, warmup_s=0.3, measure_s=1.0, measure_calls=30)

    def schedule(self) -> dict[str, float]:
        """The part that a single process follows (see `bench.runtime.measure.Schedule`)."""
        fields = asdict(self)
        del fields["processes"]
        return fields


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyJob:
    """One row to be measured. threads: None takes one for each physical core."""

    path: str | Path
    model: str
    architecture_key: str
    device: Device
    batch_size: int
    threads: int | None = None
    precision: str = "fp32"

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"a batch holds at least one picture, not {self.batch_size}")
        if self.threads is not None and self.threads < 1:
            raise InputError(f"threads must be at least 1, not {self.threads}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildResult:
    """What one process measured, and what it proved about where."""

    sample: ProcessSample
    provider: str
    threads: int
    device_name: str
    timed: str
    versions: dict[str, str]


Measure = Callable[[LatencyJob, LatencyProtocol], ChildResult]
Progress = Callable[[LatencyJob, int, int], None]  # job, processes finished, processes planned


def measure_latency(
    path: str | Path,
    *,
    model: str,
    architecture_key: str,
    device: Device,
    batch_size: int,
    threads: int | None = None,
    precision: str = "fp32",
    protocol: LatencyProtocol,
) -> LatencyRow:
    """Measure one file; see `measure_many`."""
    job = LatencyJob(
        path=path,
        model=model,
        architecture_key=architecture_key,
        device=device,
        batch_size=batch_size,
        threads=threads,
        precision=precision,
    )
    (row,) = measure_many([job], protocol=protocol)
    return row


def measure_many(
    jobs: Sequence[LatencyJob],
    *,
    protocol: LatencyProtocol,
    progress: Progress | None = None,
    measure: Measure | None = None,
) -> tuple[LatencyRow, ...]:
    """Measure several files (or batch sizes, or devices) in turns, and return a row for each.

    A process that was interrupted by others far more often than its fellows is measured again,
    once, and the new sample takes its place; no call is ever dropped from a sample.

    measure: what measures one process; the default starts a child.

    Raises:
        ModelFileError: a file cannot be used, or not at the batch size asked for.
        DeviceError: CUDA was asked for and does not run here.
        MeasurementError: a process failed.
    """
    run = measure or measure_in_child
    results: list[list[ChildResult]] = [[] for _ in jobs]
    planned = protocol.processes * len(jobs)
    for finished, index in enumerate(abba_order(len(jobs), protocol.processes), start=1):
        results[index].append(run(jobs[index], protocol))
        if progress is not None:
            progress(jobs[index], finished, planned)
    for job, own in zip(jobs, results, strict=True):
        for position in disturbed([result.sample for result in own]):
            own[position] = run(job, protocol)
    return tuple(_row(job, own) for job, own in zip(jobs, results, strict=True))


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
        MeasurementError: the child ended without a report; its last lines are in the message.
    """
    request = {
        "path": str(job.path),
        "device": job.device,
        "batch_size": job.batch_size,
        "threads": job.threads,
        "schedule": protocol.schedule(),
    }
    command = [sys.executable, "-m", "bench.runtime.measure", json.dumps(request)]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    return read_report(child.stdout, child.stderr, child.returncode)


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


def _row(job: LatencyJob, results: Sequence[ChildResult]) -> LatencyRow:
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
        precision=job.precision,
        batch_size=job.batch_size,
        threads=first.threads,
        timed=first.timed,
        samples=tuple(result.sample for result in results),
        versions=first.versions,
    )
