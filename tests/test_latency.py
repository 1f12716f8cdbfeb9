import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bench.errors import DeviceError, InputError, MeasurementError, ModelFileError
from bench.latency import (
    ChildResult,
    LatencyJob,
    LatencyProtocol,
    abba_order,
    disturbed,
    measure_latency,
    measure_many,
    read_report,
)
from bench.records import ProcessSample, from_json, to_json
from bench.runtime.measure import Schedule

TINY = LatencyProtocol(
    processes=2, warmup_calls=3, warmup_s=0.0, measure_s=0.0, measure_calls=4, cap_s=0.1
)


def sample(*, switches: int = 0, latencies_ns: tuple[int, ...] = (1_000_000,)) -> ProcessSample:
    return ProcessSample(
        latencies_ns=latencies_ns,
        steady=True,
        warmup_calls=75,
        involuntary_switches=switches,
        load_ms=10.0,
        first_call_ms=2.0,
        peak_rss_bytes=10**8,
        measured_s=3.0,
    )


def result(**how: int) -> ChildResult:
    return ChildResult(
        sample=sample(**how),
        provider="CPUExecutionProvider",
        threads=4,
        device_name="a processor",
        timed="session.run, numpy in and out",
        versions={"onnxruntime": "1.31.1"},
    )


def job(model: str, **changes: object) -> LatencyJob:
    plain = {"architecture_key": "net@8x3", "device": "cpu", "batch_size": 1}
    return LatencyJob(path=f"{model}.onnx", model=model, **{**plain, **changes})


class FakeChildren:
    """Answers in place of child processes, so that order and re-runs can be seen exactly."""

    def __init__(self, *switches: int) -> None:
        self.order: list[str] = []
        self._switches = iter(switches)

    def __call__(self, asked: LatencyJob, protocol: LatencyProtocol) -> ChildResult:
        self.order.append(asked.model)
        return result(switches=next(self._switches, 0))


# --- protocol ---------------------------------------------------------------------------------


def test_a_process_is_told_what_the_protocol_says():
    schedule = Schedule(**LatencyProtocol(measure_calls=7, cap_s=2.0).schedule())
    assert (schedule.measure_calls, schedule.cap_s) == (7, 2.0)


def test_the_protocols_defaults_are_the_schedules():
    assert Schedule(**LatencyProtocol().schedule()) == Schedule()


@pytest.mark.parametrize(
    "make",
    [
        lambda: LatencyProtocol(processes=0),
        lambda: LatencyProtocol(measure_calls=0),
        lambda: job("a", batch_size=0),
        lambda: job("a", threads=0),
    ],
)
def test_what_measures_nothing_is_refused(make):
    with pytest.raises(InputError, match="at least"):
        make()


@pytest.mark.parametrize(
    ("jobs", "rounds", "order"),
    [
        (1, 3, (0, 0, 0)),
        (2, 2, (0, 1, 1, 0)),
        (3, 3, (0, 1, 2, 2, 1, 0, 0, 1, 2)),
        (0, 5, ()),
    ],
)
def test_rounds_alternate_their_direction(jobs, rounds, order):
    assert abba_order(jobs, rounds) == order


@pytest.mark.parametrize(
    ("switches", "positions"),
    [
        ((1, 2, 1, 2, 1), ()),
        ((1, 2, 1, 50, 1), ()),
        ((1, 2, 1, 51, 1), (3,)),
        ((60, 65, 55, 262, 60), (3,)),
        ((60, 65, 55, 180, 60), ()),
        ((200, 10, 10, 10, 300), (0, 4)),
        ((2, 90), (1,)),
        ((90,), ()),
    ],
)
def test_a_process_interrupted_far_more_than_its_fellows_is_disturbed(switches, positions):
    assert disturbed([sample(switches=count) for count in switches]) == positions


# --- rows -------------------------------------------------------------------------------------


