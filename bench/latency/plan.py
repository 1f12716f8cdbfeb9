"""From what was asked for to the rows that will be measured: every combination that makes sense."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from bench.errors import InputError, ModelFileError, did_you_mean
from bench.inspection import Inspection, inspect_model
from bench.latency.measuring import LatencyJob, Network
from bench.records import Engine, LatencyScope
from bench.runtime.machine import physical_cores
from bench.runtime.session import Device

_TORCH: tuple[Engine, ...] = ("torch", "torch-compile")


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyPlan:
    """What is to be measured of every model.

    threads: None takes one for each physical core; counts are the CPU's, a GPU row has the default.
    against: engines that are timed beside ONNX Runtime, on the network alone.
    """

    models: tuple[Path, ...]
    devices: tuple[Device, ...] = ("cpu",)
    batch_sizes: tuple[int, ...] = (1, 8)
    threads: tuple[int | None, ...] = (None,)
    scopes: tuple[LatencyScope, ...] = ("model",)
    against: tuple[Engine, ...] = ()
    picture: Path | None = None
    image_size: int | None = None
    tf32: bool = False
    cuda_graph: bool = False

    def jobs(self) -> tuple[LatencyJob, ...]:
        """The rows to be measured, those of one model together.

        Raises:
            ModelFileError: a file is missing or damaged, or not what its rows need.
            InputError: a combination that cannot be measured.
        """
        self._check()
        return tuple(job for model in self.models for job in self._jobs_of(model))

    def _check(self) -> None:
        if "onnxruntime" in self.against:
            raise InputError("--against adds other engines: ONNX Runtime is always measured")
        if self.picture is not None and "end-to-end" not in self.scopes:
            raise InputError("--picture is for end-to-end rows: give --timed end-to-end")
        if self.picture is not None and not self.picture.is_file():
            raise InputError(f"--picture must be a file, {self.picture} is none")
        if self.cuda_graph and "device" not in self.scopes:
            raise InputError(
                "a CUDA graph needs input and output at fixed addresses: give --timed device"
            )
        if self.against and "model" not in self.scopes:
            raise InputError("--against compares the network alone: give --timed model")
        if "openvino" in self.against and "cpu" not in self.devices:
            raise InputError("OpenVINO is measured on the CPU: give --device cpu")

    def _jobs_of(self, model: Path) -> Iterator[LatencyJob]:
        described = inspect_model(model)
        if "end-to-end" in self.scopes and described.bench is None:
            raise ModelFileError(
                f"{model} carries no `bench` metadata, so how its pictures are prepared is "
                "unknown: measure it with --timed model"
            )
        for device in self.devices:
            threads_here = self.threads if device == "cpu" else (None,)
            for scope, threads, batch_size in itertools.product(
                self._scopes_on(device), threads_here, self.batch_sizes
            ):
                job = LatencyJob(
                    path=model,
                    model=f"{model.absolute().parent.name}/{model.name}",
                    architecture_key=str(model),
                    device=device,
                    batch_size=batch_size,
                    threads=threads,
                    precision=described.precision,
                    size_bytes=described.size_bytes,
                    scope=scope,
                    image_size=self.image_size,
                    picture=self.picture if scope == "end-to-end" else None,
                    tf32=self.tf32,
                    cuda_graph=self.cuda_graph and scope == "device",
                )
                yield job
                if scope == "model":
                    yield from self._rivals(job, described)

    def _scopes_on(self, device: Device) -> tuple[LatencyScope, ...]:
        """A CPU beside a GPU has no device-resident rows; alone, it is told that it has none."""
        if device != "cpu" or self.devices == ("cpu",):
            return self.scopes
        return tuple(scope for scope in self.scopes if scope != "device")

    def _rivals(self, job: LatencyJob, described: Inspection) -> Iterator[LatencyJob]:
        for engine in self.against:
            if engine == "openvino" and job.device == "cpu":
                yield replace(job, engine=engine, arithmetic="f32")
                yield replace(job, engine=engine)
            elif engine in _TORCH and job.device in ("cpu", "cuda"):
                yield replace(job, engine=engine, network=_network(Path(job.path), described))


def _network(model: Path, described: Inspection) -> Network:
    if described.bench is None:
        raise ModelFileError(
            f"{model} carries no `bench` metadata, so the network that torch would have to build "
            "is unknown: --against torch needs a file that bench made; --against openvino does not"
        )
    architecture = described.bench.get("provenance", {}).get("architecture")
    if not isinstance(architecture, str):
        raise ModelFileError(
            f"the `bench` metadata of {model} names no `architecture`, so the network that torch "
            "would have to build is unknown: promote the study again, or leave torch out"
        )
    return Network(
        architecture=architecture,
        classes=len(described.bench["classes"]),
        image_size=described.bench["geometry"]["image_size"],
    )


# --- what stands on the command line ----------------------------------------------------------


def chosen(option: str, text: str, kind: object) -> tuple[Any, ...]:
    """Read a list such as ``cpu,cuda`` whose words are those of a `Literal`, `kind`.

    Raises:
        InputError: an unknown word.
    """
    known = get_args(kind)
    words = _words(text)
    for word in words:
        if word not in known:
            raise InputError(
                f"{option} takes {', '.join(known)} (several with commas), not {word!r}"
                f"{did_you_mean(word, known)}"
            )
    return words


def whole_numbers(option: str, text: str) -> tuple[int, ...]:
    """Read a list such as ``1,8,32``.

    Raises:
        InputError: something else than whole numbers.
    """
    try:
        return tuple(int(word) for word in _words(text))
    except ValueError:
        raise InputError(f"{option} takes whole numbers such as 1,8, not {text!r}") from None


def thread_counts(text: str | None) -> tuple[int | None, ...]:
    """Read ``1,2,4``, or ``sweep``: powers of two below the physical cores, and those.

    Raises:
        InputError: something else.
    """
    if text is None:
        return (None,)
    if text != "sweep":
        return whole_numbers("--threads", text)
    most = physical_cores()
    powers = [2**power for power in range(most.bit_length()) if 2**power < most]
    return (*powers, most)


def _words(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word.strip() for word in text.split(",")))
