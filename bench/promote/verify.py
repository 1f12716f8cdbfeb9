"""Prove that an exported file computes what the trained model computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from bench.errors import ParityError
from bench.records import ParityCheck
from bench.runtime.predictor import Predictor

BATCH_SIZES = (1, 4, 17)
# Largest difference between probabilities: float32 sums in another order give 1e-6 to 5e-5.
_TOLERANCE = 1e-4


def verify(
    trained: Callable[[torch.Tensor], torch.Tensor],
    file: Path,
    images_nhwc: npt.NDArray[np.uint8],
) -> tuple[ParityCheck, ...]:
    """Compare the file with the model on real pictures at several batch sizes.

    Args:
        trained: gives the trained model's (N, K) probabilities of (N, S, S, 3) uint8 pictures.
        file: the ONNX file.
        images_nhwc: (N, S, S, 3) held-out pictures.

    Raises:
        ParityError: a difference beyond the tolerance; the file must not be kept.
    """
    predictor = Predictor(file, device="cpu")
    checks = []
    for batch_size in BATCH_SIZES:
        ours, theirs = [], []
        for at in range(0, len(images_nhwc), batch_size):
            batch = images_nhwc[at : at + batch_size]
            with torch.no_grad():
                ours.append(trained(torch.from_numpy(batch)).numpy())
            theirs.append(predictor.probabilities(batch))
        checks.append(
            _compare(predictor.provider, batch_size, np.concatenate(ours), np.concatenate(theirs))
        )
    return tuple(checks)


def _compare(
    provider: str,
    batch_size: int,
    expected_nk: npt.NDArray[np.float32],
    actual_nk: npt.NDArray[np.float32],
) -> ParityCheck:
    difference = float(np.abs(expected_nk - actual_nk).max())
    # Where the two best classes are closer than the tolerance, either may win.
    best_two = np.sort(expected_nk, axis=1)[:, -2:]
    decided = best_two[:, 1] - best_two[:, 0] > 2 * _TOLERANCE
    same = expected_nk.argmax(axis=1) == actual_nk.argmax(axis=1)
    check = ParityCheck(
        provider=provider,
        batch_size=batch_size,
        pictures=len(expected_nk),
        max_abs_difference=difference,
        top1_agreement=float(same.mean()),
    )
    if not difference <= _TOLERANCE or not same[decided].all():
        raise ParityError(
            f"the exported file differs from the trained model: {provider} at batch "
            f"{batch_size}: probabilities by up to {difference:.2g} (allowed {_TOLERANCE:g}), "
            f"same class on {same.mean():.1%} of {len(same)} pictures; the file is not kept"
        )
    return check