def test_every_job_gets_a_row_of_as_many_processes_as_the_protocol_says():
    jobs = [job("a", precision="int8", batch_size=8), job("b")]
    children = FakeChildren()
    seen: list[tuple[str, int, int]] = []
    rows = measure_many(
        jobs,
        protocol=LatencyProtocol(processes=3),
        progress=lambda asked, done, planned: seen.append((asked.model, done, planned)),
        measure=children,
    )
    assert children.order == ["a", "b", "b", "a", "a", "b"]
    assert seen[0] == ("a", 1, 6)
    assert seen[-1] == ("b", 6, 6)
    assert [row.model for row in rows] == ["a", "b"]
    assert [len(row.samples) for row in rows] == [3, 3]
    assert (rows[0].precision, rows[0].batch_size, rows[0].threads) == ("int8", 8, 4)
    assert rows[0].provider == "CPUExecutionProvider"


def test_a_disturbed_process_is_measured_again_once():
    children = FakeChildren(1, 1, 400, 1, 1, 900, 0)
    (row,) = measure_many([job("a")], protocol=LatencyProtocol(), measure=children)
    assert [s.involuntary_switches for s in row.samples] == [1, 1, 900, 1, 1]
    assert len(children.order) == 6


def test_processes_that_ran_on_different_things_are_not_one_row():
    answers = iter([result(), replace(result(), provider="CUDAExecutionProvider")])
    with pytest.raises(MeasurementError, match="not one row"):
        measure_many([job("a")], protocol=TINY, measure=lambda *_: next(answers))


# --- the child's report -----------------------------------------------------------------------


def test_a_report_is_the_last_line_of_the_output():
    text = "a library's remark\n" + json.dumps({"result": json.loads(to_json(result()))}) + "\n"
    assert read_report(text, "", 0) == result()


@pytest.mark.parametrize(
    ("kind", "raised"),
    [
        ("DeviceError", DeviceError),
        ("ModelFileError", ModelFileError),
        ("MeasurementError", MeasurementError),
    ],
)
def test_a_childs_error_is_raised_as_what_it_was(kind, raised):
    report = json.dumps({"error": {"kind": kind, "message": "the rule, the value, the remedy"}})
    with pytest.raises(raised, match=r"^the rule, the value, the remedy$"):
        read_report(report, "", 1)


@pytest.mark.parametrize("stdout", ["", "Segmentation", "{}", '{"result": {"sample": 1}}', "[]"])
def test_a_child_that_dies_leaves_its_last_words(stdout):
    stderr = "\n".join(f"line {number}" for number in range(20))
    with pytest.raises(MeasurementError, match="code -11") as caught:
        read_report(stdout, stderr, -11)
    assert str(caught.value).endswith("line 15\nline 16\nline 17\nline 18\nline 19")


# --- real children ----------------------------------------------------------------------------


@pytest.fixture
def any_classifier(tmp_path):
    """A float classifier that `bench` did not make: it has no metadata and other names."""
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["pixels"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weight"], ["scores"]),
        ],
        "any",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 3, 4, 4])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(np.ones((48, 2), np.float32), "weight")],
    )
    path = tmp_path / "any.onnx"
    opsets = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def test_any_picture_classifier_is_measured_in_fresh_processes(any_classifier):
    row = measure_latency(
        any_classifier,
        model="any",
        architecture_key="any@4x2",
        device="cpu",
        batch_size=2,
        threads=1,
        protocol=TINY,
    )
    assert [len(s.latencies_ns) for s in row.samples] == [4, 4]
    assert all(s.warmup_calls >= 3 and s.load_ms > 0 for s in row.samples)
    assert (row.provider, row.threads, row.batch_size) == ("CPUExecutionProvider", 1, 2)
    assert from_json(to_json(row), type(row)) == row


def test_a_missing_file_is_told_by_the_child(tmp_path):
    with pytest.raises(ModelFileError, match=r"absent\.onnx does not exist"):
        measure_many([replace(job("a"), path=tmp_path / "absent.onnx")], protocol=TINY)
