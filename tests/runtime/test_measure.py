import gc
import json
from pathlib import Path

from PIL import Image

from bench.runtime import child
from bench.runtime.child import answer
from bench.runtime.machine import cpu_name
from bench.runtime.measure import MODEL_TIMED, run


def request(path: Path, **changes: object) -> str:
    schedule = {"warmup_s": 0.0, "cap_s": 0.5, "measure_s": 0.0, "measure_calls": 5}
    base = {"path": str(path), "device": "cpu", "scope": "model", "batch_size": 2, "threads": 1}
    rest = {"image_size": None, "picture": None, "tf32": True, "cuda_graph": False}
    return json.dumps({**base, **rest, "schedule": schedule, **changes})


def test_the_program_prints_one_document_with_raw_samples(make_model, capfd):
    assert answer([request(make_model())], run) == 0
    out, err = capfd.readouterr()
    assert err == ""
    result = json.loads(out)["result"]
    assert len(result["sample"]["latencies_ns"]) == 5
    assert all(isinstance(ns, int) and ns > 0 for ns in result["sample"]["latencies_ns"])
    assert result["sample"]["load_ms"] > 0
    assert result["provider"] == "CPUExecutionProvider"
    assert result["threads"] == 1
    assert result["device_name"] == cpu_name()
    assert result["machine"].startswith(cpu_name())
    assert result["timed"] == MODEL_TIMED
    assert result["sample"]["import_ms"] >= 0
    assert (result["options"], result["sample"]["gpu"]) == ({}, {})
    assert {"python", "onnxruntime", "numpy"} <= set(result["versions"])
    assert gc.isenabled()


def test_the_program_reports_a_user_error_by_its_class(capfd):
    assert answer([request(Path("absent.onnx"))], run) == 1
    error = json.loads(capfd.readouterr().out)["error"]
    assert error["kind"] == "ModelFileError"
    assert "absent.onnx does not exist" in error["message"]


def test_a_call_that_fails_is_a_measurement_error(make_model, capfd, monkeypatch):
    def fail(*_: object) -> None:
        raise RuntimeError("out of\nmemory")  # as ONNX Runtime puts it, on several lines

    monkeypatch.setattr(child, "measure", fail)
    assert answer([request(make_model())], run) == 1
    error = json.loads(capfd.readouterr().out)["error"]
    assert error["kind"] == "MeasurementError"
    assert error["message"].endswith("failed to run: out of memory")


def test_end_to_end_begins_with_a_picture_file_and_says_so(make_model, tmp_path, capfd):
    assert answer([request(make_model(), scope="end-to-end")], run) == 0
    assert json.loads(capfd.readouterr().out)["result"]["timed"] == (
        "picture file to label (made PNG of 8x8 px)"
    )
    picture = tmp_path / "mine.bmp"
    Image.new("RGB", (20, 10)).save(picture)
    assert answer([request(make_model(), scope="end-to-end", picture=str(picture))], run) == 0
    assert json.loads(capfd.readouterr().out)["result"]["timed"] == (
        "picture file to label (BMP of 20x10 px)"
    )


def test_end_to_end_needs_a_picture_that_can_be_read(make_model, tmp_path, capfd):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    assert answer([request(make_model(), scope="end-to-end", picture=str(broken))], run) == 1
    error = json.loads(capfd.readouterr().out)["error"]
    assert error["kind"] == "DataError"
    assert "broken.png" in error["message"]


def test_end_to_end_needs_a_file_that_bench_made(make_model, capfd):
    assert answer([request(make_model(props={}), scope="end-to-end")], run) == 1
    assert "no `bench` metadata" in json.loads(capfd.readouterr().out)["error"]["message"]
