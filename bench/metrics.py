"""Scores of predictions, all from scikit-learn.

Shapes: N pictures, K classes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    log_loss,
    precision_recall_fscore_support,
    recall_score,
)

from bench.records import ClassScores, EpochScores, Scores

Labels = npt.NDArray[np.int64]
Probabilities = npt.NDArray[np.float32]


def score(labels_n: Labels, probabilities_nk: Probabilities, classes: tuple[str, ...]) -> Scores:
    """Score predictions.

    Args:
        labels_n: (N,) the true classes, 0 to K - 1.
        probabilities_nk: (N, K) of each class.
        classes: K names.

    Returns:
        Scores in 0..1 and the log-loss in nats. A class that is never predicted has precision 0;
        balanced accuracy is over the classes that occur, macro means are over all of them.
    """
    everything = np.arange(len(classes))
    predicted = probabilities_nk.argmax(axis=1)
    per_class = precision_recall_fscore_support(
        labels_n, predicted, labels=everything, zero_division=0.0
    )
    macro = precision_recall_fscore_support(
        labels_n, predicted, labels=everything, average="macro", zero_division=0.0
    )
    return Scores(
        balanced_accuracy=float(balanced_accuracy_score(labels_n, predicted)),
        accuracy=float(accuracy_score(labels_n, predicted)),
        precision=float(macro[0]),
        recall=float(macro[1]),
        f1=float(macro[2]),
        log_loss=cross_entropy(labels_n, probabilities_nk),
        per_class=tuple(
            ClassScores(
                name=name,
                precision=float(per_class[0][k]),
                recall=float(per_class[1][k]),
                f1=float(per_class[2][k]),
                support=int(per_class[3][k]),
            )
            for k, name in enumerate(classes)
        ),
        confusion=tuple(
            tuple(int(count) for count in row)
            for row in confusion_matrix(labels_n, predicted, labels=everything)
        ),
    )


def balanced_accuracy(labels_n: Labels, predicted_n: Labels) -> float:
    """Mean recall in 0..1 of the classes in `labels_n`; a prediction may name no class (-1)."""
    present = np.unique(labels_n)
    return float(recall_score(labels_n, predicted_n, labels=present, average="macro"))


def score_epoch(
    labels_n: Labels,
    probabilities_nk: Probabilities,
    *,
    fold: int,
    epoch: int,
    train_loss: float,
    seconds: float,
) -> EpochScores:
    """Score one epoch's validation predictions."""
    classes = np.arange(probabilities_nk.shape[1])
    precision, recall, f1, _ = precision_recall_fscore_support(
        labels_n,
        probabilities_nk.argmax(axis=1),
        labels=classes,
        average="macro",
        zero_division=0.0,
    )
    return EpochScores(
        fold=fold,
        epoch=epoch,
        train_loss=train_loss,
        loss=cross_entropy(labels_n, probabilities_nk),
        # Every class stands in every fold, so the macro recall is the balanced accuracy.
        balanced_accuracy=float(recall),
        precision=float(precision),
        recall=float(recall),
        f1=float(f1),
        seconds=seconds,
    )


def cross_entropy(labels_n: Labels, probabilities_nk: Probabilities) -> float:
    """Mean negative log-likelihood in nats."""
    # Float32 rows do not sum to one exactly enough for scikit-learn.
    exact = probabilities_nk.astype(np.float64)
    exact /= exact.sum(axis=1, keepdims=True)
    return float(log_loss(labels_n, exact, labels=np.arange(exact.shape[1])))
