import json
import sys
from dataclasses import replace

import onnx
import pytest

from bench.errors import DeviceError, InputError, MeasurementError, ModelFileError
from bench.latency.measuring import (
    ChildResult,
    LatencyJob,
    LatencyProtocol,
    abba_order,
    disturbed,
    measure_many,
    read_report,
    run_child,
)
from bench.latency.ratios import compare
from bench.records import LatencyRow, from_json, to_json
from bench.runtime.timing import Schedule
from tests.graphs import foreign_classifier
from tests.records import latency_row, process_sample

TINY = LatencyProtocol(
    processes=2,
    schedule=Schedule(warmup_calls=3, warmup_s=0.0, measure_s=0.0, measure_calls=4, cap_s=0.1),
)


def result(*, switches: int = 0) -> ChildResult:
    return ChildResult(
        sample=process_sample(involuntary_switches=switches),
        provider="CPUExecutionProvider",
        threads=4,
        device_name="a processor",
        machine="a processor, 4 cores",
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


def test_a_process_is_told_the_whole_schedule():
    schedule = Schedule(measure_calls=7, cap_s=2.0, window_calls=9)
    told = json.loads(job("a").request(LatencyProtocol(schedule=schedule)))
    assert Schedule(**told["schedule"]) == schedule


@pytest.mark.parametrize(
    "make",
    [
        lambda: LatencyProtocol(processes=0),
        lambda: LatencyProtocol(schedule=Schedule(measure_calls=0)),
        lambda: job("a", batch_size=0),
        lambda: job("a", threads=0),
        lambda: LatencyProtocol(limit_s=0),
    ],
)
def test_what_measures_nothing_is_refused(make):
    with pytest.raises(InputError, match=r"at least|more than 0"):
        make()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scope": "device"}, "device-resident rows are for a GPU"),
        ({"device": "cuda", "cuda_graph": True}, "fixed addresses: give --timed device"),
    ],
)
def test_what_cannot_be_timed_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        job("a", **changes)


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
    assert (
        disturbed([process_sample(involuntary_switches=count) for count in switches]) == positions
    )


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


@pytest.mark.parametrize(
    ("again", "counted", "kept_beside"),
    [(0, [1, 1, 0, 1, 1], [400]), (900, [1, 1, 400, 1, 1], [900])],
)
def test_of_a_disturbed_process_and_its_repetition_the_calmer_one_counts(
    again, counted, kept_beside
):
    children = FakeChildren(1, 1, 400, 1, 1, again)
    (row,) = measure_many([job("a")], protocol=LatencyProtocol(), measure=children)
    assert [s.involuntary_switches for s in row.samples] == counted
    assert [s.involuntary_switches for s in row.replaced] == kept_beside
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


def test_last_words_need_not_be_text():
    gibberish = "import os; os.write(2, b'segment \\xff'); os._exit(3)"
    with pytest.raises(MeasurementError, match="code 3"):
        run_child([sys.executable, "-c", gibberish], 60.0, what="measuring")


# --- comparing ---------------------------------------------------------------------------------


def row(model: str, *medians_ms: float, **changes: object) -> LatencyRow:
    samples = [process_sample(int(ms * 1_000_000)) for ms in medians_ms]
    return latency_row(
        *samples, **{"model": model, "path": f"{model}.onnx", "threads": 1, **changes}
    )


@pytest.mark.parametrize(
    ("first", "second", "ratio", "interval", "verdict"),
    [
        ((20, 22, 21, 20, 22), (10, 11, 10.5, 10, 11), 2.0, (2.0, 2.0), "the first is slower"),
        (
            (10, 10, 10, 10, 10),
            (20, 21, 20, 19, 20),
            0.5,
            (10 / 21, 10 / 19),
            "the first is faster",
        ),
        ((10, 10, 10, 10, 10), (10.4, 10.4, 10.4, 10.4, 10.4), 10 / 10.4, (10 / 10.4,) * 2, "tie"),
        ((9, 9, 12, 12, 12), (10, 10, 10, 10, 10), 1.2, (0.9, 1.2), "tie"),
        ((20, 20), (10, 10), 2.0, None, "too few processes to tell"),
        ((10, 10), (10, 10), 1.0, None, "tie"),
    ],
)
def test_two_models_are_compared_round_by_round(first, second, ratio, interval, verdict):
    (comparison,) = compare([row("a", *first), row("b", *second)])
    assert comparison.ratio == pytest.approx(ratio)
    assert comparison.interval == (interval and pytest.approx(interval))
    assert comparison.verdict == verdict


def test_a_common_slowdown_of_a_round_leaves_the_ratio_alone():
    """Rounds 2 and 4 ran at half the speed for both, as on a machine that others use."""
    (comparison,) = compare([row("a", 12, 24, 12, 24, 12), row("b", 10, 20, 10, 20, 10)])
    assert comparison.ratio == pytest.approx(1.2)
    assert comparison.interval == pytest.approx((1.2, 1.2))


def test_only_what_was_timed_alike_is_compared_and_always_with_the_first():
    rows = [
        row("a", 1.0),
        row("a", 1.0, batch_size=8),
        row("a", 1.0, scope="end-to-end"),
        row("b", 1.0),
        row("b", 1.0, batch_size=8),
        row("c", 1.0),
        row("c", 1.0, threads=2),
    ]
    pairs = [(c.first.model, c.second.model, c.first.batch_size) for c in compare(rows)]
    assert pairs == [("a", "b", 1), ("a", "c", 1), ("a", "b", 8)]


# --- real children ----------------------------------------------------------------------------


@pytest.fixture
def any_classifier(tmp_path):
    """A float classifier that `bench` did not make: it has no metadata and other names."""
    path = tmp_path / "any.onnx"
    onnx.save(foreign_classifier(), path)
    return path


def test_any_picture_classifier_is_measured_in_fresh_processes(any_classifier):
    (row,) = measure_many(
        [replace(job("any"), path=any_classifier, batch_size=2, threads=1)], protocol=TINY
    )
    assert [len(s.latencies_ns) for s in row.samples] == [4, 4]
    assert all(s.warmup_calls >= 3 and s.load_ms > 0 and s.import_ms > 0 for s in row.samples)
    assert row.cold_start_ms > row.import_ms
    assert (row.provider, row.threads, row.batch_size) == ("CPUExecutionProvider", 1, 2)
    assert from_json(to_json(row), type(row)) == row


def test_a_missing_file_is_told_by_the_child(tmp_path):
    with pytest.raises(ModelFileError, match=r"absent\.onnx does not exist"):
        measure_many([replace(job("a"), path=tmp_path / "absent.onnx")], protocol=TINY)


def test_a_child_that_hangs_is_stopped_with_all_that_it_started():
    """The grandchild holds the pipes open, as a compiler's worker does."""
    forever = "__import__('threading').Event().wait()"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {forever!r}])"
    program = [sys.executable, "-c", code]
    with pytest.raises(MeasurementError, match=r"x must end within 0\.2 s .* --time-limit"):
        run_child(program, 0.2, what="x")
