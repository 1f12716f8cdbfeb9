"""Classes that can be told apart without looking at what the pictures show.

A network takes such a shortcut gladly (Geirhos et al., "Shortcut learning in deep neural networks",
2020), scores well, and has learned how the pictures of a class happened to be saved.
"""

from __future__ import annotations

from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt

from bench.data.audit.thumbnails import Floats, Thumbnails
from bench.records import Dataset, Shortcut, ShortcutFacet

# Recall less false alarms (Youden's index, 1950) from which a class is told apart, and how many of
# its standard deviations by chance that must be.
_LEAST_INDEX = 0.5
_LEAST_DEVIATIONS = 4.0
_DEPTH = 4
_FOLDS = 5


def find_shortcuts(dataset: Dataset, thumbnails: Thumbnails) -> tuple[Shortcut, ...]:
    """Try to predict the class from size, colour mode, file format and frame, each alone."""
    labels = np.asarray(dataset.labels, dtype=np.int64)
    if len(np.unique(labels)) < 2 or np.bincount(labels).min() < 2:
        return ()
    found = []
    for facet, values in _facets(dataset, thumbnails).items():
        if (values == values[0]).all():
            continue
        predicted = _out_of_fold(values, labels)
        for label in range(len(dataset.classes)):
            own = labels == label
            recall = float((predicted[own] == label).mean())
            false_alarms = float((predicted[~own] == label).mean())
            called = float((predicted == label).mean())
            chance = np.sqrt(called * (1 - called) * (1 / own.sum() + 1 / (~own).sum()))
            index = recall - false_alarms
            if index >= max(_LEAST_INDEX, _LEAST_DEVIATIONS * chance):
                found.append(
                    Shortcut(label=label, facet=facet, recall=recall, false_alarms=false_alarms)
                )
    return tuple(found)


def _facets(dataset: Dataset, thumbnails: Thumbnails) -> dict[ShortcutFacet, Floats]:
    pictures = dataset.pictures
    return {
        "size": np.asarray([(p.width, p.height) for p in pictures], dtype=np.float32),
        "mode": _one_hot([p.mode for p in pictures]),
        "format": _one_hot([PurePosixPath(p.path).suffix.lower() for p in pictures]),
        "frame": thumbnails.frames_nf,
    }


def _one_hot(names: list[str]) -> Floats:
    kinds, codes = np.unique(names, return_inverse=True)
    return np.eye(len(kinds), dtype=np.float32)[codes]


def _out_of_fold(values_nf: Floats, labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.tree import DecisionTreeClassifier

    tree = DecisionTreeClassifier(max_depth=_DEPTH, class_weight="balanced", random_state=0)
    folds = StratifiedKFold(
        min(_FOLDS, int(np.bincount(labels).min())), shuffle=True, random_state=0
    )
    return np.asarray(cross_val_predict(tree, values_nf, labels, cv=folds))
