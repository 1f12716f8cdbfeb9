"""Time one ONNX file under ONNX Runtime in this process (see `bench.runtime.child`).

    python -m bench.runtime.measure '{"path": "model.onnx", "device": "cpu", "scope": "model",
        "batch_size": 1, "threads": null, "image_size": null, "picture": null, "tf32": true,
        "cuda_graph": false, "schedule": {}}'

`scope` says what one call covers:

    model         `session.run`: numpy in, numpy out
    end-to-end    picture file to label, through the file's own preprocessing; a batch is so many
                  pictures, decoded one after another
    device        the network alone on a GPU: input and output stay in its memory (IOBinding), and
                  the call ends when the GPU has
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.runtime.child import answer, base_versions, take_sample, timed_ms
from bench.runtime.machine import cpu_name, gpu_state
from bench.runtime.timing import Call

if TYPE_CHECKING:
    from bench.runtime.session import OpenedSession

MODEL_TIMED = "session.run, numpy in and out"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What will be timed, and the words that name it in the row."""

    call: Call
    timed: str


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Open the requested file, time it, and return the document's `result`.

    Raises:
        ModelFileError, DeviceError, DataError: it cannot be timed in this way.
        MeasurementError: a call failed.
    """
    # Before anything else imports numpy, which is a part of what an import costs.
    import_ms, _ = timed_ms(lambda: importlib.import_module("onnxruntime"))
    from bench.runtime.session import GpuOptions, open_session

    options = GpuOptions(tf32=request["tf32"], cuda_graph=request["cuda_graph"])
    load_ms, opened = timed_ms(
        lambda: open_session(
            request["path"], device=request["device"], threads=request["threads"], gpu=options
        )
    )
    with _prepared(opened, request) as prepared:
        sample = take_sample(prepared.call, request)
    gpu = _gpu_state(opened)
    return {
        "sample": {**sample, "import_ms": import_ms, "load_ms": load_ms, "gpu": gpu},
        "provider": opened.provider,
        "threads": opened.threads,
        "device_name": _device_name(opened),
        "machine": _machine(),
        "timed": prepared.timed,
        "options": {} if opened.device == "cpu" else opened.gpu.described(),
        "versions": {**_versions(opened), **({"driver": gpu["driver"]} if "driver" in gpu else {})},
    }


@contextmanager
def _prepared(opened: OpenedSession, request: dict[str, Any]) -> Iterator[Prepared]:
    if request["scope"] == "end-to-end":
        with tempfile.TemporaryDirectory() as folder:
            yield _end_to_end(opened, request, Path(folder))
    elif request["scope"] == "device":
        yield _on_device(opened, request)
    else:
        yield _model(opened, request)


def _model(opened: OpenedSession, request: dict[str, Any]) -> Prepared:
    from bench.runtime.inputs import random_input

    feeds = random_input(opened.session, request["batch_size"], request["image_size"])
    return Prepared(call=lambda: opened.session.run(None, feeds), timed=MODEL_TIMED)


def _end_to_end(opened: OpenedSession, request: dict[str, Any], folder: Path) -> Prepared:
    from PIL import Image

    from bench.runtime.inputs import made_picture
    from bench.runtime.predictor import Predictor

    predictor = Predictor.from_session(opened, request["path"])
    given, size = request["picture"], request["batch_size"]
    picture = Path(given) if given else made_picture(predictor.metadata.geometry, folder)
    predictor.predict(picture)  # a picture that cannot be read is told here, by name
    with Image.open(picture) as image:
        what = f"{image.format} of {image.width}x{image.height} px"
    return Prepared(
        call=lambda: predictor.predict([picture] * size, batch_size=size),
        timed=f"picture file to label ({'' if given else 'made '}{what})",
    )


def _on_device(opened: OpenedSession, request: dict[str, Any]) -> Prepared:
    import onnxruntime

    from bench.runtime.inputs import random_input

    session, binding = opened.session, opened.session.io_binding()
    feeds = random_input(session, request["batch_size"], request["image_size"])
    for name, pixels in feeds.items():
        value = onnxruntime.OrtValue.ortvalue_from_numpy(pixels, "cuda", 0)
        binding.bind_ortvalue_input(name, value)
    for output in session.get_outputs():
        shape = [size if isinstance(size, int) else request["batch_size"] for size in output.shape]
        element = _element_type(output.type)
        value = onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, element, "cuda", 0)
        binding.bind_ortvalue_output(output.name, value)

    def call() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    graph = ", CUDA graph" if request["cuda_graph"] else ""
    return Prepared(call=call, timed=f"network alone, in GPU memory, synchronised{graph}")


def _element_type(onnx_type: str) -> Any:
    import numpy as np

    return np.float16 if onnx_type == "tensor(float16)" else np.float32


def _gpu_state(opened: OpenedSession) -> dict[str, str]:
    """Taken right after the last call, before the clocks have fallen."""
    from bench.runtime.cuda import cuda_bus_id

    return {} if opened.device == "cpu" else gpu_state(cuda_bus_id())


def _device_name(opened: OpenedSession) -> str:
    from bench.runtime.cuda import cuda_device_name

    return cpu_name() if opened.device == "cpu" else cuda_device_name()


def _machine() -> str:
    from bench.runtime.machine import machine_name

    return machine_name()


def _versions(opened: OpenedSession) -> dict[str, str]:
    import onnxruntime

    versions = {**base_versions(), "onnxruntime": onnxruntime.__version__}
    if opened.device != "cpu":
        versions["cuda"] = onnxruntime.cuda_version
    return versions


if __name__ == "__main__":
    sys.exit(answer(sys.argv[1:], run))
