"""Opening an ONNX file under ONNX Runtime, with the provider that was asked for or an error."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bench.errors import DeviceError, InputError, ModelFileError, one_line
from bench.runtime.cuda import (
    CUDA_OPTIONS,
    CUDA_PROVIDER,
    TENSORRT_PROVIDER,
    cuda_works,
    preload,
    quiet_runtime,
    why_cuda_cannot_start,
    why_tensorrt_cannot_start,
)
from bench.runtime.machine import physical_cores
from bench.runtime.metadata import ModelMetadata, TensorSignature

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, SessionOptions

Device = Literal["cpu", "cuda", "tensorrt"]

CPU_PROVIDER = "CPUExecutionProvider"
_PROVIDERS: dict[Device, str] = {
    "cpu": CPU_PROVIDER,
    "cuda": CUDA_PROVIDER,
    "tensorrt": TENSORRT_PROVIDER,
}
_LABELS: dict[Device, str] = {"cpu": "the CPU", "cuda": "CUDA", "tensorrt": "TensorRT"}
_ERRORS_ONLY = 3

# The work of a network. Shape, Gather and their like belong on the CPU even in a CUDA session.
_HEAVY_OPS = frozenset(
    {"Attention", "Conv", "FusedConv", "FusedMatMul", "Gemm", "MatMul", "MultiHeadAttention"}
    | {"NhwcConv", "NhwcFusedConv", "QGemm", "QLinearConv", "QLinearMatMul", "ConvInteger"}
    | {"FusedGemm", "MatMulInteger"}
)

# Classes of ONNX Runtime that tell of a provider which failed, not of a file which is damaged.
_PROVIDER_ERRORS = frozenset({"EPFail", "EngineError", "RuntimeException"})


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuOptions:
    """What a GPU session may do; a CPU session ignores it.

    tf32: round the factors of 32-bit products to 10 bits of mantissa, as ONNX Runtime does unless
        it is told not to. A file gives the numbers that it was verified to give without it.
    cuda_graph: record the network's kernels once and replay them; input and output must stay at
        one address (IOBinding) and of one shape.
    nhwc: let convolutions see colours last, as tensor cores do with 16-bit numbers; set for
        FP16 files by `open_session`.
    """

    tf32: bool = False
    cuda_graph: bool = False
    nhwc: bool = False

    def cuda(self) -> dict[str, str]:
        """Options of ONNX Runtime's CUDA provider."""
        return {
            **CUDA_OPTIONS,
            "use_tf32": str(int(self.tf32)),
            "enable_cuda_graph": str(int(self.cuda_graph)),
            "prefer_nhwc": str(int(self.nhwc)),
        }

    def tensorrt(self) -> dict[str, str]:
        """Options of ONNX Runtime's TensorRT provider, which has none for TF32.

        Raises:
            InputError: TF32 is to be off.
        """
        if not self.tf32:
            raise InputError("TensorRT rounds to TF32 and cannot be told not to: give --tf32")
        return {"trt_cuda_graph_enable": str(int(self.cuda_graph))}

    def described(self) -> dict[str, str]:
        """The options as a row states them."""
        words = {True: "on", False: "off"}
        return {
            "tf32": words[self.tf32],
            "cuda_graph": words[self.cuda_graph],
            "nhwc": words[self.nhwc],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedSession:
    """A live session, and what was proved about it.

    provider: the execution provider that runs the network's heavy operators.
    cpu_ops: operator types that run on the CPU (all of them in a CPU session).
    metadata: what the file says of itself, if `bench` made it; the graph keeps its promises.
    gpu: the options that it was opened with; a CPU session heeds none.
    """

    session: InferenceSession
    device: Device
    provider: str
    threads: int
    cpu_ops: frozenset[str]
    metadata: ModelMetadata | None = None
    gpu: GpuOptions = field(default_factory=GpuOptions)


def open_session(
    path: str | Path,
    *,
    device: Device,
    threads: int | None = None,
    spinning: bool = True,
    gpu: GpuOptions | None = None,
) -> OpenedSession:
    """Open an ONNX file on one device, and prove that the device runs it.

    A GPU session is accepted only when ONNX Runtime's own record of the partitioned graph
    (`session.record_ep_graph_assignment_info`) puts every convolution and matrix product on
    the provider asked for. `session.disable_cpu_ep_fallback` is not used: it refuses every graph
    with a `Shape` node, which ONNX Runtime rightly keeps on the CPU.

    threads: intra-operator threads; None takes one for each physical core.
    spinning: whether idle threads wait busily; it makes a lone session faster, and slows
        whatever else the process does.

    Raises:
        ModelFileError: the file is missing, empty, truncated, or not an ONNX model, reaches for
            weights that are missing or lie outside its folder, or carries `bench` metadata that
            is damaged or that its graph contradicts.
        DeviceError: a GPU was asked for and cannot run this model here.
    """
    check_file(Path(path))
    if device != "cpu":
        reason = why_cuda_cannot_start() if device == "cuda" else why_tensorrt_cannot_start()
        if reason is not None:
            raise _device_error(device, reason)
        preload()
    options = _options(threads or physical_cores(), spinning)
    opened = _open(Path(path), device, options, gpu or GpuOptions())
    if device == "cuda" and _is_fp16(opened.metadata) and not opened.gpu.nhwc:
        # That it is FP16 is known of a file once it is open.
        opened = _open(Path(path), device, options, replace(opened.gpu, nhwc=True))
    return opened


def _open(path: Path, device: Device, options: SessionOptions, gpu: GpuOptions) -> OpenedSession:
    import onnxruntime

    try:
        with quiet_runtime():
            session = onnxruntime.InferenceSession(
                str(path), options, providers=_providers(device, gpu), enable_fallback=0
            )
    except Exception as error:  # ONNX Runtime's errors share no base but Exception
        raise _open_error(path, device, error) from error
    try:
        metadata = _read_metadata(session, path)
        proved = _prove(session, device, options.intra_op_num_threads)
    except UnicodeDecodeError as error:  # names and metadata are bytes until they are asked for
        raise damaged(path, error) from error
    return replace(proved, metadata=metadata, gpu=gpu)


def resolve_device(device: Literal["auto"] | Device) -> Device:
    """Turn "auto" into "cuda" where a convolution really runs on it, otherwise into "cpu".

    Raises:
        DeviceError: "cuda" was asked for and does not work.
    """
    if device in ("cpu", "tensorrt"):
        return device
    works, reason = cuda_works()
    if not works and device == "cuda":
        raise _device_error(device, reason)
    return "cuda" if works else "cpu"


def check_file(path: Path) -> None:
    """Refuse a path that holds nothing.

    Raises:
        ModelFileError: it does not exist, is a folder, or is empty.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise ModelFileError(f"a model must be an ONNX file: {path} {what}")
    if path.stat().st_size == 0:
        raise ModelFileError(f"{path} is empty: export or copy the model again")


def _providers(device: Device, gpu: GpuOptions) -> list[Any]:
    if device == "cpu":
        return [CPU_PROVIDER]
    cuda = (CUDA_PROVIDER, gpu.cuda())
    return [cuda] if device == "cuda" else [(TENSORRT_PROVIDER, gpu.tensorrt()), cuda]


def _is_fp16(metadata: ModelMetadata | None) -> bool:
    return metadata is not None and metadata.provenance.get("precision") == "fp16"


def _options(threads: int, spinning: bool) -> SessionOptions:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = _ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return options


def _open_error(path: Path, device: Device, error: Exception) -> InputError:
    reason = one_line(error)
    if "External data" in reason:
        return weights_elsewhere(path, reason)
    provider_failed = isinstance(error, RuntimeError) or type(error).__name__ in _PROVIDER_ERRORS
    if device != "cpu" and provider_failed:
        return _device_error(device, reason)
    return damaged(path, error)


def weights_elsewhere(path: Path, reason: str) -> ModelFileError:
    """The error of a file whose weights lie in another one that cannot be used."""
    return ModelFileError(
        f"{path} keeps weights in another file, which is missing or outside its folder "
        f"({reason}): put the file there, or export the model as one file"
    )


def damaged(path: Path, error: Exception) -> ModelFileError:
    """The error of a file that is no ONNX model, or no longer one."""
    return ModelFileError(
        f"{path} is damaged or not an ONNX model ({one_line(error)}): export or copy it again"
    )


def _read_metadata(session: InferenceSession, path: str | Path) -> ModelMetadata | None:
    metadata = ModelMetadata.from_props(session.get_modelmeta().custom_metadata_map, path)
    if metadata is None:
        return None
    inputs, outputs = (
        [TensorSignature(tensor.name, tensor.type, tensor.shape) for tensor in tensors]
        for tensors in (session.get_inputs(), session.get_outputs())
    )
    metadata.check_signature(inputs, outputs, path)
    return metadata


def _device_error(device: Device, reason: str) -> DeviceError:
    return DeviceError(
        f"{_LABELS[device]} was asked for and does not run here: {reason}; "
        "`bench doctor` tells what to install, `--device cpu` does without"
    )


def _prove(session: InferenceSession, device: Device, threads: int) -> OpenedSession:
    wanted = _PROVIDERS[device]
    provider = session.get_providers()[0]
    if provider != wanted:
        raise _device_error(device, f"ONNX Runtime gave a session on {provider}")
    assigned = [
        (node.op_type, subgraph.ep_name)
        for subgraph in session.get_provider_graph_assignment_info()
        for node in subgraph.get_nodes()
    ]
    stranded = {(op, ep) for op, ep in assigned if op in _HEAVY_OPS and ep != wanted}
    if device != "cpu" and stranded:
        operators = ", ".join(sorted({op for op, _ in stranded}))
        places = ", ".join(sorted({ep for _, ep in stranded}))
        raise _device_error(device, f"ONNX Runtime left {operators} of this model on {places}")
    return OpenedSession(
        session=session,
        device=device,
        provider=provider,
        threads=threads,
        cpu_ops=frozenset(op for op, ep in assigned if ep == CPU_PROVIDER),
    )
