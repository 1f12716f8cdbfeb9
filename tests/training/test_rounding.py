from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.records import StudyPlan
from bench.training.networks import StudyNetworks
from bench.training.rounding import measure_rounding
from tests.tiny import BACKBONE, PLAIN, make_plan, write_pictures


@pytest.fixture
def plan(tmp_path: Path) -> StudyPlan:
    return make_plan(write_pictures(tmp_path / "pictures"), tmp_path / "runs")


def test_the_error_of_every_depth_and_its_worst_effect_are_stated(plan: StudyPlan) -> None:
    rounding = measure_rounding(StudyNetworks(plan), BACKBONE)

    assert list(rounding.relative_rms) == [1, 2, 3, 4, 5]
    assert all(1e-5 < error < 2**-11 for error in rounding.relative_rms.values())
    assert 0 < rounding.probability < 0.01
    assert rounding.pictures == 30  # as many of each of three classes as make up a batch of 32
    assert f"Stored activations of {BACKBONE} are rounded to 16 bits" in str(rounding)
    assert f"{100 * rounding.relative_rms[5]:.2g} % at depth 5" in str(rounding)
    assert f"changes by more than {rounding.probability:.2g}" in str(rounding)


def test_where_activations_have_16_bits_nothing_changes_and_that_is_said(plan: StudyPlan) -> None:
    halved = replace(plan, arithmetic={BACKBONE: replace(PLAIN, dtype="bfloat16")})

    rounding = measure_rounding(StudyNetworks(halved), BACKBONE)

    assert set(rounding.relative_rms.values()) == {0.0}
    assert rounding.probability == 0.0
    assert "nothing is rounded and nothing changes" in str(rounding)
