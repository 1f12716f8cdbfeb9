"""Choose number formats by a short measurement, because the fast one differs from CPU to CPU."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager

import torch
from torch import nn

from bench.errors import DeviceError
from bench.records import Arithmetic

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}

# A reduced precision must pay for itself by at least this factor.
_LEAST_GAIN = 1.2


def choose_device(asked: str) -> str:
    """Turn auto, cpu or cuda into cpu or cuda.

    Raises:
        DeviceError: CUDA was asked for and torch cannot use it.
    """
    if asked not in ("auto", "cpu", "cuda"):
        raise DeviceError(f"--device takes auto, cpu or cuda, not {asked!r}")
    works = torch.cuda.is_available()
    if asked == "cuda" and not works:
        raise DeviceError(
            "--device cuda was asked for, but torch finds no usable CUDA device: run `bench "
            "doctor` for the reason, or use --device cpu"
        )
    return "cuda" if works and asked != "cpu" else "cpu"


def choose_arithmetic(device: str) -> Arithmetic:
    """Time a small convolutional training step in each number format and take the fastest."""
    if device == "cuda":
        return Arithmetic(
            device="cuda",
            dtype="bfloat16" if torch.cuda.is_bf16_supported() else "float16",
            channels_last=True,
            reason="tensor cores: mixed precision and channels_last",
        )
    plain = _step_ms(torch.float32, channels_last=False)
    candidates = {
        ("float32", True): _step_ms(torch.float32, channels_last=True),
        ("bfloat16", True): _step_ms(torch.bfloat16, channels_last=True),
    }
    (dtype, channels_last), fastest = min(candidates.items(), key=lambda item: item[1])
    measured = ", ".join(
        f"{name} channels_last {ms:.0f} ms" for (name, _), ms in candidates.items()
    )
    reason = f"training step: float32 contiguous {plain:.0f} ms, {measured}"
    if plain / fastest < _LEAST_GAIN:
        dtype, channels_last = "float32", False
    return Arithmetic(
        device="cpu",
        dtype="bfloat16" if dtype == "bfloat16" else "float32",
        channels_last=channels_last,
        reason=reason,
    )


def autocast(arithmetic: Arithmetic) -> AbstractContextManager[object]:
    """A context in which matrix products use the chosen number format."""
    return torch.autocast(
        arithmetic.device,
        dtype=DTYPES[arithmetic.dtype] if arithmetic.dtype != "float32" else torch.bfloat16,
        enabled=arithmetic.dtype != "float32",
    )


def _step_ms(dtype: torch.dtype, *, channels_last: bool) -> float:
    """Median time of a forward and backward pass through a bottleneck block, after a warm-up."""
    block = nn.Sequential(
        nn.Conv2d(128, 64, 1, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.Conv2d(64, 128, 1, bias=False),
    )
    layout = torch.channels_last if channels_last else torch.contiguous_format
    block = block.to(memory_format=layout)
    images = torch.rand(16, 128, 28, 28).to(memory_format=layout).requires_grad_()
    times = []
    for _ in range(7):
        start = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype != torch.float32):
            loss = block(images).float().square().mean()
        loss.backward()
        times.append((time.perf_counter() - start) * 1e3)
    return sorted(times[2:])[2]
