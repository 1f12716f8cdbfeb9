"""What networks cost in use, measured before anybody trains them: weights change no latency."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.errors import InputError
from bench.latency.measuring import LatencyJob, LatencyProtocol, measure_many
from bench.listener import Display
from bench.models.backbones import BackboneSpec, describe_backbone
from bench.models.export import ServingModel, export
from bench.models.staged import build_model
from bench.records import Box, Dataset, ResizeRule, WeightSource
from bench.runtime.metadata import ModelMetadata
from bench.runtime.session import Device
from bench.space import SearchSpace


def within_limit(
    space: SearchSpace,
    most_ms: float,
    dataset: Dataset,
    device: Device,
    listener: Display,
    *,
    known_ms: Mapping[str, float],
) -> tuple[SearchSpace, dict[str, float]]:
    """Leave out the backbones that take longer than `most_ms` for a picture.

    They are measured once, when a study begins: a second measurement might choose differently.
    What is in `known_ms` is not measured again, and if anything is, a backbone that is not is
    kept: it was not asked for when the study began, so it is a change, which others refuse.

    Returns:
        What is left, and the median latency of each backbone that was asked for, in ms.

    Raises:
        InputError: nothing is left.
    """
    latencies_ms = dict(known_ms)
    if not latencies_ms:
        listener.stage(
            f"measuring untrained backbones on {device}, for --max-latency-ms {most_ms:g}"
        )
        latencies_ms = untrained_latencies_ms(
            [describe_backbone(name) for name in space.backbones],
            classes=dataset.classes,
            image_size=space.image_size,
            crop=dataset.crop,
            resize=space.resize,
            device=device,
        )
    kept = [name for name in space.backbones if not latencies_ms.get(name, 0.0) > most_ms]
    if not kept:
        raise InputError(
            f"no backbone is within --max-latency-ms {most_ms:g} on {device}: "
            + ", ".join(f"{name} {ms:.1f} ms" for name, ms in latencies_ms.items())
            + "; allow more, take a smaller --image-size, or another --backbone"
        )
    return space.with_backbones(kept), latencies_ms


def limit_notes(latencies_ms: Mapping[str, float], most_ms: float, device: Device) -> list[str]:
    """Say of each measured backbone how fast it is, and whether it was left out."""
    return [
        f"Limit of latency, ms, {most_ms:g}: {name} takes {ms:.1f} ms a picture on {device}"
        + (", so it was not searched." if ms > most_ms else ".")
        for name, ms in latencies_ms.items()
    ]


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
