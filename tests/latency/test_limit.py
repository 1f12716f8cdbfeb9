"""`--max-latency-ms` leaves slow backbones out of a study, measured once and untrained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.database import Database
from bench.errors import InputError, StudyMismatchError
from bench.latency import limit
from bench.latency.limit import untrained_latencies_ms
from bench.models.backbones import BackboneSpec, describe_backbone
from bench.planning import make_plan
from bench.progress import SilentProgress
from bench.records import StudyPlan
from bench.results import load_study_report
from bench.search.options import SearchOptions
from bench.workspace import Workspace, describe_environment
from reports.markdown import write_report
from tests.tiny import write_pictures

FAST, SLOW, OTHER = "test_resnet", "test_vit", "test_convnext"
OPTIONS = SearchOptions(
    study="limited", space="photo", backbones=(FAST, SLOW), folds=2, image_size=32,
    device="cpu", pretrained=False, max_latency_ms=10.0,
)  # fmt: skip


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Stands for the measurement, which takes seconds: what was measured, a call an entry."""
    calls: list[tuple[str, ...]] = []

    def latencies(specs: Sequence[BackboneSpec], **_: Any) -> dict[str, float]:
        calls.append(tuple(spec.name for spec in specs))
        return {FAST: 3.25, SLOW: 50.0}

    monkeypatch.setattr(limit, "untrained_latencies_ms", latencies)
    return calls


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with Database.open(Workspace(tmp_path / "runs").create().default_storage) as database:
        yield database


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "pictures")


def plan(data: Path, database: Database, **changes: Any) -> StudyPlan:
    workspace = Workspace(data.parent / "runs")
    options = replace(OPTIONS, **changes)
    return make_plan(data, options, workspace, database, SilentProgress())


def test_a_backbone_over_the_limit_is_not_searched_and_the_report_says_so(
    data: Path, database: Database, measured: list[tuple[str, ...]], tmp_path: Path
) -> None:
    limited = plan(data, database)

    assert measured == [(FAST, SLOW)]
    assert limited.space["parameters"]["backbone"]["choices"] == [FAST]
    assert set(limited.weights) == {FAST}
    database.save_plan(limited, describe_environment(None))
    report = write_report([load_study_report(database, "limited")], tmp_path / "report")
    text = report.markdown.read_text()
    assert f"{SLOW} takes 50.0 ms a picture on cpu, so it was not searched" in text
    assert f"{FAST} takes 3.2 ms a picture on cpu." in text


def test_a_study_that_goes_on_does_not_measure_again(
    data: Path, database: Database, measured: list[tuple[str, ...]]
) -> None:
    """A second measurement might choose differently, and then the study could not go on."""
    begun = replace(plan(data, database), notes=("worded by an earlier version",))
    database.save_plan(begun, describe_environment(None))

    again = plan(data, database)

    assert len(measured) == 1
    assert (again.space, again.notes) == (begun.space, begun.notes)


@pytest.mark.parametrize(("begun", "asked"), [(None, 10.0), (10.0, 60.0), (10.0, None)])
def test_another_limit_is_refused_without_a_measurement(
    data: Path,
    database: Database,
    measured: list[tuple[str, ...]],
    begun: float | None,
    asked: float | None,
) -> None:
    database.save_plan(plan(data, database, max_latency_ms=begun), describe_environment(None))
    measured.clear()

    with pytest.raises(StudyMismatchError, match=f"max_latency_ms: {begun} -> {asked}"):
        plan(data, database, max_latency_ms=asked)

    assert measured == []


@pytest.mark.parametrize(
    ("backbones", "change"),
    [((FAST, SLOW, OTHER), rf"backbone.*{OTHER}"), ((OTHER,), rf"backbone.*{OTHER}")],
)
def test_a_study_does_not_go_on_with_a_backbone_that_it_was_not_begun_with(
    data: Path,
    database: Database,
    measured: list[tuple[str, ...]],
    backbones: tuple[str, ...],
    change: str,
) -> None:
    database.save_plan(plan(data, database), describe_environment(None))

    with pytest.raises(StudyMismatchError, match=change):
        plan(data, database, backbones=backbones)


def test_a_limit_that_nothing_meets_is_refused_with_the_figures(
    data: Path, database: Database, measured: list[tuple[str, ...]]
) -> None:
    with pytest.raises(InputError, match=rf"{FAST} 3\.2 ms, {SLOW} 50\.0 ms; allow more"):
        plan(data, database, max_latency_ms=1.0)


def test_without_a_limit_nothing_is_measured(
    data: Path, database: Database, measured: list[tuple[str, ...]]
) -> None:
    assert set(plan(data, database, max_latency_ms=None).weights) == {FAST, SLOW}
    assert measured == []


@pytest.mark.slow
def test_a_larger_picture_takes_an_untrained_network_longer() -> None:
    specs = [describe_backbone("test_resnet")]
    small_ms, large_ms = (
        untrained_latencies_ms(
            specs, classes=("a", "b"), image_size=size, crop=None, resize="squash", device="cpu"
        )["test_resnet"]
        for size in (32, 512)
    )
    assert 0 < small_ms < large_ms
