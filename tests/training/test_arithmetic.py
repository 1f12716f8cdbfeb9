"""The number format is chosen by what was measured, and only for a gain worth having."""

from __future__ import annotations

from typing import cast

import pytest
import torch

from bench.errors import DeviceError
from bench.models.backbones import describe_backbone
from bench.models.staged import StagedModel, build_model
from bench.records import WeightSource
from bench.training import arithmetic
from bench.training.arithmetic import choose_arithmetic, choose_device

PLAIN, WIDE, HALF, WIDE_HALF = (
    ("float32", False),
    ("float32", True),
    ("bfloat16", False),
    ("bfloat16", True),
)


@pytest.mark.parametrize(
    ("times_ms", "chosen"),
    [
        ((100, 90, 95, 99), PLAIN),  # a tenth is no gain worth a departure
        ((100, 60, 80, 90), WIDE),
        ((100, 60, 30, 40), HALF),
        ((100, 60, 50, 20), WIDE_HALF),
        ((100, 120, 300, 400), PLAIN),
    ],
)
def test_the_fastest_format_is_taken_if_it_gains_enough(
    monkeypatch: pytest.MonkeyPatch, times_ms: tuple[float, ...], chosen: tuple[str, bool]
) -> None:
    kinds = (PLAIN, WIDE, HALF, WIDE_HALF)
    monkeypatch.setattr(
        arithmetic, "_step_times_ms", lambda *_: dict(zip(kinds, times_ms, strict=True))
    )
    made = choose_arithmetic("cpu", cast(StagedModel, None), 64)
    assert (made.dtype, made.channels_last) == chosen
    assert all(f"{ms} ms" in made.reason for ms in times_ms), "the measurement is recorded"


@pytest.mark.parametrize(
    ("asked", "works", "given"),
    [
        ("auto", True, "cuda"),
        ("auto", False, "cpu"),
        ("cpu", True, "cpu"),
        ("cuda", True, "cuda"),
    ],
)
def test_a_device_is_what_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, asked: str, works: bool, given: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: works)
    assert choose_device(asked) == given


@pytest.mark.parametrize(
    ("asked", "fragment"), [("cuda", "bench doctor"), ("tpu", "auto, cpu or cuda")]
)
def test_a_device_that_is_not_there_is_refused(
    monkeypatch: pytest.MonkeyPatch, asked: str, fragment: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match=fragment):
        choose_device(asked)


def test_all_formats_are_really_timed(small_model: StagedModel) -> None:
    times_ms = arithmetic._step_times_ms(small_model, 32)
    assert set(times_ms) == {PLAIN, WIDE, HALF, WIDE_HALF}
    assert all(ms > 0 for ms in times_ms.values())


@pytest.fixture
def small_model() -> StagedModel:
    spec = describe_backbone("test_resnet")
    return build_model(spec, WeightSource(kind="random"), classes=2, image_size=32, seed=0)
