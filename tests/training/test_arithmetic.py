"""The number format is chosen by what was measured, and only for a gain worth having."""

from __future__ import annotations

from collections import Counter
from itertools import chain, repeat
from typing import cast
from unittest.mock import Mock

import pytest
import torch

from bench.errors import DeviceError
from bench.models.backbones import describe_backbone
from bench.models.staged import StagedModel, build_model
from bench.records import WeightSource
from bench.training import arithmetic
from bench.training.arithmetic import choose_arithmetic, choose_device

Kind = tuple[str, bool]
PLAIN, WIDE, HALF = ("float32", False), ("float32", True), ("bfloat16", True)
KINDS = (PLAIN, WIDE, HALF)


@pytest.mark.parametrize(
    ("times_ms", "chosen"),
    [
        ((100, 90, 95), PLAIN),  # a tenth is no gain worth a departure
        ((100, 60, 80), WIDE),
        ((100, 60, 30), HALF),
        ((100, 120, 300), PLAIN),
    ],
)
def test_the_fastest_format_is_taken_if_it_gains_enough(
    monkeypatch: pytest.MonkeyPatch, times_ms: tuple[float, ...], chosen: tuple[str, bool]
) -> None:
    monkeypatch.setattr(
        arithmetic, "_step_times_ms", lambda *_, busy: dict(zip(KINDS, times_ms, strict=True))
    )
    made = choose_arithmetic("cpu", cast(StagedModel, None), 64, busy=False)
    assert (made.dtype, made.channels_last) == chosen
    assert all(f"{ms} ms" in made.reason for ms in times_ms), "the measurement is recorded"


@pytest.mark.parametrize(("supported", "tried"), [(True, KINDS), (False, (PLAIN, WIDE))])
def test_bfloat16_is_tried_only_where_the_processor_can_gain_by_it(
    monkeypatch: pytest.MonkeyPatch, supported: bool, tried: tuple[Kind, ...]
) -> None:
    asked: list[Kind] = []

    def step_times_ms(
        _model: object, _size: int, kinds: tuple[Kind, ...], *, busy: bool
    ) -> dict[Kind, float]:
        asked.extend(kinds)
        return dict.fromkeys(kinds, 10.0)

    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
    monkeypatch.setattr(arithmetic, "_step_times_ms", step_times_ms)
    made = choose_arithmetic("cpu", cast(StagedModel, None), 64, busy=False)
    assert tuple(asked) == tried
    assert ("has no bfloat16" in made.reason) == (tried != KINDS)


BF16, FP16 = ("bfloat16", True), ("float16", True)
INF = float("inf")


@pytest.mark.parametrize(
    ("times_ms", "chosen", "recorded"),
    [
        ({PLAIN: (19, 17), BF16: (15, 9), FP16: (17, 8)}, BF16, True),
        ({PLAIN: (19, 17), BF16: (15, 9), FP16: (17, 7)}, FP16, True),
        ({PLAIN: (19, 17), BF16: (15, 9), FP16: (INF, INF)}, BF16, True),
        ({PLAIN: (10, 10), BF16: (12, INF), FP16: (9.5, INF)}, PLAIN, False),
        ({PLAIN: (19, INF), BF16: (15, INF), FP16: (17, INF)}, BF16, False),
        ({PLAIN: (INF, INF), BF16: (INF, INF), FP16: (INF, INF)}, PLAIN, False),
    ],
    ids=[
        "float16 gains little",
        "float16 gains",
        "float16 overflows",
        "old GPU",
        "no recording",
        "nothing fits",
    ],
)
def test_on_cuda_a_format_that_can_overflow_must_gain_over_one_that_cannot(
    monkeypatch: pytest.MonkeyPatch,
    times_ms: dict[Kind, tuple[float, float]],
    chosen: Kind,
    recorded: bool,
) -> None:
    """Milliseconds of a step kernel by kernel, and recorded."""

    class Model:
        def to(self, device: str) -> Model:
            return self

    def step_times(kind: Kind, *_: object) -> arithmetic._StepTimes:
        one_by_one_ms, recorded_ms = times_ms[kind]
        fault = "does not fit" if one_by_one_ms == INF else None
        return arithmetic._StepTimes(
            one_by_one_ms=one_by_one_ms, recorded_ms=recorded_ms, fault=fault
        )

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    monkeypatch.setattr(arithmetic, "_cuda_step_times", step_times)
    made = choose_arithmetic("cuda", cast(StagedModel, Model()), 64, busy=False)
    assert ((made.dtype, made.channels_last), made.graphs) == (chosen, recorded)
    plain = "does not fit" if times_ms[PLAIN][0] == INF else f"{times_ms[PLAIN][0]:.1f} ms"
    assert f"float32 {plain}" in made.reason, "the measurement is recorded"


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
    times_ms = arithmetic._step_times_ms(small_model, 32, KINDS, busy=False)
    assert set(times_ms) == {PLAIN, WIDE, HALF}
    assert all(ms > 0 for ms in times_ms.values())


