"""Which latencies of promoted models are measured, and which are known already."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.database import Database
from bench.errors import MeasurementError
from bench.latency.measuring import LatencyJob, LatencyProtocol
from bench.progress import SilentProgress
from bench.promote import latencies
from bench.promote.latencies import measure_models
from bench.records import LatencyRow, ModelRecord
from bench.workspace import Workspace
from tests.measured import fake_measurement
from tests.records import variant_record


class Listener(SilentProgress):
    def __init__(self) -> None:
        self.said: list[str] = []

    def stage(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(autouse=True)
def no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latencies, "measure_many", fake_measurement)
    monkeypatch.setattr(latencies, "cuda_works", lambda: (False, "not here"))


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path).create()


@pytest.fixture
def database(workspace: Workspace) -> Iterator[Database]:
    with Database.open(workspace.default_storage) as opened:
        yield opened


@pytest.fixture
def listener() -> Listener:
    return Listener()


Measure = Callable[..., tuple[LatencyRow, ...]]


@pytest.fixture
def measure(
    workspace: Workspace, database: Database, model_record: ModelRecord, listener: Listener
) -> Measure:
    """Measure what is not known of one model."""

    def run(processes: int = 1, model: ModelRecord = model_record) -> tuple[LatencyRow, ...]:
        protocol = LatencyProtocol(processes=processes)
        return measure_models([model], workspace, database, listener, protocol)

    return run


def setups(rows: Sequence[LatencyRow]) -> list[tuple[str, str, int]]:
    return [(row.device, row.scope, row.batch_size) for row in rows]


ON_CPU = [("cpu", "model", 1), ("cpu", "model", 8), ("cpu", "end-to-end", 1)]


def test_a_model_is_measured_once_and_what_is_measured_is_stored(
    measure: Measure, database: Database, model_record: ModelRecord
) -> None:
    rows = measure()
    assert setups(rows) == ON_CPU
    assert database.load_latencies(model_record.paths) == rows
    assert measure() == ()


@pytest.mark.parametrize(
    ("change", "measured"),
    [
        ({}, 0),
        ({"machine": ""}, 0),  # a row of an early version, on the same processor
        ({"machine": "Another CPU, 64 cores"}, 1),
        ({"machine": "", "device_name": "Another CPU"}, 1),
    ],
)
def test_rows_of_another_machine_are_not_taken_for_this_ones(
    measure: Measure,
    tmp_path: Path,
    model_record: ModelRecord,
    change: dict[str, str],
    measured: int,
) -> None:
    first, *others = measure()
    elsewhere = Workspace(tmp_path / "elsewhere").create()
    with Database.open(elsewhere.default_storage) as database:
        database.save_latencies([replace(first, **change), *others])
        rows = measure_models(
            [model_record], elsewhere, database, Listener(), LatencyProtocol(processes=1)
        )
    assert len(rows) == measured


def test_rows_of_a_quick_measurement_are_replaced_by_a_full_one_and_that_is_told(
    measure: Measure, listener: Listener
) -> None:
    measure(processes=1)
    assert listener.said == []

    assert setups(measure(processes=2)) == ON_CPU
    assert listener.said == [
        "3 latency rows were measured with --quick-latency, and will be replaced"
    ]


def test_a_new_variant_has_the_rows_that_it_is_compared_with_measured_again_in_turns(
    measure: Measure, listener: Listener, database: Database, model_record: ModelRecord
) -> None:
    before = measure()
    variant = variant_record(path="pets/models/best/model.int8.onnx", size_bytes=1)
    rows = measure(model=replace(model_record, variants=(variant,)))

    assert [(row.precision, row.batch_size, row.scope) for row in rows] == [
        (precision, size, scope) for _, scope, size in ON_CPU for precision in ("fp32", "int8")
    ]
    assert listener.said == ["3 latency rows are measured again, in turns with the new ones"]
    assert {row.turns for row in rows}.isdisjoint(row.turns for row in before)


def test_a_quick_measurement_of_a_new_variant_leaves_full_rows_alone(
    measure: Measure, model_record: ModelRecord
) -> None:
    measure(processes=5)
    variant = variant_record(path="pets/models/best/model.int8.onnx", size_bytes=1)
    rows = measure(processes=2, model=replace(model_record, variants=(variant,)))
    assert {row.precision for row in rows} == {"int8"}


def test_a_latency_that_cannot_be_measured_does_not_cost_the_others(
    measure: Measure,
    database: Database,
    model_record: ModelRecord,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def hanging(jobs: Sequence[LatencyJob], **others: Any) -> tuple[LatencyRow, ...]:
        if jobs[0].batch_size == 8:
            raise MeasurementError("it hung")
        return fake_measurement(jobs, **others)

    monkeypatch.setattr(latencies, "measure_many", hanging)
    with pytest.raises(MeasurementError, match="it hung"):
        measure()

    assert setups(database.load_latencies(model_record.paths)) == [ON_CPU[0], ON_CPU[2]]


def test_on_a_gpu_the_network_is_measured_with_copying_and_without(
    measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latencies, "cuda_works", lambda: (True, "pretended"))
    on_gpu = {
        (scope, batch_size) for device, scope, batch_size in setups(measure()) if device == "cuda"
    }
    assert on_gpu == {
        ("model", 1), ("model", 8), ("end-to-end", 1), ("device", 1), ("device", 8),
    }  # fmt: skip
