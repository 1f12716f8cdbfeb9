"""Whether CUDA really runs under ONNX Runtime, and what is missing when it does not.

ONNX Runtime lists CUDAExecutionProvider whenever it was built with it, and gives a CPU session
with no more than a log line when a library it needs cannot be loaded. Nothing here trusts the
list: the libraries are loaded one by one, and a small network with a convolution is run.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import functools
import importlib.util
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.errors import one_line

CUDA_PROVIDER = "CUDAExecutionProvider"
TENSORRT_PROVIDER = "TensorrtExecutionProvider"

# HEURISTIC asks cuDNN for its best guess; DEFAULT can be 50 times slower, EXHAUSTIVE tries all
# algorithms on the first call of every shape. TF32, which is on by default, keeps 10 bits of a
# product's factors: a float32 file would not give the numbers that it was verified to give.
CUDA_OPTIONS = {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"}

# x (1, 1, 4, 4) float32 -> Conv 3x3 -> y (1, 1, 2, 2): cuDNN is loaded only when a convolution
# runs, so a probe without one would prove too little.
PROBE_MODEL = base64.b64decode(
    "CAgSADqHAQoPCgF4CgF3EgF5IgRDb252EgVwcm9iZSozCAEIAQgDCAMQAUIBd0okAACAPwAAgD8AAIA/AACAPwAA"
    "gD8AAIA/AACAPwAAgD8AAIA/WhsKAXgSFgoUCAESEAoCCAEKAggBCgIIBAoCCARiGwoBeRIWChQIARIQCgIIAQoC"
    "CAEKAggCCgIIAkIECgAQDQ=="
)

_SILENT, _WARNINGS = 4, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class CudaLibrary:
    """A shared library that the CUDA provider loads, and the PyPI package that brings it."""

    soname: str
    package: str | None  # None: it comes with the NVIDIA driver


TENSORRT_LIBRARIES = ("libnvinfer.so.10", "libnvonnxparser.so.10")
DRIVER = CudaLibrary(soname="libcuda.so.1", package=None)


def required_libraries(cuda_version: str) -> tuple[CudaLibrary, ...]:
    """Libraries that a build of ONNX Runtime for `cuda_version` ("13.0") needs on Linux.

    Since CUDA 13 NVIDIA's packages carry no version suffix, except for cuDNN's.
    """
    major = int(cuda_version.split(".")[0])
    suffix = "" if major >= 13 else f"-cu{major}"
    cufft = 12 if major >= 13 else 11
    pairs = [
        (f"libcudart.so.{major}", f"nvidia-cuda-runtime{suffix}"),
        (f"libcublasLt.so.{major}", f"nvidia-cublas{suffix}"),
        (f"libcublas.so.{major}", f"nvidia-cublas{suffix}"),
        ("libcurand.so.10", f"nvidia-curand{suffix}"),
        (f"libcufft.so.{cufft}", f"nvidia-cufft{suffix}"),
        (f"libnvrtc.so.{major}", f"nvidia-cuda-nvrtc{suffix}"),
        ("libcudnn.so.9", f"nvidia-cudnn-cu{major}"),
    ]
    return (DRIVER, *(CudaLibrary(soname=soname, package=package) for soname, package in pairs))


def missing_libraries() -> tuple[CudaLibrary, ...]:
    """Libraries that cannot be loaded after ONNX Runtime has preloaded what pip installed.

    Without a driver this is the driver alone: the others would be of no use, and trying them
    takes a fifth of a second. A build without CUDA needs no other.
    """
    import onnxruntime

    if not _loads(DRIVER.soname):
        return (DRIVER,)
    if not onnxruntime.cuda_version:
        return ()
    preload()
    return tuple(
        library
        for library in required_libraries(onnxruntime.cuda_version)
        if not _loads(library.soname)
    )


def why_cuda_cannot_start() -> str | None:
    """Look for what the CUDA provider needs; None when all is there. Runs nothing on a GPU."""
    import onnxruntime

    if CUDA_PROVIDER not in onnxruntime.get_available_providers():
        return (
            f"onnxruntime {onnxruntime.__version__} was built without CUDA "
            "(pip install 'onnxruntime-gpu[cuda,cudnn]')"
        )
    missing = missing_libraries()
    if DRIVER in missing:
        return f"no NVIDIA driver: {DRIVER.soname} cannot be loaded"
    if missing:
        return f"cannot load {', '.join(library.soname for library in missing)}"
    return None


def why_tensorrt_cannot_start() -> str | None:
    """Look for what the TensorRT provider needs; None when all is there. Runs nothing.

    NVIDIA's wheels keep TensorRT in a package of its own, where the loader does not look: it is
    loaded from there, once for all.
    """
    import onnxruntime

    if TENSORRT_PROVIDER not in onnxruntime.get_available_providers():
        return f"onnxruntime {onnxruntime.__version__} was built without TensorRT"
    reason = why_cuda_cannot_start()
    if reason is not None:
        return reason
    missing = [name for name in TENSORRT_LIBRARIES if not _loads(_in_wheel(name))]
    if missing:
        major = onnxruntime.cuda_version.split(".")[0]
        return f"cannot load {', '.join(missing)} (pip install 'tensorrt-cu{major}<11')"
    return None


def _in_wheel(soname: str) -> str:
    """The file of a library in NVIDIA's TensorRT wheel, or its bare name where there is none."""
    wheel = importlib.util.find_spec("tensorrt_libs")
    folders = (wheel.submodule_search_locations if wheel else None) or []
    files = [Path(folder) / soname for folder in folders]
    return str(next((file for file in files if file.exists()), soname))


