"""Rivals are timed by the loop that times ONNX Runtime, and say what they are."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from bench.errors import DeviceError, InputError, ModelFileError
from bench.latency.rivals import run
from tests.exported import SIZE, Exported
from tests.tiny import BACKBONE

SCHEDULE = {"warmup_calls": 3, "warmup_s": 0.0, "cap_s": 0.5, "measure_s": 0.0, "measure_calls": 4}


def request(exported: Exported, engine: str, **changes: object) -> dict[str, Any]:
    return {
        "path": str(exported.file),
        "engine": engine,
        "device": "cpu",
        "batch_size": 2,
        "threads": 1,
        "image_size": None,
        "network": {"architecture": BACKBONE, "classes": 3, "image_size": SIZE},
        "arithmetic": None,
        "tf32": True,
        "schedule": SCHEDULE,
        **changes,
    }


def test_torch_times_the_same_network_untrained(exported: Exported) -> None:
    result = run(request(exported, "torch"))
    assert len(result["sample"]["latencies_ns"]) == 4
    assert result["sample"]["load_ms"] > 0
    assert (result["provider"], result["precision"]) == ("torch eager", "fp32")
    assert result["timed"] == "forward, numpy in and out"
    assert result["threads"] == torch.get_num_threads() == 1
    assert result["versions"]["torch"] == torch.__version__


@pytest.mark.slow
def test_torch_compile_says_so(exported: Exported) -> None:
    assert run(request(exported, "torch-compile"))["provider"] == "torch.compile"


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch finds a CUDA device")
def test_torch_on_an_absent_gpu_is_refused(exported: Exported) -> None:
    with pytest.raises(DeviceError, match="torch finds no CUDA device"):
        run(request(exported, "torch", device="cuda"))


def test_openvino_says_in_what_arithmetic_it_computes(exported: Exported) -> None:
    pytest.importorskip("openvino", reason="the extra `openvino` is not installed")
    asked = run(request(exported, "openvino", arithmetic="f32"))
    assert asked["precision"] == "fp32 (asked for)"
    assert asked["provider"] == "OpenVINO CPU"
    assert len(asked["sample"]["latencies_ns"]) == 4
    assert run(request(exported, "openvino"))["precision"].endswith("(the device's default)")


def test_openvino_refuses_a_missing_file_as_everybody_does(exported: Exported) -> None:
    pytest.importorskip("openvino", reason="the extra `openvino` is not installed")
    with pytest.raises(ModelFileError, match=r"gone\.onnx does not exist"):
        run(request(exported, "openvino", path="gone.onnx"))


def test_openvino_that_is_not_installed_is_told_with_what_installs_it(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(InputError, match=r"pip install 'bench\[openvino\]'"):
        run(request(exported, "openvino"))
