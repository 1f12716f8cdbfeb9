"""Prove that an exported file computes what the trained model computes.

Both round to float32, in different orders, so they never agree to the last bit. As a rule their
probabilities lie within 1e-4 of each other. Where they do not, the model in float64 is the judge:
a network that cancels large numbers is not determined better than that in float32, and a file
that is about as near to float64 as torch's own float32 is computes the same network. A wrong weight
moves the file alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from bench.errors import ParityError
from bench.metrics import balanced_accuracy
from bench.models.staged import StagedModel
from bench.records import ParityCheck, Rounding, TrainingDevice
from bench.runtime.cuda import cuda_works
from bench.runtime.predictor import Predictor

BATCH_SIZES = (1, 4, 17)
# Largest difference between probabilities: float32 sums in another order give 1e-6 to 5e-5.
_TOLERANCE = 1e-4
# Beyond that the file's largest distance from float64 may be so many times the model's: both are
# maxima over few pictures, and kernels differ in how they sum. 24 networks gave up to 2.7
# (benchmarks/results/rounding.md).
_ROUNDING_FACTOR = 3.0
# What no rounding excuses.
_MOST_DIFFERENCE = 1e-3
_BALANCED_ACCURACY_TOLERANCE = 0.005

Probabilities = npt.NDArray[np.floating]


def verify(
    trained: StagedModel,
    file: Path,
    images_nhwc: npt.NDArray[np.uint8],
    labels_n: npt.NDArray[np.int64],
    *,
    temperature: float = 1.0,
) -> tuple[ParityCheck, ...]:
    """Compare the file with the model on real pictures, on every device and at several batch sizes.

    CUDA is compared where it really works.

    Args:
        trained: the model that the file was exported from.
        file: the ONNX file.
        images_nhwc: (N, S, S, 3) held-out pictures.
        labels_n: (N,) their classes.
        temperature: of the file's softmax.

    Raises:
        ParityError: a difference beyond the tolerance; the file must not be kept.
    """
    devices: tuple[TrainingDevice, ...] = ("cpu", "cuda") if cuda_works()[0] else ("cpu",)
    predictors = [Predictor(file, device=device) for device in devices]
    exact = _Exact(trained, images_nhwc, temperature)
    run_model = partial(_probabilities_of, trained, temperature=temperature)
    checks = []
    for batch_size in BATCH_SIZES:
        expected_nk = _in_batches(run_model, images_nhwc, batch_size)
        for predictor in predictors:
            actual_nk = _in_batches(predictor.probabilities, images_nhwc, batch_size)
            checks.append(
                compare(predictor.provider, batch_size, expected_nk, actual_nk, labels_n, exact)
            )
    return tuple(checks)


class _Exact:
    """The model's probabilities in float64, computed where they are asked for, and once."""

    def __init__(
        self, trained: StagedModel, images_nhwc: npt.NDArray[np.uint8], temperature: float
    ) -> None:
        self._trained, self._images_nhwc = trained, images_nhwc
        self._temperature = temperature

    def __call__(self) -> Probabilities | None:
        """(N, K), or None where the network insists on float32 somewhere."""
        return self._probabilities_nk

    @cached_property
    def _probabilities_nk(self) -> Probabilities | None:
        wide = copy.deepcopy(self._trained).double()
        run_model = partial(_probabilities_of, wide, temperature=self._temperature)
        try:
            return _in_batches(run_model, self._images_nhwc, max(BATCH_SIZES))
        except RuntimeError:
            return None


def compare(
    provider: str,
    batch_size: int,
    expected_nk: Probabilities,
    actual_nk: Probabilities,
    labels_n: npt.NDArray[np.int64],
    exact: Callable[[], Probabilities | None] = lambda: None,
) -> ParityCheck:
    """Hold a file's (N, K) probabilities against the trained model's.

    exact: gives the model's probabilities in float64, or None; asked only where the two differ by
        more than 1e-4.

    Raises:
        ParityError: a probability is no number or differs by more than 1e-4, unless the file lies
            within three times the model's own distance from float64 (and never by more than 1e-3);
            the top class differs where the model had decided (where the two best are closer than
            what is allowed, either may win); or the balanced accuracy differs by more than 0.005.
    """
    difference = float(np.abs(expected_nk - actual_nk).max())
    rounding = None
    if _TOLERANCE < difference <= _MOST_DIFFERENCE:
        rounding = _rounding(expected_nk, actual_nk, exact())
    excused = rounding is not None and rounding.file <= _ROUNDING_FACTOR * rounding.model
    allowed = difference if excused else _TOLERANCE
    best_two = np.sort(expected_nk, axis=1)[:, -2:]
    decided = best_two[:, 1] - best_two[:, 0] > 2 * allowed
    expected_n, actual_n = expected_nk.argmax(axis=1), actual_nk.argmax(axis=1)
    same = expected_n == actual_n
    lost = balanced_accuracy(labels_n, actual_n) - balanced_accuracy(labels_n, expected_n)
    faults = []
    if not difference <= allowed:
        judged = (
            f"; from float64 the file by {rounding.file:.2g}, the model by {rounding.model:.2g}"
            if rounding
            else ""
        )
        faults.append(f"probabilities by up to {difference:.2g} (allowed {allowed:g}{judged})")
    if not same[decided].all():
        faults.append(f"the top class of {(~same[decided]).sum()} of {len(same)} pictures")
    if abs(lost) > _BALANCED_ACCURACY_TOLERANCE:
        faults.append(f"balanced accuracy by {lost:+.4f} (allowed {_BALANCED_ACCURACY_TOLERANCE})")
    if faults:
        raise ParityError(
            f"the exported file differs from the trained model: {provider} at batch {batch_size}: "
            f"{'; '.join(faults)}; the file is not kept: choose another backbone, or report it"
        )
    return ParityCheck(
        provider=provider,
        batch_size=batch_size,
        pictures=len(expected_nk),
        max_abs_difference=difference,
        top1_agreement=float(same.mean()),
        balanced_accuracy_difference=lost,
        rounding=rounding,
    )


def _rounding(
    expected_nk: Probabilities, actual_nk: Probabilities, exact_nk: Probabilities | None
) -> Rounding | None:
    if exact_nk is None:
        return None
    model, file = (float(np.abs(each - exact_nk).max()) for each in (expected_nk, actual_nk))
    return Rounding(model=model, file=file)


def _in_batches(
    run: Callable[[npt.NDArray[np.uint8]], Probabilities],
    images_nhwc: npt.NDArray[np.uint8],
    batch_size: int,
) -> Probabilities:
    starts = range(0, len(images_nhwc), batch_size)
    return np.concatenate([run(images_nhwc[at : at + batch_size]) for at in starts])


def _probabilities_of(
    trained: StagedModel, images_nhwc: npt.NDArray[np.uint8], *, temperature: float
) -> Probabilities:
    images = torch.from_numpy(images_nhwc)
    probabilities: Probabilities = trained.probabilities(images, temperature=temperature).numpy()
    return probabilities
