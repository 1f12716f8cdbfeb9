"""Latency rows without measuring: processes that time a model are tested for themselves."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence

from bench.latency.measuring import LatencyJob, LatencyProtocol
from bench.records import LatencyRow
from bench.runtime.machine import cpu_name, machine_name
from tests.records import latency_row, process_sample


def fake_measurement(
    jobs: Sequence[LatencyJob],
    *,
    protocol: LatencyProtocol,
    progress: Callable[[LatencyJob, int, int], None],
) -> tuple[LatencyRow, ...]:
    """What `measure_many` would return, with as many samples as `protocol` asks for."""
    turns = secrets.token_hex(6)
    return tuple(
        latency_row(
            *[process_sample(2_000_000)] * protocol.processes,
            model=job.model,
            path=str(job.path),
            architecture_key=job.architecture_key,
            device=job.device,
            scope=job.scope,
            machine=machine_name(),
            device_name=cpu_name(),
            precision=job.precision,
            batch_size=job.batch_size,
            turns=turns,
        )
        for job in jobs
    )
