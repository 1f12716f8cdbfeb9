from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from bench.errors import InputError, ModelFileError
from bench.inspection import inspect_model
from bench.latency import plan as plan_module
from bench.latency.measuring import Network
from bench.latency.plan import LatencyPlan, chosen, thread_counts, whole_numbers
from bench.records import Engine, LatencyScope
from bench.runtime.metadata import ModelMetadata
from bench.runtime.preprocess import Geometry
from bench.runtime.session import Device
from tests.graphs import graph_model


def write_model(
    path: Path,
    *,
    dtype: type = np.float32,
    quantised: bool = False,
    metadata: ModelMetadata | None = None,
) -> Path:
    """A classifier of 4 x 4 pictures; with metadata, one whose graph is as bench makes them."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    inputs = {"pixels": (kind, ["n", 3, 4, 4])}
    nodes = [helper.make_node("Flatten", ["pixels"], ["flat"])]
    if metadata is not None:
        inputs = {"image": (TensorProto.UINT8, ["n", 4, 4, 3])}
        nodes = [
            helper.make_node("Cast", ["image"], ["float"], to=kind),
            helper.make_node("Flatten", ["float"], ["flat"]),
        ]
    nodes.append(helper.make_node("MatMul", ["flat", "weight"], ["scores"]))
    last = ["scores"]
    if quantised:
        nodes.append(helper.make_node("QuantizeLinear", ["scores", "one"], ["whole"]))
        last = ["whole", "one"]
    end = helper.make_node("DequantizeLinear" if quantised else "Identity", last, ["probabilities"])
    model = graph_model(
        [*nodes, end],
        inputs=inputs,
        outputs={"probabilities": (kind, ["n", 2])},
        weights={"weight": np.ones((48, 2), dtype), "one": np.ones((), np.float32)},
        props=metadata.to_props() if metadata else None,
    )
    onnx.save(model, path)
    return path


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    return write_model(tmp_path / "foreign.onnx")


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    metadata = ModelMetadata(
        classes=("cat", "dog"),
        geometry=Geometry(image_size=4),
        provenance={"architecture": "resnet18.a1_in1k"},
    )
    return write_model(tmp_path / "ours.onnx", metadata=metadata)


# --- the file ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "precision"),
    [({}, "fp32"), ({"dtype": np.float16}, "fp16"), ({"quantised": True}, "int8")],
)
def test_a_files_precision_is_read_from_its_graph(tmp_path, how, precision):
    assert inspect_model(write_model(tmp_path / "m.onnx", **how)).precision == precision


def test_weights_in_other_files_count_into_the_size(foreign, tmp_path):
    model = onnx.load(foreign)
    apart = tmp_path / "apart.onnx"
    onnx.save(model, apart, save_as_external_data=True, location="apart.data", size_threshold=0)
    data_bytes = (tmp_path / "apart.data").stat().st_size
    assert data_bytes >= 48 * 2 * 4
    assert inspect_model(apart).size_bytes == apart.stat().st_size + data_bytes


def test_what_is_no_model_is_refused(tmp_path):
    text = tmp_path / "text.onnx"
    text.write_text("no model")
    with pytest.raises(ModelFileError, match=r"text\.onnx is damaged or not an ONNX model"):
        inspect_model(text)


# --- the rows ---------------------------------------------------------------------------------


def rows_of(plan: LatencyPlan) -> list[tuple[object, ...]]:
    return [(job.device, job.scope, job.engine, job.threads, job.batch_size) for job in plan.jobs()]


def test_every_combination_is_a_row(ours):
    plan = LatencyPlan(
        models=(ours,),
        devices=("cpu", "cuda"),
        batch_sizes=(1, 8),
        threads=(1, 2),
        scopes=("model", "end-to-end"),
    )
    cpu = [
        ("cpu", scope, "onnxruntime", threads, batch)
        for scope in ("model", "end-to-end")
        for threads in (1, 2)
        for batch in (1, 8)
    ]
    cuda = [
        ("cuda", scope, "onnxruntime", None, batch)
        for scope in ("model", "end-to-end")
        for batch in (1, 8)
    ]
    assert rows_of(plan) == cpu + cuda


def test_device_resident_rows_are_the_gpus_alone(ours):
    plan = LatencyPlan(
        models=(ours,),
        devices=("cpu", "cuda"),
        batch_sizes=(1,),
        scopes=("model", "device"),
        cuda_graph=True,
    )
    assert [(job.device, job.scope, job.cuda_graph) for job in plan.jobs()] == [
        ("cpu", "model", False),
        ("cuda", "model", False),
        ("cuda", "device", True),
    ]


def test_rivals_stand_beside_the_row_that_they_are_compared_with(ours):
    plan = LatencyPlan(
        models=(ours,), batch_sizes=(1,), against=("torch", "torch-compile", "openvino")
    )
    jobs = plan.jobs()
    assert [(job.engine, job.arithmetic) for job in jobs] == [
        ("onnxruntime", None),
        ("torch", None),
        ("torch-compile", None),
        ("openvino", "f32"),
        ("openvino", None),
    ]
    assert jobs[1].network == Network(architecture="resnet18.a1_in1k", classes=2, image_size=4)


def test_openvino_takes_any_file(foreign):
    plan = LatencyPlan(models=(foreign,), batch_sizes=(1,), against=("openvino",))
    assert len(plan.jobs()) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"against": ("torch",)}, "no `bench` metadata, so the network that torch"),
        ({"scopes": ("end-to-end",)}, "no `bench` metadata, so how its pictures"),
        ({"scopes": ("device",)}, "device-resident rows are for a GPU"),
        ({"cuda_graph": True}, "give --timed device"),
        ({"picture": Path("a.png")}, "--picture is for end-to-end rows"),
        ({"scopes": ("end-to-end",), "picture": Path("gone.png")}, "gone.png is none"),
        ({"against": ("openvino",), "scopes": ("end-to-end",)}, "give --timed model"),
        ({"against": ("openvino",), "devices": ("cuda",)}, "give --device cpu"),
        ({"against": ("onnxruntime",)}, "ONNX Runtime is always measured"),
        ({"models": (Path("gone.onnx"),)}, r"gone\.onnx does not exist"),
    ],
)
def test_what_cannot_be_measured_is_told_before_anything_is(foreign, changes, message):
    with pytest.raises(InputError, match=message):
        LatencyPlan(**{"models": (foreign,), **changes}).jobs()


def test_a_file_of_ours_without_an_architecture_cannot_be_built_by_torch(tmp_path):
    metadata = ModelMetadata(classes=("cat", "dog"), geometry=Geometry(image_size=4))
    file = write_model(tmp_path / "early.onnx", metadata=metadata)
    with pytest.raises(ModelFileError, match="names no `architecture`"):
        LatencyPlan(models=(file,), against=("torch",)).jobs()


# --- the command line -------------------------------------------------------------------------


def test_lists_are_read_in_their_order_and_once():
    assert chosen("--device", "cuda, cpu,cuda", Device) == ("cuda", "cpu")
    assert chosen("--timed", "end-to-end", LatencyScope) == ("end-to-end",)
    assert whole_numbers("--batch", "8,1,8") == (8, 1)


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda: chosen("--device", "cpu,tpu", Device), "--device takes cpu, cuda, tensorrt"),
        (lambda: chosen("--against", "openvno", Engine), "did you mean `openvino`"),
        (lambda: whole_numbers("--batch", "1,many"), "--batch takes whole numbers"),
        (lambda: thread_counts("all"), "--threads takes whole numbers"),
    ],
)
def test_an_unknown_word_is_refused_with_what_is_known(read, message):
    with pytest.raises(InputError, match=message):
        read()


@pytest.mark.parametrize(
    ("text", "cores", "counts"),
    [
        (None, 8, (None,)),
        ("1,3", 8, (1, 3)),
        ("sweep", 1, (1,)),
        ("sweep", 2, (1, 2)),
        ("sweep", 6, (1, 2, 4, 6)),
        ("sweep", 8, (1, 2, 4, 8)),
    ],
)
def test_a_sweep_doubles_up_to_the_physical_cores(monkeypatch, text, cores, counts):
    monkeypatch.setattr(plan_module, "physical_cores", lambda: cores)
    assert thread_counts(text) == counts
