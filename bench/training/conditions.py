"""What the last bits of a training's numbers depend on besides its plan: here, and as it was then.

A sum of many numbers depends on the order in which they are added, which libraries choose by the
processor, by the number of threads and by their version.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from threadpoolctl import ThreadpoolController

from bench.records import Conditions
from bench.runtime.machine import cpu_name
from bench.workspace import package_versions

# Raised when the code changes the numbers of a training, be it in their last bits: what was
# trained before is then no longer taken for what would be trained now.
NUMERICS = "6"

_PACKAGES = ("torch", "timm", "numpy", "scipy", "scikit-learn", "pillow")


def describe_conditions(device: str) -> Conditions:
    """Describe what this process would train under at this moment, on cpu or cuda."""
    return Conditions(
        cpu=_cpu_name(),
        instructions=torch.backends.cpu.get_cpu_capability(),
        threads=torch.get_num_threads(),
        blas_threads=_blas_threads(),
        gpu=torch.cuda.get_device_name() if device == "cuda" else None,
        versions=_versions(),
    )


@contextmanager
def threads_as(conditions: Conditions) -> Iterator[None]:
    """Compute with as many threads as those conditions say, within the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(conditions.threads)
    try:
        with _pools().limit(limits=conditions.blas_threads, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let one thread do all products of NumPy and SciPy within the block."""
    with _pools().limit(limits=1, user_api="blas"):
        yield


def _blas_threads() -> int:
    pools = _pools().select(user_api="blas").info()
    return max((int(pool["num_threads"]) for pool in pools), default=1)


@cache
def _pools() -> ThreadpoolController:
    """The thread pools of the libraries that are loaded, which takes a while to find."""
    import sklearn.linear_model  # noqa: F401  # so that numpy's and SciPy's are among them

    return ThreadpoolController()


@cache
def _cpu_name() -> str:
    return cpu_name()


@cache
def _versions() -> dict[str, str]:
    ours = {"python": platform.python_version(), "bench's training": NUMERICS}
    return ours | package_versions(_PACKAGES)
