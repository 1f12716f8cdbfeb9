from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.errors import DeviceError, InputError, ModelFileError
from bench.runtime import session as session_module
from bench.runtime.cuda import cuda_works
from bench.runtime.machine import physical_cores
from bench.runtime.session import GpuOptions, open_session, resolve_device

needs_no_cuda = pytest.mark.skipif(cuda_works()[0], reason="CUDA works here")


def test_a_cpu_session_says_what_runs_it(make_model):
    opened = open_session(make_model(), device="cpu", threads=1)
    assert opened.provider == "CPUExecutionProvider"
    assert opened.threads == 1
    assert "MatMul" in opened.cpu_ops


def test_threads_default_to_the_physical_cores(make_model):
    opened = open_session(make_model(), device="cpu")
    assert opened.threads == physical_cores()
    assert opened.session.get_session_options().intra_op_num_threads == physical_cores()


@pytest.mark.parametrize(("spinning", "entry"), [(True, "1"), (False, "0")])
def test_spinning_is_what_was_asked(make_model, spinning, entry):
    opened = open_session(make_model(), device="cpu", spinning=spinning)
    options = opened.session.get_session_options()
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == entry


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "does not exist"),
        (lambda path: (path.unlink(), path.mkdir()), "is a folder"),
        (lambda path: path.write_bytes(b""), "is empty"),
    ],
)
def test_a_file_that_is_not_there_is_refused(make_model, damage, message, device):
    path: Path = make_model()
    damage(path)
    with pytest.raises(ModelFileError, match=message):
        open_session(path, device=device)


@pytest.mark.parametrize(
    "content", [lambda whole: whole[:100], lambda whole: whole[:-20], lambda whole: b"not a model"]
)
def test_a_file_that_is_not_a_whole_model_is_refused(make_model, content, capfd):
    path: Path = make_model()
    path.write_bytes(content(path.read_bytes()))
    with pytest.raises(ModelFileError, match="damaged or not an ONNX model"):
        open_session(path, device="cpu")
    assert capfd.readouterr() == ("", "")


@needs_no_cuda
def test_cuda_asked_for_and_absent_is_an_error_and_quiet(make_model, capfd):
    with pytest.raises(DeviceError, match="bench doctor"):
        open_session(make_model(), device="cuda")
    assert capfd.readouterr() == ("", "")


@needs_no_cuda
def test_a_cpu_session_in_place_of_cuda_is_refused(make_model, monkeypatch, capfd):
    # As on a machine whose libraries all load, and whose provider then fails to start.
    monkeypatch.setattr(session_module, "why_cuda_cannot_start", lambda: None)
    with pytest.raises(DeviceError, match="gave a session on CPUExecutionProvider"):
        open_session(make_model(), device="cuda")
    assert capfd.readouterr() == ("", "")


def fake_session(
    *assigned: tuple[str, str], provider: str = "CUDAExecutionProvider"
) -> SimpleNamespace:
    """A GPU session, which this machine may not have, with (operator, provider) pairs."""
    subgraphs = [
        SimpleNamespace(ep_name=place, get_nodes=lambda op=op: [SimpleNamespace(op_type=op)])
        for op, place in assigned
    ]
    return SimpleNamespace(
        get_providers=lambda: [provider, "CPUExecutionProvider"],
        get_provider_graph_assignment_info=lambda: subgraphs,
    )


def test_shapes_on_the_cpu_are_right_in_a_cuda_session():
    session = fake_session(("Conv", "CUDAExecutionProvider"), ("Shape", "CPUExecutionProvider"))
    proved = session_module._prove(session, "cuda", 1)
    assert proved.provider == "CUDAExecutionProvider"
    assert proved.cpu_ops == {"Shape"}


@pytest.mark.parametrize("operator", ["Conv", "MatMul", "Gemm"])
def test_heavy_work_on_the_cpu_is_not_a_cuda_session(operator):
    session = fake_session(("Add", "CUDAExecutionProvider"), (operator, "CPUExecutionProvider"))
    with pytest.raises(DeviceError, match=f"left {operator} of this model on CPUExecution"):
        session_module._prove(session, "cuda", 1)


def test_work_that_tensorrt_leaves_to_cuda_is_not_a_tensorrt_session():
    session = fake_session(("Conv", "CUDAExecutionProvider"), provider="TensorrtExecutionProvider")
    with pytest.raises(DeviceError, match=r"TensorRT .* left Conv of this model on CUDAExecution"):
        session_module._prove(session, "tensorrt", 1)


def test_tf32_and_graphs_are_said_to_cuda_in_so_many_words():
    assert GpuOptions().cuda() == {
        "cudnn_conv_algo_search": "HEURISTIC",
        "use_tf32": "0",
        "enable_cuda_graph": "0",
        "prefer_nhwc": "0",
    }
    rounded = GpuOptions(tf32=True, cuda_graph=True)
    assert (rounded.cuda()["use_tf32"], rounded.cuda()["enable_cuda_graph"]) == ("1", "1")
    assert rounded.described() == {"tf32": "on", "cuda_graph": "on", "nhwc": "off"}


@pytest.mark.parametrize(
    ("device", "precision", "nhwc"),
    [
        ("cuda", "fp16", ["0", "1"]),
        ("cuda", "int8", ["0"]),
        ("cuda", None, ["0"]),
        ("cpu", "fp16", [None]),
    ],
)
def test_an_fp16_file_is_opened_with_colours_last_on_cuda(
    make_model, metadata, monkeypatch, device, precision, nhwc
):
    """The session is one of the CPU: what it would be asked of CUDA is noted."""
    provenance = {} if precision is None else {"precision": precision}
    path = make_model(props=replace(metadata, provenance=provenance).to_props())
    asked = []

    def on_the_cpu(device, gpu):
        asked.append(gpu.cuda()["prefer_nhwc"] if device == "cuda" else None)
        return ["CPUExecutionProvider"]

    monkeypatch.setattr(session_module, "why_cuda_cannot_start", lambda: None)
    monkeypatch.setattr(session_module, "_providers", on_the_cpu)
    monkeypatch.setattr(
        session_module,
        "_PROVIDERS",
        {"cpu": "CPUExecutionProvider", "cuda": "CPUExecutionProvider"},
    )

    opened = open_session(path, device=device)

    assert asked == nhwc, "what a file is in is known once it is open"
    assert opened.gpu.nhwc == (nhwc[-1] == "1")


def test_tensorrt_has_no_switch_for_tf32():
    assert GpuOptions(tf32=True, cuda_graph=True).tensorrt() == {"trt_cuda_graph_enable": "1"}
    with pytest.raises(InputError, match="give --tf32"):
        GpuOptions().tensorrt()


@needs_no_cuda
def test_tensorrt_asked_for_and_absent_is_an_error(make_model):
    with pytest.raises(DeviceError, match="TensorRT was asked for and does not run here"):
        open_session(make_model(), device="tensorrt")


@pytest.mark.parametrize(
    ("asked", "works", "device"),
    [("cpu", True, "cpu"), ("auto", True, "cuda"), ("auto", False, "cpu"), ("cuda", True, "cuda")],
)
def test_auto_takes_cuda_only_where_it_works(monkeypatch, asked, works, device):
    monkeypatch.setattr(session_module, "cuda_works", lambda: (works, "because"))
    assert resolve_device(asked) == device


def test_cuda_asked_for_by_name_must_work(monkeypatch):
    monkeypatch.setattr(session_module, "cuda_works", lambda: (False, "no NVIDIA driver"))
    with pytest.raises(DeviceError, match="no NVIDIA driver"):
        resolve_device("cuda")
