"""A static INT8 file out of a float32 one, for the CPU.

QuantizeLinear/DequantizeLinear pairs (QDQ), weights signed and per channel, activations unsigned:
the form for which ONNX Runtime has fast kernels on CPUs with and without VNNI. Per-tensor weights
cost most of the accuracy, signed activations most of the speed. Dynamic quantisation is not
offered: it makes convolutional networks slower.

Normalisation in front of the first layer and the softmax behind the last one stay in float32: 256
steps for a probability change the top class wherever two classes are close.

Shapes: N pictures, S pixels on either side, K classes.
"""

from __future__ import annotations

import contextlib
import io
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.calibrate import create_calibrator, save_tensors_data
from onnxruntime.quantization.qdq_loss_debug import (
    collect_activations,
    compute_activation_error,
    create_activation_matching,
    modify_model_output_intermediate_tensors,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from bench.metrics import balanced_accuracy
from bench.runtime.predictor import Predictor

Images = npt.NDArray[np.uint8]
Probabilities = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Activations = npt.NDArray[np.float32]

METHODS = ("MinMax", "Entropy", "Percentile")
SEARCH_SECONDS = 300.0
_BATCH = 8
_RANKING_PICTURES = 16
_LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
# What follows a layer within the same kernel, so that their common output is the layer's.
_FUSED = frozenset({"Relu", "Clip"})
_LEAST_PROBABILITY = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Settings:
    """How a file was quantised. float_layers: names of the layers that stay in float32."""

    method: str
    float_layers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantised:
    """The chosen settings and their file, which lies in the folder given to the search."""

    settings: Int8Settings
    file: Path
    layers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tried:
    settings: Int8Settings
    file: Path
    divergence: float
    lost_points: float


def search_int8(
    source: Path,
    *,
    calibration_nhwc: Images,
    search_nhwc: Images,
    labels_n: Labels,
    tolerance_points: float,
    folder: Path,
    seconds: float = SEARCH_SECONDS,
) -> Quantised:
    """Quantise by each calibration method, and leave layers in float32 while accuracy needs it.

    The method is the one whose probabilities diverge least from the float32 file's (mean
    Kullback-Leibler divergence over `search_nhwc`). If it loses more than the tolerance there,
    the 1, 2, 4, ... layers whose activations lose most by rounding (compared through
    `onnxruntime.quantization.qdq_loss_debug`) stay in float32, up to half of them and as long as
    `seconds` are not over. Without success the least divergent try is returned:
    the caller's gate decides.

    Args:
        source: the float32 file.
        calibration_nhwc: (M, S, S, 3) pictures whose activations give the ranges.
        search_nhwc: (N, S, S, 3) pictures that choose between settings.
        labels_n: (N,) classes of `search_nhwc`.
        tolerance_points: percentage points of balanced accuracy.
        folder: where files of tries are put; the caller removes it.
        seconds: no further try is begun after this time.
    """
    deadline = time.monotonic() + seconds
    search = _Search(source, calibration_nhwc, search_nhwc, labels_n, folder)
    best = _least_divergent(search.attempts_by_method())
    if best.lost_points > tolerance_points:
        best = _leave_layers(search, best, tolerance_points, deadline)
    return Quantised(settings=best.settings, file=best.file, layers=len(search.layers))


def _leave_layers(
    search: _Search, best: _Tried, tolerance_points: float, deadline: float
) -> _Tried:
    """The first try within the tolerance, the fewest layers left first; else the nearest one."""
    tried = [best]
    ranked = search.layers_by_error(best.file)
    for count in _doubling(len(ranked) // 2):
        if time.monotonic() > deadline:
            break
        settings = Int8Settings(method=best.settings.method, float_layers=ranked[:count])
        tried.append(search.attempt(settings))
        if tried[-1].lost_points <= tolerance_points:
            return tried[-1]
    return _least_divergent(tried)


def _least_divergent(tried: Sequence[_Tried]) -> _Tried:
    return min(tried, key=lambda one: one.divergence)


class _Search:
    """Tries of one file; activation ranges are measured once a method."""

    def __init__(
        self, source: Path, calibration_nhwc: Images, search_nhwc: Images, labels: Labels, to: Path
    ) -> None:
        self._folder = to
        self._prepared = to / "prepared.onnx"
        with _quiet():
            quant_pre_process(source, self._prepared)
        self._calibration_nhwc = calibration_nhwc
        self._search_nhwc = search_nhwc
        self._labels = labels
        self._reference_nk = _predict(source, search_nhwc)
        self._reference_score = balanced_accuracy(labels, self._reference_nk.argmax(axis=1))
        self._tries = 0
        nodes = onnx.load(self._prepared, load_external_data=False).graph.node
        self._nodes = tuple(nodes)
        self.layers = tuple(node.name for node in nodes if node.op_type in _LAYERS)

    def attempts_by_method(self) -> list[_Tried]:
        """One try a calibration method; one that cannot cope with the activations is left out.

        Raises:
            ValueError: none can.
        """
        tried, failed = [], []
        for method in METHODS:
            try:
                tried.append(self.attempt(Int8Settings(method=method)))
            except ValueError as error:
                # Histograms cannot be made of a tensor that is nearly constant.
                failed.append(f"{method}: {error}")
        if not tried:
            raise ValueError("; ".join(failed))
        return tried

    def attempt(self, settings: Int8Settings) -> _Tried:
        self._tries += 1
        file = self._folder / f"try-{self._tries}.onnx"
        with _quiet():
            quantize_static(
                self._prepared,
                file,
                calibration_cache_path=self._ranges(settings.method),
                calibrate_method=CalibrationMethod[settings.method],
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=[*self._always_float(), *settings.float_layers],
            )
        probabilities = _predict(file, self._search_nhwc)
        score = balanced_accuracy(self._labels, probabilities.argmax(axis=1))
        return _Tried(
            settings=settings,
            file=file,
            divergence=_divergence(self._reference_nk, probabilities),
            lost_points=100 * (self._reference_score - score),
        )

    def layers_by_error(self, file: Path) -> tuple[str, ...]:
        """Names of the layers, the one first whose input or output loses most by rounding."""
        lost = self._shares_lost(file)
        consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in self._nodes:
            for name in node.input:
                consumers.setdefault(name, []).append(node)

        def worst(node: onnx.NodeProto) -> float:
            tensors = [node.input[0], *node.output]
            for output in node.output:
                fused = [n for n in consumers.get(output, []) if n.op_type in _FUSED]
                tensors += [name for n in fused for name in n.output]
            return max(lost.get(name, 0.0) for name in tensors)

        layers = [node for node in self._nodes if node.op_type in _LAYERS]
        return tuple(node.name for node in sorted(layers, key=worst, reverse=True))

    def _ranges(self, method: str) -> Path:
        """The file with each tensor's range, measured a small batch at a time to spare memory."""
        cache = self._folder / f"ranges-{method}.json"
        if not cache.exists():
            calibrator = create_calibrator(
                self._prepared,
                augmented_model_path=str(self._folder / f"augmented-{method}.onnx"),
                calibrate_method=CalibrationMethod[method],
            )
            for batch in _batches(self._calibration_nhwc):
                calibrator.collect_data(_Reader(batch, batch=len(batch)))
            save_tensors_data(calibrator.compute_data(), cache)
        return cache

    def _always_float(self) -> list[str]:
        first = next(i for i, node in enumerate(self._nodes) if node.op_type in _LAYERS)
        softmax = [node.name for node in self._nodes if node.op_type == "Softmax"]
        return [node.name for node in self._nodes[:first]] + softmax

    def _shares_lost(self, file: Path) -> dict[str, float]:
        """What rounding takes from each activation, see `_share_lost`."""
        activations = []
        for number, model in enumerate((file, self._prepared)):
            augmented = self._folder / f"shown-{number}.onnx"
            with _quiet():
                modify_model_output_intermediate_tensors(model, augmented)
            one_by_one = _Reader(self._calibration_nhwc[:_RANKING_PICTURES], batch=1)
            activations.append(collect_activations(str(augmented), one_by_one))
        errors = compute_activation_error(create_activation_matching(*activations), _share_lost)
        return {name: error["qdq_err"] for name, error in errors.items()}


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """Pictures in batches, as ONNX Runtime's calibrators want to be fed."""

    def __init__(self, images_nhwc: Images, *, batch: int) -> None:
        self._batches = _batches(images_nhwc, batch)

    def get_next(self) -> dict[str, Images] | None:
        images_nhwc = next(self._batches, None)
        return None if images_nhwc is None else {"image": images_nhwc}


def _predict(file: Path, images_nhwc: Images) -> Probabilities:
    predictor = Predictor(file, device="cpu")
    return np.concatenate([predictor.probabilities(batch) for batch in _batches(images_nhwc)])


def _batches(images_nhwc: Images, size: int = _BATCH) -> Iterator[Images]:
    for at in range(0, len(images_nhwc), size):
        yield images_nhwc[at : at + size]


def _share_lost(exact: Sequence[Activations], rounded: Sequence[Activations]) -> float:
    """The share of an element's variance over pictures that is rounding noise, in 0..1.

    The mean over a tensor's elements, each counted alike: what a channel of small values says is
    lost beside one of large values, and a ratio of whole tensors' norms would not show it.

    exact, rounded: a flat array a picture.
    """
    exact_ne, rounded_ne = np.stack(exact), np.stack(rounded)
    noise_e = np.square(exact_ne - rounded_ne).mean(axis=0)
    signal_e = exact_ne.var(axis=0)
    noisy = np.minimum(noise_e, signal_e)
    # An element that is the same in all pictures says nothing, so nothing of it can be lost.
    return float(np.divide(noisy, signal_e, out=np.zeros_like(noisy), where=signal_e > 0).mean())


def _divergence(reference_nk: Probabilities, other_nk: Probabilities) -> float:
    """Mean Kullback-Leibler divergence in nats; infinite where `other_nk` holds no numbers."""
    if not np.isfinite(other_nk).all():
        return np.inf
    ours, theirs = (np.maximum(p, _LEAST_PROBABILITY) for p in (reference_nk, other_nk))
    return float((ours * np.log(ours / theirs)).sum(axis=1).mean())


def _doubling(most: int) -> Sequence[int]:
    return [2**power for power in range(most.bit_length())]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser prints progress on standard output, which belongs to the results."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