@pytest.mark.parametrize(
    ("times_ms", "busy", "steps"),
    [
        ({PLAIN: 14, WIDE: 10, HALF: 11}, False, dict.fromkeys(KINDS, 3)),
        ({PLAIN: 14, WIDE: 10, HALF: 11}, True, dict.fromkeys(KINDS, 13)),
        ({PLAIN: 40, WIDE: 16, HALF: 10}, True, {PLAIN: 3, WIDE: 3, HALF: 13}),
        ({PLAIN: 1e5, WIDE: 1e5, HALF: 9e4}, True, dict.fromkeys(KINDS[1:], 2)),
        ({PLAIN: 1e5, WIDE: 1e5, HALF: 9e4}, False, dict.fromkeys(KINDS[1:], 2)),
    ],
    ids=[
        "times agree",
        "all in question",
        "two are not",
        "steps of a minute and a half",
        "the same on a quiet machine",
    ],
)
def test_what_is_known_or_clearly_slower_or_takes_minutes_is_not_timed_again(
    small_model: StagedModel,
    monkeypatch: pytest.MonkeyPatch,
    times_ms: dict[tuple[str, bool], float],
    busy: bool,
    steps: dict[tuple[str, bool], int],
) -> None:
    run: Counter[tuple[str, bool]] = Counter()

    def step_ms(kind: tuple[str, bool], *_: object) -> float:
        run[kind] += 1
        return times_ms[kind]

    monkeypatch.setattr(arithmetic, "_step_ms", step_ms)
    assert arithmetic._step_times_ms(small_model, 32, KINDS, busy=busy) == times_ms
    assert {kind: run[kind] for kind in steps} == steps


@pytest.mark.parametrize(("second_ms", "steps"), [(10.4, 3), (9.7, 3), (10.6, 7), (9.4, 7)])
def test_a_time_is_known_once_a_second_one_comes_within_a_twentieth(
    small_model: StagedModel, monkeypatch: pytest.MonkeyPatch, second_ms: float, steps: int
) -> None:
    # The first step is for choosing and packing; further ones are slower by far.
    times_ms = iter([99.0, 10.0, second_ms, 30.0, 40.0, 50.0, 60.0])
    taken: list[float] = []

    def step_ms(*_: object) -> float:
        taken.append(next(times_ms))
        return taken[-1]

    monkeypatch.setattr(arithmetic, "_step_ms", step_ms)
    arithmetic._step_times_ms(small_model, 32, [PLAIN], busy=False)
    assert len(taken) == steps


@pytest.mark.parametrize("busy", [False, True])
def test_on_a_busy_machine_steps_are_timed_as_on_one(
    monkeypatch: pytest.MonkeyPatch, busy: bool
) -> None:
    timed = Mock(return_value=dict.fromkeys(KINDS, 10.0))
    monkeypatch.setattr(arithmetic, "_step_times_ms", timed)
    choose_arithmetic("cpu", cast(StagedModel, None), 64, busy=busy)
    assert timed.call_args.kwargs == {"busy": busy}


def test_the_least_of_several_times_counts(
    small_model: StagedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program can only make a step slower, and only now and then."""
    times_ms = iter([*[99.0] * 3, 12.0, 11.0, 10.0, *[50.0] * 9, *[8.0] * 24])
    monkeypatch.setattr(arithmetic, "_step_ms", lambda *_: next(times_ms))
    least = arithmetic._step_times_ms(small_model, 32, KINDS, busy=True)
    assert set(least.values()) == {8.0}


def test_a_format_is_not_lost_to_one_step_that_another_program_held_up(
    small_model: StagedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    times_ms = {PLAIN: repeat(40.0), WIDE: repeat(30.0), HALF: chain([10.0, 2317.0], repeat(10.0))}
    monkeypatch.setattr(arithmetic, "_step_ms", lambda kind, *_: next(times_ms[kind]))
    assert arithmetic._step_times_ms(small_model, 32, KINDS, busy=False)[HALF] == 10.0


@pytest.fixture
def small_model() -> StagedModel:
    spec = describe_backbone("test_resnet")
    return build_model(spec, WeightSource(kind="random"), classes=2, image_size=32, seed=0)
