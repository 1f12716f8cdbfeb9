"""Prove that an exported file computes what the trained model computes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import recall_score

from bench.errors import ParityError
from bench.records import ParityCheck
from bench.runtime.cuda import cuda_works
from bench.runtime.predictor import Predictor

BATCH_SIZES = (1, 4, 17)
# Largest difference between probabilities: float32 sums in another order give 1e-6 to 5e-5.
_TOLERANCE = 1e-4
_BALANCED_ACCURACY_TOLERANCE = 0.005


def verify(
    trained: Callable[[torch.Tensor], torch.Tensor],
    file: Path,
    images_nhwc: npt.NDArray[np.uint8],
    labels_n: npt.NDArray[np.int64],
) -> tuple[ParityCheck, ...]:
    """Compare the file with the model on real pictures, on every device and at several batch sizes.

    CUDA is compared where it really works.

    Args:
        trained: gives the trained model's (N, K) probabilities of (N, S, S, 3) uint8 pictures.
        file: the ONNX file.
        images_nhwc: (N, S, S, 3) held-out pictures.
        labels_n: (N,) their classes.

    Raises:
        ParityError: a difference beyond the tolerance; the file must not be kept.
    """
    devices: tuple[Literal["cpu", "cuda"], ...] = ("cpu", "cuda") if cuda_works()[0] else ("cpu",)
    predictors = [Predictor(file, device=device) for device in devices]
    checks = []
    for batch_size in BATCH_SIZES:
        expected_nk = _in_batches(partial(_probabilities_of, trained), images_nhwc, batch_size)
        for predictor in predictors:
            actual_nk = _in_batches(predictor.probabilities, images_nhwc, batch_size)
            checks.append(compare(predictor.provider, batch_size, expected_nk, actual_nk, labels_n))
    return tuple(checks)


def compare(
    provider: str,
    batch_size: int,
    expected_nk: npt.NDArray[np.float32],
    actual_nk: npt.NDArray[np.float32],
    labels_n: npt.NDArray[np.int64],
) -> ParityCheck:
    """Hold a file's (N, K) probabilities against the trained model's.

    Raises:
        ParityError: a probability differs by more than 1e-4 or is no number, the top class
            differs where the model had decided (where the two best are closer than the
            tolerance, either may win), or the balanced accuracy differs by more than 0.005.
    """
    difference = float(np.abs(expected_nk - actual_nk).max())
    best_two = np.sort(expected_nk, axis=1)[:, -2:]
    decided = best_two[:, 1] - best_two[:, 0] > 2 * _TOLERANCE
    expected_n, actual_n = expected_nk.argmax(axis=1), actual_nk.argmax(axis=1)
    same = expected_n == actual_n
    lost = _balanced_accuracy(labels_n, actual_n) - _balanced_accuracy(labels_n, expected_n)
    faults = []
    if not difference <= _TOLERANCE:
        faults.append(f"probabilities by up to {difference:.2g} (allowed {_TOLERANCE:g})")
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
    )


def _in_batches(
    run: Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]],
    images_nhwc: npt.NDArray[np.uint8],
    batch_size: int,
) -> npt.NDArray[np.float32]:
    starts = range(0, len(images_nhwc), batch_size)
    return np.concatenate([run(images_nhwc[at : at + batch_size]) for at in starts])


@torch.no_grad()
def _probabilities_of(
    trained: Callable[[torch.Tensor], torch.Tensor], images_nhwc: npt.NDArray[np.uint8]
) -> npt.NDArray[np.float32]:
    probabilities: npt.NDArray[np.float32] = trained(torch.from_numpy(images_nhwc)).numpy()
    return probabilities


def _balanced_accuracy(
    labels_n: npt.NDArray[np.int64], predicted_n: npt.NDArray[np.int64]
) -> float:
    """The mean recall over the classes that occur."""
    classes = np.unique(labels_n)
    return float(
        recall_score(labels_n, predicted_n, labels=classes, average="macro", zero_division=0.0)
    )
