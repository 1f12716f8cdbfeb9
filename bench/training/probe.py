"""A linear probe: logistic regression on pooled features, which starts every head.

Fitting the head on frozen features before fine-tuning keeps the pretrained features from being
pulled apart by a random head's gradients (Kumar et al., ICLR 2022).

Shapes: N pictures, F pooled features, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sklearn.utils import gen_batches
from threadpoolctl import threadpool_limits
from torch import nn

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
    regression = LogisticRegression(C=_C, class_weight="balanced", max_iter=_MOST_ITERATIONS)
    # Its many small products are done sooner than threads are woken: of 643 pictures by 2,048
    # features, a probe took 16 s with sixteen threads and 0.13 s with one.
    with threadpool_limits(limits=1, user_api="blas"):
        regression.fit(scaler.transform(features_nf), labels_n)
    weight, bias = regression.coef_, regression.intercept_
    if len(regression.classes_) == 2:
        # Two classes share one logit in scikit-learn; the network has one each.
        weight, bias = np.vstack([-weight, weight]) / 2, np.hstack([-bias, bias]) / 2
    weight = weight / scaler.scale_
    return LinearProbe(weight, bias - weight @ scaler.mean_)


def _scales(spread_f: Floats) -> Floats:
    typical = np.sqrt(np.mean(spread_f**2))
    return np.maximum(spread_f, _LEAST_SPREAD * typical) if typical else np.ones_like(spread_f)
