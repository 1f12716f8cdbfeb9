"""Time what ONNX Runtime is compared with, by the very same loop (see `bench.runtime.child`).

    python -m bench.latency.rivals '{"engine": "torch", "path": "model.onnx", ...}'

torch and torch.compile run the network that the file was exported from, built anew with untrained
weights, which change no latency, and wrapped with the same normalisation and softmax. OpenVINO
reads the file itself, at a fixed batch. All of them are given numpy arrays and give numpy arrays.
"""

from __future__ import annotations

import importlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import DeviceError, InputError
from bench.runtime.child import answer, base_versions, take_sample, timed_ms
from bench.runtime.machine import cpu_name
from bench.runtime.timing import Call

# Element types as OpenVINO names them, and as numpy does.
_OPENVINO_TYPES = {"u8": "uint8", "f32": "float32", "f16": "float16"}
_PRECISIONS = {"f32": "fp32", "f16": "fp16", "bf16": "bf16"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """An engine that is ready to be timed, and what its row must say."""

    call: Call
    import_ms: float
    load_ms: float
    provider: str
    timed: str
    threads: int
    device_name: str
    versions: dict[str, str]
    precision: str | None = None


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Load the requested engine, time it, and return the document's `result`.

    Raises:
        InputError, DeviceError: the engine is not installed, or its device not there.
        MeasurementError: a call failed.
    """
    load = _load_openvino if request["engine"] == "openvino" else _load_torch
    loaded = load(request)
    sample = take_sample(loaded.call, request)
    from bench.runtime.machine import machine_name
    from bench.runtime.session import GpuOptions

    gpu = GpuOptions(tf32=request["tf32"])
    return {
        "sample": {**sample, "import_ms": loaded.import_ms, "load_ms": loaded.load_ms},
        "provider": loaded.provider,
        "threads": loaded.threads,
        "device_name": loaded.device_name,
        "machine": machine_name(),
        "timed": loaded.timed,
        "versions": {**base_versions(), **loaded.versions},
        "options": {} if request["device"] == "cpu" else gpu.described(),
        "precision": loaded.precision,
    }


def _load_torch(request: dict[str, Any]) -> Loaded:
    # The compiler's worker processes would share the cores with what is measured.
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    import_ms, torch = timed_ms(lambda: importlib.import_module("torch"))
    from bench.runtime.inputs import random_pixels
    from bench.runtime.machine import physical_cores

    device, compiled = request["device"], request["engine"] == "torch-compile"
    if device == "cuda" and not torch.cuda.is_available():
        raise DeviceError("torch finds no CUDA device: `--device cpu` does without")
    threads = request["threads"] or physical_cores()
    torch.set_num_threads(threads)
    if device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = request["tf32"]
        torch.backends.cudnn.allow_tf32 = request["tf32"]
    load_ms, network = timed_ms(lambda: _build(request["network"]).to(device))
    if compiled:
        network = torch.compile(network)
    size = request["network"]["image_size"]
    pixels_nhwc = random_pixels((request["batch_size"], size, size, 3), "uint8")

    def call() -> object:
        with torch.inference_mode():
            return network(torch.from_numpy(pixels_nhwc).to(device)).cpu().numpy()

    return Loaded(
        call=call,
        import_ms=import_ms,
        load_ms=load_ms,
        provider="torch.compile" if compiled else "torch eager",
        timed="forward, numpy in and out",
        threads=threads,
        device_name=torch.cuda.get_device_name() if device == "cuda" else cpu_name(),
        versions={"torch": torch.__version__},
        precision="fp32",
    )


def _build(network: dict[str, Any]) -> Any:
    from bench.models.backbones import describe_backbone
    from bench.models.export import ServingModel
    from bench.models.staged import build_model
    from bench.records import WeightSource

    model = build_model(
        describe_backbone(network["architecture"]),
        WeightSource(kind="random"),
        classes=network["classes"],
        image_size=network["image_size"],
        seed=0,
    )
    return ServingModel(model)


def _load_openvino(request: dict[str, Any]) -> Loaded:
    try:
        import_ms, openvino = timed_ms(lambda: importlib.import_module("openvino"))
    except ModuleNotFoundError as error:
        raise InputError(
            "--against openvino needs OpenVINO, which is not installed: "
            "pip install 'bench[openvino]'"
        ) from error
    from bench.runtime.inputs import concrete_shape, random_pixels
    from bench.runtime.machine import physical_cores
    from bench.runtime.session import check_file

    check_file(Path(request["path"]))
    threads = request["threads"] or physical_cores()
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    if request["arithmetic"] is not None:
        settings["INFERENCE_PRECISION_HINT"] = request["arithmetic"]

    def load() -> Any:
        model = openvino.Core().read_model(request["path"])
        port = model.input(0)
        open_shape = [
            None if size.is_dynamic else size.get_length() for size in port.get_partial_shape()
        ]
        shape = concrete_shape(
            port.any_name, open_shape, request["batch_size"], request["image_size"]
        )
        model.reshape(list(shape))
        return openvino.Core().compile_model(model, "CPU", settings)

    load_ms, compiled = timed_ms(load)
    port = compiled.input(0)
    dtype = _OPENVINO_TYPES[port.element_type.to_string()]
    pixels = random_pixels(tuple(port.shape), dtype)
    inference = compiled.create_infer_request()
    computed = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    asked = "asked for" if request["arithmetic"] else "the device's default"
    return Loaded(
        call=lambda: inference.infer({0: pixels}),
        import_ms=import_ms,
        load_ms=load_ms,
        provider="OpenVINO CPU",
        timed="infer, numpy in and out",
        threads=threads,
        device_name=cpu_name(),
        versions={"openvino": openvino.__version__},
        precision=f"{_PRECISIONS.get(computed, computed)} ({asked})",
    )


if __name__ == "__main__":
    sys.exit(answer(sys.argv[1:], run))
