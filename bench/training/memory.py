"""Memory of the training device: what may be kept there, and what to do where it runs out."""

from __future__ import annotations

import ctypes
import gc
import platform

import torch

# Names of mallopt(3).
_M_MMAP_MAX, _M_TRIM_THRESHOLD = -4, -1
# What torch says in a plain RuntimeError: on a CPU, of CUDA beside its allocator, of its libraries.
_NO_ROOM = (
    "allocate memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, to use it again at once.

    By default the C library hands each large block back to the system, which then maps and clears
    it anew, page by page, in every step: a third of a step's time where activations are large.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def resident_bytes(device: str) -> int:
    """How much of stored activations may be kept whole in the training device's memory."""
    if device == "cuda":
        free, _ = torch.cuda.mem_get_info()
        return free // 2
    return 128 << 20  # the page cache keeps the rest at hand


def release_memory(device: str) -> None:
    """Give back what failed or finished work left in the training device's memory."""
    gc.collect()  # it may lie in reference cycles
    if device == "cuda":
        torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the training device's or the machine's memory ran out."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_ROOM)
    )
