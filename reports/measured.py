"""Which of a study's measurements stands for a model."""

from __future__ import annotations

from collections.abc import Sequence

from bench.records import LatencyRow, ModelRecord

FLOAT32 = ("fp32", "float32")


def reference_row(latencies: Sequence[LatencyRow], device: str) -> LatencyRow | None:
    """The row whose set-up the comparison uses on a device: the first one in 32-bit floats of
    the network alone, on the machine that was measured last.

    All cells of a device come from one set-up (machine, provider, precision, threads, what is
    timed), so that the rows compare like with like.
    """
    rows = [row for row in latencies if row.device == device and row.scope == "model"]
    rows = [row for row in rows if row.machine == rows[-1].machine]
    return next((row for row in rows if row.precision in FLOAT32), next(iter(rows), None))


def row_of(
    model: ModelRecord, latencies: Sequence[LatencyRow], setup: LatencyRow, batch: int
) -> LatencyRow | None:
    """The model's own measurement in a set-up, or that of a model with the same graph."""
    rows = [
        row
        for row in latencies
        if row.architecture_key == model.architecture_key
        and row.batch_size == batch
        and row.setup == setup.setup
    ]
    return next((row for row in rows if row.model == model.name), next(iter(rows), None))
