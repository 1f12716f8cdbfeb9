"""Choose number formats by a short measurement, because the fast one differs from CPU to CPU."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch

from bench.errors import DeviceError
from bench.models.staged import StagedModel
from bench.records import Arithmetic, TrainingDevice
from bench.training.convolutions import FastConvolutions
from bench.training.memory import keep_freed_memory
from bench.training.recorded import Recorded

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}

_Kind = tuple[Literal["float32", "bfloat16", "float16"], bool]  # number format, channels_last

_PLAIN: _Kind = ("float32", False)
_FLOAT32_KINDS: tuple[_Kind, ...] = (_PLAIN, ("float32", True))
_BFLOAT16: _Kind = ("bfloat16", True)  # slower in the other layout, whatever network was tried
LAYOUTS = {False: torch.contiguous_format, True: torch.channels_last}  # by channels_last
_BATCH = 8
# A small one leaves most of a GPU idle in every format: it is for where a larger one does not fit.
_CUDA_BATCHES = (32, 8, 2)
_ROUNDS = 6
# Beside other programs, moments in which a step runs undisturbed are rare.
_ROUNDS_WHEN_BUSY = 12
# After two timed rounds, formats that took so many times as long as the fastest are done with; one
# step alone may have been held up by another program.
_OUT_OF_QUESTION = 1.5
# And so are those whose two least times differ by no more than this factor, on a quiet machine: on
# a busy one both may have been held up.
_AGREE = 1.05
# Steps that take long are timed often enough by then.
_ENOUGH_S = 20.0
# A departure from the plain format must pay for itself by at least this factor.
_LEAST_GAIN = 1.15


def choose_device(asked: str) -> TrainingDevice:
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


def choose_arithmetic(
    device: TrainingDevice, model: StagedModel, image_size: int, *, busy: bool
) -> Arithmetic:
    """Choose the number format and layout in which a backbone trains fastest, by trying them.

    bfloat16 is three times faster for plain convolutions on a processor that has it, gains less for
    depthwise ones, and is slow everywhere else; a GPU is as particular. On CUDA the model is moved
    there, and steps are also timed as recorded ones. Beside other programs, on a `busy` machine, a
    CPU's steps are timed more often.
    """
    if device == "cuda":
        return _choose_on_cuda(model, image_size)
    keep_freed_memory()
    kinds = (*_FLOAT32_KINDS, _BFLOAT16) if has_bfloat16() else _FLOAT32_KINDS
    times_ms = _step_times_ms(model, image_size, kinds, busy=busy)
    kind = _fastest(times_ms)
    measured = ", ".join(f"{_name(kind)} {ms:.0f} ms" for kind, ms in times_ms.items())
    left_out = "" if _BFLOAT16 in kinds else "; this processor has no bfloat16"
    return Arithmetic(
        device="cpu",
        dtype=kind[0],
        channels_last=kind[1],
        reason=f"a training step took: {measured}{left_out}",
    )


def has_bfloat16() -> bool:
    """Whether oneDNN computes in bfloat16 on this processor.

    Elsewhere torch does not hand it over at all, and one step takes so long (27 s instead of 0.9 of
    ResNet50 on a Zen 3) that trying it costs more than a trial.
    """
    return torch._C._has_mkldnn and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _choose_on_cuda(model: StagedModel, image_size: int) -> Arithmetic:
    model = model.to("cuda")
    for pictures in _CUDA_BATCHES:
        times = {
            kind: _cuda_step_times(kind, model, image_size, pictures) for kind in _cuda_kinds()
        }
        if any(math.isfinite(of_kind.least_ms) for of_kind in times.values()):
            break
    torch.cuda.empty_cache()  # trials run in other processes too
    # In order of preference: bfloat16 cannot overflow where float32 does not, float16 can.
    chosen = _PLAIN
    for kind, of_kind in times.items():
        gains = times[chosen].least_ms >= _LEAST_GAIN * of_kind.least_ms
        if gains and math.isfinite(of_kind.least_ms):
            chosen = kind
    measured = ", ".join(f"{_name(kind)} {of_kind}" for kind, of_kind in times.items())
    return Arithmetic(
        device="cuda",
        dtype=chosen[0],
        channels_last=chosen[1],
        reason=f"a training step of {pictures} pictures took: {measured}",
        graphs=times[chosen].recorded_ms < times[chosen].one_by_one_ms,
    )


def _cuda_kinds() -> list[_Kind]:
    """What tensor cores can do, and what every GPU can; half precision needs channels_last."""
    kinds: list[_Kind] = [_PLAIN, ("bfloat16", True), ("float16", True)]
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        kinds.remove(("bfloat16", True))
    return kinds


@dataclass(frozen=True, slots=True, kw_only=True)
class _StepTimes:
    """Least times of a training step, kernel by kernel and recorded; inf where it cannot be."""

    one_by_one_ms: float = math.inf
    recorded_ms: float = math.inf
    fault: str | None = None

    @property
    def least_ms(self) -> float:
        return min(self.one_by_one_ms, self.recorded_ms)

    def __str__(self) -> str:
        if self.fault is not None:
            return self.fault
        if math.isinf(self.recorded_ms):
            return f"{self.one_by_one_ms:.1f} ms, cannot be recorded"
        return f"{self.one_by_one_ms:.1f} ms, recorded {self.recorded_ms:.1f}"


def _fastest(times_ms: Mapping[_Kind, float]) -> _Kind:
    fastest = min(times_ms, key=lambda kind: times_ms[kind])
    return fastest if times_ms[_PLAIN] >= _LEAST_GAIN * times_ms[fastest] else _PLAIN


@contextmanager
def autocast(arithmetic: Arithmetic) -> Iterator[None]:
    """A context of the chosen number format in which slow convolutions go a faster way."""
    with (
        number_format(arithmetic),
        FastConvolutions() if arithmetic.device == "cpu" else nullcontext(),
    ):
        yield


def number_format(arithmetic: Arithmetic) -> AbstractContextManager[None]:
    """A context in which matrix products and convolutions use the chosen number format."""
    if arithmetic.dtype == "float32":
        return nullcontext()
    return torch.autocast(arithmetic.device, DTYPES[arithmetic.dtype])


def _step_times_ms(
    model: StagedModel, image_size: int, kinds: Sequence[_Kind], *, busy: bool
) -> dict[_Kind, float]:
    """Least time of a forward and backward pass in each format, measured in turns."""
    pixels = torch.rand(_BATCH, 3, image_size, image_size)
    in_layout = {
        channels_last: copy.deepcopy(model).to(memory_format=LAYOUTS[channels_last]).train()
        for channels_last in {kind[1] for kind in kinds}
    }
    networks = {kind: in_layout[kind[1]] for kind in kinds}
    for kind, network in networks.items():
        _step_ms(kind, network, pixels)  # pays for choosing and packing
    times_ms = {kind: [_step_ms(kind, network, pixels)] for kind, network in networks.items()}
    spent_ms = 0.0
    for timed in range(1, _ROUNDS_WHEN_BUSY if busy else _ROUNDS):
        limit_ms = _OUT_OF_QUESTION * min(map(min, times_ms.values()))
        for kind, network in networks.items():
            least_ms, *others_ms = sorted(times_ms[kind])
            agree = not busy and others_ms and others_ms[0] <= _AGREE * least_ms
            settled = timed > 1 and (agree or least_ms > limit_ms)
            if not settled and spent_ms < _ENOUGH_S * 1e3:
                took_ms = _step_ms(kind, network, pixels)
                spent_ms += took_ms
                times_ms[kind].append(took_ms)
    # What else the machine does can only make a step slower.
    return {kind: min(of_kind) for kind, of_kind in times_ms.items()}


def _step_ms(kind: _Kind, network: StagedModel, pixels: torch.Tensor) -> float:
    images = pixels.contiguous(memory_format=LAYOUTS[kind[1]])
    start = time.perf_counter()
    _forward_and_backward(network, images, _arithmetic("cpu", kind))
    return (time.perf_counter() - start) * 1e3


def _forward_and_backward(
    network: StagedModel, images: torch.Tensor, arithmetic: Arithmetic
) -> torch.Tensor:
    """Run one pass either way; return the loss, of no meaning, without its gradient."""
    with autocast(arithmetic):
        logits = network(images)
    loss: torch.Tensor = logits.float().square().mean()
    torch.autograd.backward(loss)
    return loss.detach()


def _arithmetic(device: TrainingDevice, kind: _Kind) -> Arithmetic:
    return Arithmetic(device=device, dtype=kind[0], channels_last=kind[1], reason="")


def _cuda_step_times(kind: _Kind, model: StagedModel, image_size: int, pictures: int) -> _StepTimes:
    try:
        return _timed_on_cuda(kind, model, image_size, pictures)
    except torch.OutOfMemoryError:
        return _StepTimes(fault="does not fit")


def _timed_on_cuda(kind: _Kind, model: StagedModel, image_size: int, pictures: int) -> _StepTimes:
    network = copy.deepcopy(model).to(memory_format=LAYOUTS[kind[1]]).train()
    pixels = 255.0 * torch.rand(pictures, 3, image_size, image_size, device="cuda")
    images = pixels.contiguous(memory_format=LAYOUTS[kind[1]])
    step = partial(_forward_and_backward, network, arithmetic=_arithmetic("cuda", kind))
    if not step(images).isfinite():
        return _StepTimes(fault="overflows")
    recorded = Recorded(step)
    one_by_one_ms, recorded_ms = _least_ms(step, images), _least_ms(recorded, images)
    return _StepTimes(
        one_by_one_ms=one_by_one_ms, recorded_ms=math.inf if recorded.refused else recorded_ms
    )


def _least_ms(step: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor) -> float:
    times_ms = []
    for _ in range(2 * _ROUNDS):  # the first ones choose algorithms, and are recorded
        torch.cuda.synchronize()
        start = time.perf_counter()
        step(images)
        torch.cuda.synchronize()
        times_ms.append((time.perf_counter() - start) * 1e3)
    return min(times_ms[_ROUNDS:])


def _name(kind: _Kind) -> str:
    return f"{kind[0]}{' channels_last' if kind[1] else ''}"
