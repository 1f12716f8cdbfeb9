"""Labels that out-of-fold predictions speak against: confident learning.

Northcutt, Jiang and Chuang, "Confident learning: estimating uncertainty in dataset labels" (2021):
a picture belongs to the off-diagonal of the confident joint when the class with the highest
probability among those that reach their own average is not the one that it was given.

Shapes: N pictures, F features, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from bench.data.audit.thumbnails import Floats
from bench.records import Dataset, LabelCheck, SuspiciousLabel
from bench.words import counted, some

Probabilities = npt.NDArray[np.float64]

_FOLDS = 5
_COMPONENTS = 64
# Inverse strength of the probe's penalty on whitened components.
_C = 1.0
# A probe below this balanced accuracy is wrong too often itself to accuse a label.
_LEAST_ACCURACY = 0.7
# Probabilities from which a label is suspicious: that of the other class, that of its own.
_LEAST_OTHER, _MOST_OWN = 0.75, 0.1


def check_labels(
    dataset: Dataset, features_nf: Floats, ties_n: npt.NDArray[np.int64], *, features: str
) -> LabelCheck:
    """Judge every label by a probe that has seen neither the picture nor one tied to it.

    `ties_n` numbers the sets of pictures that stay together; `features` names what
    `features_nf` (N, F) are.
    """
    from sklearn.metrics import balanced_accuracy_score

    labels = np.asarray(dataset.labels, dtype=np.int64)
    sources = [len(np.unique(ties_n[labels == k])) for k in range(len(dataset.classes))]
    folds = min(_FOLDS, *sources)
    if folds < 2 or len(dataset.classes) < 2:
        note = f"labels were not judged: {_why_not(dataset, sources)}"
        return LabelCheck(features=features, balanced_accuracy=0.0, suspicious=(), note=note)
    # Products of this size are too small to share: threads would spin longer than they multiply.
    with threadpool_limits(1, "blas"):
        probabilities = out_of_fold(features_nf, labels, ties_n, folds)
    accuracy = float(balanced_accuracy_score(labels, probabilities.argmax(axis=1)))
    if accuracy < _LEAST_ACCURACY:
        note = (
            f"labels were not judged: a linear probe on {features} reaches a balanced accuracy "
            f"of {accuracy:.2f}, and {_LEAST_ACCURACY} are needed to accuse a label"
        )
        return LabelCheck(features=features, balanced_accuracy=accuracy, suspicious=(), note=note)
    suspicious = tuple(
        SuspiciousLabel(
            picture=int(index),
            predicted=int(probabilities[index].argmax()),
            given_probability=float(probabilities[index, labels[index]]),
            predicted_probability=float(probabilities[index].max()),
        )
        for index in suspects(labels, probabilities)
    )
    return LabelCheck(features=features, balanced_accuracy=accuracy, suspicious=suspicious)


def _why_not(dataset: Dataset, sources: Sequence[int]) -> str:
    if len(dataset.classes) < 2:
        return f"that takes two classes, and {dataset.classes[0]} is the only one: add another"
    small = [
        f"{name} has {counted(pictures, 'picture')}" + " of 1 group" * (pictures > 1)
        for name, pictures, groups in zip(dataset.classes, dataset.counts, sources, strict=True)
        if groups < 2
    ]
    return (
        "that takes pictures of at least two groups of every class, and "
        f"{some(small)}: add pictures, or leave the class out"
    )


def out_of_fold(
    features_nf: Floats, labels: npt.NDArray[np.int64], ties_n: npt.NDArray[np.int64], folds: int
) -> Probabilities:
    """Return what probes trained on the other folds predict: (N, K)."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline

    cuts = StratifiedGroupKFold(folds, shuffle=True, random_state=0)
    predicted = np.zeros((len(labels), int(labels.max()) + 1))
    for train, held_out in cuts.split(features_nf, labels, ties_n):
        components = min(_COMPONENTS, features_nf.shape[1], len(train) - 1)
        reduction = PCA(components, whiten=True, svd_solver="randomized", random_state=0)
        regression = LogisticRegression(C=_C, class_weight="balanced", max_iter=300)
        probe: Any = make_pipeline(reduction, regression).fit(features_nf[train], labels[train])
        # A class of few groups may be absent from a training part.
        predicted[np.ix_(held_out, probe.classes_)] = probe.predict_proba(features_nf[held_out])
    return predicted


def suspects(
    labels: npt.NDArray[np.int64], probabilities_nk: Probabilities
) -> npt.NDArray[np.int64]:
    """Return the pictures off the diagonal of the confident joint that are clear, worst first."""
    rows = np.arange(len(labels))
    assigned = confident_classes(labels, probabilities_nk)
    own, other = probabilities_nk[rows, labels], probabilities_nk[rows, assigned]
    is_clear = (assigned != labels) & (other >= _LEAST_OTHER) & (own <= _MOST_OWN)
    found = np.flatnonzero(is_clear)
    return found[np.argsort(own[found] - other[found], kind="stable")]


def confident_classes(
    labels: npt.NDArray[np.int64], probabilities_nk: Probabilities
) -> npt.NDArray[np.int64]:
    """Return each picture's class in the confident joint: (N,).

    It is the given label where no class is confident, or where the label is the most probable.
    """
    averages = np.asarray(
        [probabilities_nk[labels == k, k].mean() for k in range(probabilities_nk.shape[1])]
    )
    confident = np.where(probabilities_nk >= averages, probabilities_nk, -1.0)
    is_kept = (confident.max(axis=1) <= 0) | (probabilities_nk.argmax(axis=1) == labels)
    return np.where(is_kept, labels, confident.argmax(axis=1))