@functools.cache
def cuda_works() -> tuple[bool, str]:
    """Run a convolution on CUDA under ONNX Runtime. Returns (works, reason or what ran).

    The answer is kept for the life of the process.
    """
    reason = why_cuda_cannot_start()
    if reason is not None:
        return False, reason
    try:
        _run_probe()
    except Exception as error:  # ONNX Runtime's errors share no base but Exception
        return False, f"a convolution failed to run on CUDA: {one_line(error)}"
    return True, f"a convolution ran on {CUDA_PROVIDER}"


def _run_probe() -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _SILENT
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    with quiet_runtime():
        session = onnxruntime.InferenceSession(
            PROBE_MODEL,
            options,
            providers=[(CUDA_PROVIDER, CUDA_OPTIONS)],
            enable_fallback=0,
        )
    session.run(None, {"x": np.ones((1, 1, 4, 4), np.float32)})


def preload() -> None:
    """Let ONNX Runtime load the CUDA and cuDNN libraries that pip installed, without a word.

    It prints what it misses on standard output, which belongs to the caller's results;
    `missing_libraries` tells the same.
    """
    import onnxruntime

    with contextlib.redirect_stdout(io.StringIO()):
        onnxruntime.preload_dlls()


@contextlib.contextmanager
def quiet_runtime() -> Iterator[None]:
    """Keep ONNX Runtime's default logger silent; the errors themselves are raised all the same.

    A session's own log level does not cover the loading of a provider.
    """
    import onnxruntime

    onnxruntime.set_default_logger_severity(_SILENT)
    try:
        yield
    finally:
        onnxruntime.set_default_logger_severity(_WARNINGS)


def cuda_device_name() -> str:
    """Name of the first visible GPU, asked of the driver itself (CUDA driver API).

    Raises:
        OSError: there is no driver.
    """
    return _ask_driver("cuDeviceGetName", length=256, otherwise="unknown GPU")


def cuda_bus_id() -> str:
    """PCI bus id of the first visible GPU: `nvidia-smi` does not heed CUDA_VISIBLE_DEVICES.

    Raises:
        OSError: there is no driver.
    """
    return _ask_driver("cuDeviceGetPCIBusId", length=32, otherwise="0")


def _ask_driver(function: str, *, length: int, otherwise: str) -> str:
    """What a function `(char*, int length, CUdevice)` of the driver says of the first visible GPU.

    Raises:
        OSError: there is no driver.
    """
    driver = ctypes.CDLL(DRIVER.soname)
    device, said = ctypes.c_int(), ctypes.create_string_buffer(length)
    failed = (
        driver.cuInit(0)
        or driver.cuDeviceGet(ctypes.byref(device), 0)
        or getattr(driver, function)(said, length, device)
    )
    return otherwise if failed else said.value.decode()


def _loads(soname: str) -> bool:
    try:
        ctypes.CDLL(soname)
    except OSError:
        return False
    return True
