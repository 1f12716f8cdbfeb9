"""Right and wrong answers on test pictures, summed within the groups that are resampled.

Shapes: N pictures, G groups, K classes; `...` stands for any leading axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
from scipy.sparse.csgraph import connected_components

from bench.records import Dataset, Predictions

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Unit = Literal["groups", "pictures"]


@dataclass(frozen=True, slots=True)
class Counts:
    """Sums over pictures: all that the scores are made of.

    right, true, predicted: pictures by class.
    losses: negative log-likelihoods in nats.
    briers: squared errors of the probabilities, summed over the classes.
    """

    right: Floats  # (..., K)
    true: Floats  # (..., K)
    predicted: Floats  # (..., K)
    losses: Floats  # (...)
    briers: Floats  # (...)

    def weighted(self, weights_bg: Floats) -> Counts:
        """Sum rows of (G, K), each taken as often as its weight says, to (B, K)."""
        return Counts(
            right=weights_bg @ self.right,
            true=weights_bg @ self.true,
            predicted=weights_bg @ self.predicted,
            losses=weights_bg @ self.losses,
            briers=weights_bg @ self.briers,
        )

    def nudged(self, by: float) -> Counts:
        """Sum all rows of (G, K) once for each of them, which then weighs 1 + `by`, to (G, K)."""
        return Counts(
            right=self.right.sum(axis=0) + by * self.right,
            true=self.true.sum(axis=0) + by * self.true,
            predicted=self.predicted.sum(axis=0) + by * self.predicted,
            losses=self.losses.sum() + by * self.losses,
            briers=self.briers.sum() + by * self.briers,
        )

    @property
    def balanced_accuracy(self) -> Floats:
        return self._mean_over_classes(self.right / np.maximum(self.true, 1))

    @property
    def precision(self) -> Floats:
        """Macro precision; that of a class which is never predicted is 0."""
        return self._mean_over_classes(self.right / np.maximum(self.predicted, 1))

    @property
    def f1(self) -> Floats:
        """Macro F1."""
        return self._mean_over_classes(2 * self.right / np.maximum(self.true + self.predicted, 1))

    @property
    def log_loss(self) -> Floats:
        mean: Floats = self.losses / self.true.sum(axis=-1)
        return mean

    @property
    def brier(self) -> Floats:
        """Brier score of all classes, 0..2 (Brier, 1950, Monthly Weather Review 78)."""
        mean: Floats = self.briers / self.true.sum(axis=-1)
        return mean

    def _mean_over_classes(self, scores: Floats) -> Floats:
        """The mean over the classes that are there: a resample can miss a rare one."""
        there = self.true > 0
        mean: Floats = (scores * there).sum(axis=-1) / there.sum(axis=-1)
        return mean


@dataclass(frozen=True, slots=True)
class Answers:
    """One model's answers on the test pictures, one row of `by_group` a group."""

    by_group: Counts  # (G, K) and (G,)
    unit: Unit

    @classmethod
    def of(
        cls, labels_n: Integers, probabilities_nk: Floats, groups_n: Integers, unit: Unit
    ) -> Self:
        """Sum pictures within their groups, which are numbered in any way."""
        classes = probabilities_nk.shape[1]
        _, rows_n = np.unique(groups_n, return_inverse=True)
        groups = int(rows_n.max()) + 1
        probabilities_nk = probabilities_nk / probabilities_nk.sum(axis=1, keepdims=True)
        predicted_n = probabilities_nk.argmax(axis=1)
        likelihoods_n = probabilities_nk[np.arange(len(labels_n)), labels_n]
        losses_n = -np.log(np.maximum(likelihoods_n, np.finfo(np.float64).eps))
        briers_n = ((probabilities_nk - np.eye(classes)[labels_n]) ** 2).sum(axis=1)

        def counted(rows: Integers, columns: Integers) -> Floats:
            cells = np.bincount(rows * classes + columns, minlength=groups * classes)
            return cells.reshape(groups, classes).astype(np.float64)

        right_n = predicted_n == labels_n
        return cls(
            Counts(
                right=counted(rows_n[right_n], labels_n[right_n]),
                true=counted(rows_n, labels_n),
                predicted=counted(rows_n, predicted_n),
                losses=np.bincount(rows_n, weights=losses_n).astype(np.float64),
                briers=np.bincount(rows_n, weights=briers_n).astype(np.float64),
            ),
            unit,
        )

    @property
    def groups(self) -> int:
        return len(self.by_group.true)

    @property
    def whole(self) -> Counts:
        """The sums over all groups: (K,)."""
        return self.by_group.weighted(np.ones(self.groups))

    @property
    def strata(self) -> Integers:
        """(G,) numbers of what is resampled by itself, since the test set was drawn by class.

        A class's groups are a stratum; classes that have a group in common are one together.
        """
        is_there_gk = self.by_group.true > 0
        together_kk = is_there_gk.T.astype(np.int64) @ is_there_gk
        _, component_k = connected_components(together_kk, directed=False)
        _, strata = np.unique(component_k[is_there_gk.argmax(axis=1)], return_inverse=True)
        return np.asarray(strata, dtype=np.int64)

    @property
    def groups_a_class(self) -> Integers:
        """(K,) groups that hold pictures of each class."""
        return np.asarray((self.by_group.true > 0).sum(axis=0), dtype=np.int64)

    def of_class(self, index: int) -> Answers:
        """The answers to one class's pictures; their balanced accuracy is the class's recall."""
        rows = self.by_group.true[:, index] > 0
        here = self.by_group
        only = np.zeros(here.true.shape[1])
        only[index] = 1.0
        return Answers(
            Counts(
                right=(here.right * only)[rows],
                true=(here.true * only)[rows],
                predicted=here.predicted[rows],
                losses=here.losses[rows],
                briers=here.briers[rows],
            ),
            self.unit,
        )


def answers_of(predictions: Predictions, dataset: Dataset) -> Answers:
    """Sum a model's test predictions within the data set's groups."""
    groups_n, unit = groups_of(dataset, predictions.indices)
    return Answers.of(
        np.asarray(predictions.labels, dtype=np.int64),
        np.asarray(predictions.probabilities, dtype=np.float64),
        groups_n,
        unit,
    )


def groups_of(dataset: Dataset, indices: Sequence[int]) -> tuple[Integers, Unit]:
    """Number what is resampled as a whole: groups, or pictures where no group was given.

    Identical files are one unit in either case, as they are in the split.
    """
    pictures = [dataset.pictures[index] for index in indices]
    keys = [picture.group or f"file {picture.sha256}" for picture in pictures]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    given = any(picture.group is not None for picture in pictures)
    groups_n = np.asarray([numbers[key] for key in keys], dtype=np.int64)
    return groups_n, "groups" if given else "pictures"
