"""What a network will cost in use, known before anybody trains it: weights change no latency."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.latency import LatencyJob, LatencyProtocol, measure_many
from bench.models.backbones import BackboneSpec
from bench.models.staged import build_model
from bench.promote.export import ServingModel, export
from bench.records import Box, ResizeRule, WeightSource
from bench.runtime.metadata import ModelMetadata
from bench.runtime.session import Device


def untrained_latencies_ms(
    specs: Sequence[BackboneSpec],
    *,
    classes: Sequence[str],
    image_size: int | None,
    crop: Box | None,
    resize: ResizeRule,
    device: Device,
) -> dict[str, float]:
    """Export each backbone untrained and return the median latency of one picture, in ms.

    Raises:
        ExportError: one of them cannot be exported.
        DeviceError, MeasurementError: it cannot be measured on `device`.
    """
    with tempfile.TemporaryDirectory() as folder:
        jobs: list[LatencyJob] = []
        for spec in specs:
            geometry = spec.geometry(image_size=image_size, crop=crop, resize=resize)
            model = build_model(
                spec,
                WeightSource(kind="random"),
                classes=len(classes),
                image_size=geometry.image_size,
                seed=0,
            )
            file = Path(folder) / f"{len(jobs)}.onnx"
            export(
                ServingModel(model),
                ModelMetadata(classes=tuple(classes), geometry=geometry),
                file,
            )
            jobs.append(
                LatencyJob(
                    path=file,
                    model=spec.name,
                    architecture_key=spec.name,
                    device=device,
                    batch_size=1,
                )
            )
        rows = measure_many(jobs, protocol=LatencyProtocol.quick())
    return {row.model: row.p50_ms for row in rows}
