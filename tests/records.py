"""Records that many tests need, with plain values for whatever a test does not speak of."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bench.records import (
    EpochScores,
    LatencyRow,
    ProcessSample,
    Recipe,
    TrialRecord,
    VariantCheck,
    VariantRecord,
)


def epoch_scores(fold: int, epoch: int, score: float = 0.5, **changes: Any) -> EpochScores:
    """One epoch whose scores are all `score`."""
    plain = EpochScores(
        fold=fold,
        epoch=epoch,
        train_loss=1 / 3,
        loss=0.25,
        balanced_accuracy=score,
        precision=score,
        recall=score,
        f1=score,
        seconds=1.5,
    )
    return replace(plain, **changes)


def trial_record(*epochs: EpochScores, **changes: Any) -> TrialRecord:
    """A complete trial of these epochs."""
    plain = TrialRecord(
        number=3,
        state="COMPLETE",
        value=0.5,
        recipe=Recipe(backbone="resnet50"),
        is_default=False,
        epochs=epochs,
        seconds=10.0,
        finished_s=None,
    )
    return replace(plain, **changes)


def process_sample(*latencies_ns: int, **changes: Any) -> ProcessSample:
    """A steady process that took these times; without any, one call of a millisecond."""
    plain = ProcessSample(
        latencies_ns=latencies_ns or (1_000_000,),
        steady=True,
        warmup_calls=20,
        involuntary_switches=0,
        load_ms=200.0,
        first_call_ms=30.0,
        peak_rss_bytes=300_000_000,
        measured_s=3.0,
    )
    return replace(plain, **changes)


def latency_row(*samples: ProcessSample, **changes: Any) -> LatencyRow:
    """One picture at a time on the CPU."""
    plain = LatencyRow(
        model="best",
        path="pets/models/best/model.onnx",
        architecture_key="resnet50.a1_in1k@224x2",
        device="cpu",
        device_name="Test CPU",
        provider="CPUExecutionProvider",
        precision="fp32",
        batch_size=1,
        threads=2,
        timed="session.run, numpy in and out",
        samples=samples or (process_sample(),),
        versions={"onnxruntime": "1.0"},
    )
    return replace(plain, **changes)


def variant_check(**changes: Any) -> VariantCheck:
    """Of 100 pictures two answers are lost and one is gained."""
    plain = VariantCheck(
        provider="CPUExecutionProvider",
        pictures=100,
        top1_agreement=0.98,
        fp32_balanced_accuracy=0.9,
        balanced_accuracy=0.89,
        lost=2,
        gained=1,
    )
    return replace(plain, **changes)


def variant_record(**changes: Any) -> VariantRecord:
    """An INT8 file that is offered."""
    plain = VariantRecord(
        precision="int8",
        path="pets/models/best/model.int8.onnx",
        size_bytes=10,
        tolerance_points=0.5,
        check=variant_check(),
    )
    return replace(plain, **changes)
