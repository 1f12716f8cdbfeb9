import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from bench.runtime import cuda


@pytest.fixture(autouse=True)
def _fresh_answer():
    cuda.cuda_works.cache_clear()
    yield
    cuda.cuda_works.cache_clear()


@pytest.fixture
def loadable(monkeypatch):
    """Make exactly the named libraries loadable, and preloading do nothing."""

    def set_loadable(*missing: str) -> None:
        monkeypatch.setattr(cuda, "_loads", lambda soname: soname not in missing)
        monkeypatch.setattr(cuda, "preload", lambda: None)
        monkeypatch.setattr(onnxruntime, "cuda_version", "13.0")
        monkeypatch.setattr(
            onnxruntime, "get_available_providers", lambda: [cuda.CUDA_PROVIDER, "CPU"]
        )

    return set_loadable


def test_the_probe_is_one_convolution_which_makes_cudnn_load():
    weight = numpy_helper.from_array(np.ones((1, 1, 3, 3), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        "probe",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 2, 2])],
        [weight],
    )
    assert onnx.load_from_string(cuda.PROBE_MODEL).graph == graph


def test_the_probe_runs():
    session = onnxruntime.InferenceSession(cuda.PROBE_MODEL, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": np.ones((1, 1, 4, 4), np.float32)})
    assert y.tolist() == [[[[9.0, 9.0], [9.0, 9.0]]]]


@pytest.mark.parametrize(
    ("version", "soname", "package"),
    [
        ("13.0", "libcublas.so.13", "nvidia-cublas"),
        ("13.0", "libcudnn.so.9", "nvidia-cudnn-cu13"),
        ("13.0", "libcufft.so.12", "nvidia-cufft"),
        ("13.0", "libcurand.so.10", "nvidia-curand"),
        ("12.8", "libcudart.so.12", "nvidia-cuda-runtime-cu12"),
        ("12.8", "libcufft.so.11", "nvidia-cufft-cu12"),
        ("12.8", "libcudnn.so.9", "nvidia-cudnn-cu12"),
    ],
)
def test_each_library_has_the_package_that_brings_it(version, soname, package):
    packages = {item.soname: item.package for item in cuda.required_libraries(version)}
    assert packages[soname] == package


def test_the_libraries_of_this_build_are_those_it_preloads():
    if not onnxruntime.cuda_version:
        pytest.skip("a build without CUDA preloads nothing")
    preloaded = {path[-1] for path in onnxruntime._get_nvidia_dll_paths(is_windows=False)}
    listed = {item.soname for item in cuda.required_libraries(onnxruntime.cuda_version)}
    assert listed == preloaded | {"libcuda.so.1"}


def test_a_missing_library_is_named(loadable):
    loadable("libcurand.so.10", "libcudnn.so.9")
    assert [item.package for item in cuda.missing_libraries()] == [
        "nvidia-curand",
        "nvidia-cudnn-cu13",
    ]
    works, reason = cuda.cuda_works()
    assert (works, reason) == (False, "cannot load libcurand.so.10, libcudnn.so.9")


def test_a_missing_driver_is_told_alone(loadable):
    loadable("libcuda.so.1", "libcurand.so.10")
    assert cuda.missing_libraries() == (cuda.DRIVER,)
    assert "no NVIDIA driver" in cuda.cuda_works()[1]


def test_a_build_without_cuda_is_told(loadable, monkeypatch):
    loadable()
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    works, reason = cuda.cuda_works()
    assert not works
    assert "built without CUDA" in reason


def test_libraries_that_load_are_not_enough_the_probe_must_run(loadable, monkeypatch):
    def broken() -> None:
        raise RuntimeError("CUDNN_STATUS_NOT_INITIALIZED\n here")

    loadable()
    monkeypatch.setattr(cuda, "_run_probe", broken)
    assert cuda.cuda_works() == (
        False,
        "a convolution failed to run on CUDA: CUDNN_STATUS_NOT_INITIALIZED here",
    )


def test_the_probe_that_ran_is_the_proof(loadable, monkeypatch):
    loadable()
    monkeypatch.setattr(cuda, "_run_probe", lambda: None)
    assert cuda.cuda_works()[0]


def test_preloading_prints_nothing(monkeypatch, capfd):
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print("Failed to load libfoo"))
    cuda.preload()
    assert capfd.readouterr() == ("", "")


def test_missing_tensorrt_is_told_with_the_package_that_brings_it(loadable, monkeypatch):
    loadable("libnvinfer.so.10", "libnvonnxparser.so.10")
    providers = [cuda.TENSORRT_PROVIDER, cuda.CUDA_PROVIDER]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    assert cuda.why_tensorrt_cannot_start() == (
        "cannot load libnvinfer.so.10, libnvonnxparser.so.10 (pip install 'tensorrt-cu13<11')"
    )
    loadable()
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    assert cuda.why_tensorrt_cannot_start() is None


def test_tensorrt_needs_what_cuda_needs_and_a_build_that_has_it(loadable, monkeypatch):
    loadable("libcurand.so.10")
    assert "built without TensorRT" in (cuda.why_tensorrt_cannot_start() or "")
    providers = [cuda.TENSORRT_PROVIDER, cuda.CUDA_PROVIDER]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    assert cuda.why_tensorrt_cannot_start() == "cannot load libcurand.so.10"
