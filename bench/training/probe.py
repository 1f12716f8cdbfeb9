"""A linear probe: logistic regression on pooled features, which starts every head.

Fitting the head on frozen features before fine-tuning keeps the pretrained features from being
pulled apart by a random head's gradients (Kumar et al., ICLR 2022).

Shapes: N pictures, F pooled features, K classes.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.linalg
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sklearn.utils import gen_batches
from torch import nn

from bench.training.conditions import one_blas_thread

# Inverse strength of the L2 penalty on standardised features. On grouped spectrogram pictures
# 0.01 did as well as any of 0.003 to 1 at 224 pixels and better than most at 160.
_C = 0.01
# Share of the features' root mean square spread below which one is not magnified to the others'.
# A feature that is dead on these pictures would get a weight of hundreds, and one step of training
# that wakes it would make it decide everything.
_LEAST_SPREAD = 0.3
_MOST_ITERATIONS = 300
_ROWS_AT_ONCE = 4096  # whose mean and spread are taken, in float64

Floats = npt.NDArray[np.float64]
_Weights = tuple[Floats, Floats]


@dataclass(frozen=True, slots=True)
class LinearProbe:
    """logits = features @ weight.T + bias, for features as the network gives them."""

    weight_kf: Floats
    bias_k: Floats

    def start(self, classifier: nn.Module, share: float = 1.0) -> bool:
        """Copy the probe into a classifier; False where that is not a plain linear layer.

        `share` makes its logits smaller: the same classes, less surely.
        """
        if not isinstance(classifier, nn.Linear) or classifier.bias is None:
            return False
        with torch.no_grad():
            classifier.weight.copy_(torch.from_numpy(share * self.weight_kf))
            classifier.bias.copy_(torch.from_numpy(share * self.bias_k))
        return True


def fit_probe(features_nf: npt.NDArray[np.float32], labels_n: npt.NDArray[np.int64]) -> LinearProbe:
    """Fit multinomial logistic regression on standardised features; every class counts alike.

    `features_nf` are overwritten: of a large set, a copy would be most of what the process holds.
    """
    scaler = StandardScaler(copy=False)
    for rows in gen_batches(len(features_nf), _ROWS_AT_ONCE):
        scaler.partial_fit(features_nf[rows])
    scaler.scale_ = _scales(np.sqrt(scaler.var_))
    scaled = scaler.transform(features_nf)
    weight, bias = _fit(scaled, labels_n)
    if len(bias) == 1:
        # Two classes share one logit in scikit-learn; the network has one each.
        weight, bias = np.vstack([-weight, weight]) / 2, np.hstack([-bias, bias]) / 2
    weight = weight / scaler.scale_
    return LinearProbe(weight, bias - weight @ scaler.mean_)


def _fit(scaled_nf: npt.NDArray[np.float32], labels_n: npt.NDArray[np.int64]) -> _Weights:
    """Return (K, F) weights and (K,) biases; (1, F) and (1,) for two classes."""
    regression = LogisticRegression(C=_C, class_weight="balanced", max_iter=_MOST_ITERATIONS)
    # Its many small products are done sooner than threads are woken for them: on sixteen cores,
    # five probes of 643 pictures by 2,048 features took 80 s with all threads and 5 s with one.
    with one_blas_thread(), warnings.catch_warnings():
        # It is a start; what is left of the way is of no weight.
        warnings.simplefilter("ignore", ConvergenceWarning)
        if len(scaled_nf) >= scaled_nf.shape[1]:
            regression.fit(scaled_nf, labels_n)
            return regression.coef_, regression.intercept_
        # Penalised weights are sums of pictures: looked for among those alone, they are the same.
        basis_fn, pictures_nn = scipy.linalg.qr(scaled_nf.T, mode="economic")
        regression.fit(pictures_nn.T, labels_n)
        return regression.coef_ @ basis_fn.T, regression.intercept_


def _scales(spread_f: Floats) -> Floats:
    typical = np.sqrt(np.mean(spread_f**2))
    return np.maximum(spread_f, _LEAST_SPREAD * typical) if typical else np.ones_like(spread_f)
