"""What networks cost in use, measured before anybody trains them: weights change no latency."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.errors import InputError
from bench.latency import LatencyJob, LatencyProtocol, measure_many
from bench.models.backbones import BackboneSpec, describe_backbone
from bench.models.staged import build_model
from bench.promote.export import ServingModel, export
from bench.records import Box, Dataset, ResizeRule, StudyPlan, WeightSource
from bench.runtime.metadata import ModelMetadata
from bench.runtime.session import Device
from bench.search.listener import Display
from bench.space import SearchSpace

_NOTE = "Limit of latency, ms,"


def within_limit(
    space: SearchSpace,
    most_ms: float | None,
    stored: StudyPlan | None,
    dataset: Dataset,
    device: Device,
    listener: Display,
) -> tuple[SearchSpace, tuple[str, ...]]:
    """Leave out what `--max-latency-ms` forbids, if it is given; return the rest, and notes."""
    if most_ms is None:
        return space, ()
    if stored is None:
        return _within_latency(space, most_ms, dataset, device, listener)
    # Measured once, when the study began: a second measurement might choose differently.
    notes = tuple(note for note in stored.notes if note.startswith(_NOTE))
    too_slow = {
        name
        for name in space.backbones
        if name not in stored.weights and any(f": {name} takes " in note for note in notes)
    }
    # Any other that the study was not begun with is a change, which is refused.
    return space.with_backbones([name for name in space.backbones if name not in too_slow]), notes


def _within_latency(
    space: SearchSpace, most_ms: float, dataset: Dataset, device: Device, listener: Display
) -> tuple[SearchSpace, tuple[str, ...]]:
    """Leave out the backbones that are too slow; return the rest, and a note on each.

    Raises:
        InputError: nothing is left.
    """
    listener.stage(f"measuring untrained backbones on {device}, for --max-latency-ms {most_ms:g}")
    latencies_ms = untrained_latencies_ms(
        [describe_backbone(name) for name in space.backbones],
        classes=dataset.classes,
        image_size=space.image_size,
        crop=dataset.crop,
        resize=space.resize,
        device=device,
    )
    notes = tuple(
        f"{_NOTE} {most_ms:g}: {name} takes {ms:.1f} ms a picture on {device}"
        + (", so it was not searched." if ms > most_ms else ".")
        for name, ms in latencies_ms.items()
    )
    for note in notes:
        listener.stage(note)
    kept = [name for name, ms in latencies_ms.items() if ms <= most_ms]
    if not kept:
        raise InputError(
            f"no backbone is within --max-latency-ms {most_ms:g} on {device}: "
            + ", ".join(f"{name} {ms:.1f} ms" for name, ms in latencies_ms.items())
            + "; allow more, take a smaller --image-size, or another --backbone"
        )
    return space.with_backbones(kept), notes


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
