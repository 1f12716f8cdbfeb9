"""The latencies of promoted models, one file of each graph; what is measured is kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from bench.database import Database
from bench.errors import BenchError, together
from bench.latency.measuring import LatencyJob, LatencyProtocol, measure_many
from bench.listener import Display
from bench.records import LatencyRow, LatencyScope, ModelRecord, Precision, TrainingDevice
from bench.runtime.cuda import cuda_device_name, cuda_works
from bench.runtime.machine import cpu_name, machine_name
from bench.words import counted
from bench.workspace import Workspace

# What a promoted model's latency is measured of: (scope, batch size).
MEASURED: tuple[tuple[LatencyScope, int], ...] = (("model", 1), ("model", 8), ("end-to-end", 1))
# And on a GPU, where copying pictures there and answers back can take longer than the network.
MEASURED_ON_GPU: tuple[tuple[LatencyScope, int], ...] = (*MEASURED, ("device", 1), ("device", 8))

# Architecture key, device, scope and batch size.
_RowKey = tuple[str, str, str, int]


def measure_models(
    models: Sequence[ModelRecord],
    workspace: Workspace,
    database: Database,
    listener: Display,
    protocol: LatencyProtocol,
) -> tuple[LatencyRow, ...]:
    """Measure one file of each graph: on the CPU, and on CUDA where it really works.

    What was measured on this machine before is not measured again, unless by fewer processes than
    `protocol` asks for; rows of other machines count for nothing here. Rows that are compared with
    each other, of one device, scope and batch size, are measured in turns and stored together: a
    new one has the others measured again, except by fewer processes than they had.

    Raises:
        MeasurementError: some could not be measured; the others are stored.
    """
    known = database.load_latencies([path for model in models for path in model.paths])
    jobs, rough, again = _wanted(_jobs(models, workspace), known, protocol)
    if not jobs:
        return ()
    if rough:
        were = counted(rough, "latency row was", "latency rows were")
        listener.stage(f"{were} measured with --quick-latency, and will be replaced")
    if again:
        rows_are = counted(again, "latency row is", "latency rows are")
        listener.stage(f"{rows_are} measured again, in turns with the new ones")
    rows: list[LatencyRow] = []
    failures: list[BenchError] = []
    finished, planned = 0, protocol.processes * len(jobs)
    each = f"{counted(len(jobs), 'row')} of {counted(protocol.processes, 'process', 'processes')}"
    with listener.steps() as steps:
        steps.begin(f"measuring latency: {each} each")
        for compared in _compared(jobs):

            def progress(_job: LatencyJob, of_these: int, _: int, before: int = finished) -> None:
                steps.reach(before + of_these, planned)

            try:
                measured = measure_many(compared, protocol=protocol, progress=progress)
            except BenchError as error:
                failures.append(error)
            else:
                own = [
                    replace(row, path=Path(row.path).relative_to(workspace.root).as_posix())
                    for row in measured
                ]
                database.save_latencies(own)
                rows += own
            finished += protocol.processes * len(compared)
    if failures:
        raise together(failures)
    return tuple(rows)


def _wanted(
    jobs: Iterable[LatencyJob], known: Iterable[LatencyRow], protocol: LatencyProtocol
) -> tuple[list[LatencyJob], int, int]:
    """One job for each row to be measured.

    Returns them, how many replace a row of too few processes, and how many are measured again
    because a row that they are compared with is.
    """
    by_row: dict[_RowKey, LatencyJob] = {}
    for job in jobs:
        by_row.setdefault(_row_key(job), job)
    here = machine_name()
    processes: dict[_RowKey, int] = {}
    for row in known:
        # Early rows know the device, not the machine.
        if row.machine in (here, "") and row.device_name == _device_name(row.device):
            processes[_row_key(row)] = len(row.samples)
    missing = [key for key in by_row if processes.get(key, 0) < protocol.processes]
    touched = {_compared_by(by_row[key]) for key in missing}
    again = [
        key
        for key, job in by_row.items()
        if processes.get(key) == protocol.processes and _compared_by(job) in touched
    ]
    rough = sum(key in processes for key in missing)
    return [by_row[key] for key in by_row if key in {*missing, *again}], rough, len(again)


def _compared(jobs: Iterable[LatencyJob]) -> Iterable[list[LatencyJob]]:
    """The jobs of each device, scope and batch size."""
    compared: dict[tuple[str, str, int], list[LatencyJob]] = {}
    for job in jobs:
        compared.setdefault(_compared_by(job), []).append(job)
    return compared.values()


def _compared_by(job: LatencyJob) -> tuple[str, str, int]:
    return job.device, job.scope, job.batch_size


def _jobs(models: Sequence[ModelRecord], workspace: Workspace) -> list[LatencyJob]:
    """What is measured of the models' files; INT8 is for the CPU and FP16 for CUDA alone."""
    cuda: tuple[TrainingDevice, ...] = ("cuda",) if cuda_works()[0] else ()
    devices: dict[Precision, tuple[TrainingDevice, ...]] = {
        "fp32": ("cpu", *cuda),
        "fp16": cuda,
        "int8": ("cpu",),
    }
    return [
        LatencyJob(
            path=workspace.root / path,
            model=model.name,
            architecture_key=key,
            device=device,
            batch_size=batch_size,
            precision=precision,
            scope=scope,
            size_bytes=size_bytes,
        )
        for model in models
        for precision, path, key, size_bytes in _files(model)
        for device in devices[precision]
        for scope, batch_size in (MEASURED if device == "cpu" else MEASURED_ON_GPU)
    ]


def _files(model: ModelRecord) -> Iterator[tuple[Precision, str, str, int]]:
    """Precision, path, graph and size in bytes of each file that a model comes in."""
    yield "fp32", model.path, model.architecture_key, model.size_bytes
    for variant in model.offered_variants:
        yield variant.precision, variant.path, model.variant_key(variant), variant.size_bytes


def _row_key(row: LatencyJob | LatencyRow) -> _RowKey:
    """What tells rows of one machine apart: the graph, whoever trained it, and the set-up."""
    return row.architecture_key, row.device, row.scope, row.batch_size


def _device_name(device: str) -> str:
    """Name of this machine's CPU, or of its GPU where it has one."""
    if device == "cpu":
        return cpu_name()
    return cuda_device_name() if cuda_works()[0] else ""
