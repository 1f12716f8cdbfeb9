from __future__ import annotations

import numpy as np
import pytest

from bench.data.audit.labels import check_labels, confident_classes, suspects
from bench.records import Dataset, Picture

EACH, CLASSES = 60, ("a", "b", "c")


def labelled(labels: list[int]) -> Dataset:
    pictures = [
        Picture(path=f"{k}.png", label=label, sha256=str(k), width=1, height=1, mode="L")
        for k, label in enumerate(labels)
    ]
    classes = CLASSES[: 1 + max(labels)]
    return Dataset(name="n", root="/", kind="csv", classes=classes, pictures=tuple(pictures))


def clouds(distance: float) -> tuple[np.ndarray, list[int]]:
    """Return features of three classes that lie `distance` standard deviations from the middle."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), EACH)
    return (rng.normal(0, 1, (len(labels), 8)) + distance * np.eye(3, 8)[labels]).astype(
        np.float32
    ), labels.tolist()


def test_labels_that_were_changed_are_found_and_the_others_left_alone():
    features, labels = clouds(distance=8)
    changed = {3: 1, 40: 2, 70: 0, 100: 2, 130: 0, 170: 1}
    given = [changed.get(k, label) for k, label in enumerate(labels)]

    check = check_labels(labelled(given), features, np.arange(len(given)), features="clouds")

    assert {suspect.picture: labels[suspect.picture] for suspect in check.suspicious} == {
        suspect.picture: suspect.predicted for suspect in check.suspicious
    }
    assert {suspect.picture for suspect in check.suspicious} == set(changed)


def test_right_labels_are_not_accused():
    features, labels = clouds(distance=8)

    check = check_labels(labelled(labels), features, np.arange(len(labels)), features="clouds")

    assert (check.suspicious, check.note) == ((), None)
    assert check.balanced_accuracy > 0.95


def test_a_probe_that_knows_little_accuses_nobody_and_says_so():
    features, labels = clouds(distance=0)

    check = check_labels(labelled(labels), features, np.arange(len(labels)), features="clouds")

    assert check.suspicious == ()
    assert check.note is not None and "0.7" in check.note


def test_a_copy_with_a_wrong_label_does_not_vouch_for_it():
    """Tied pictures stand in one fold, so the wrong label of one cannot teach the probe."""
    features, labels = clouds(distance=8)
    labels[1] = 1
    copies = [1] * 20
    features = np.concatenate([features, features[copies]])
    ties = np.concatenate([np.arange(len(labels)), copies])
    given = labels + [1] * len(copies)

    check = check_labels(labelled(given), features, ties, features="clouds")

    assert {1, *range(len(labels), len(given))} <= {s.picture for s in check.suspicious}


@pytest.mark.parametrize(
    ("labels", "ties", "why"),
    [
        ([0, 0, 0, 0], [0, 1, 2, 3], "that takes two classes, and a is the only one: add another"),
        (
            [0, 0, 1, 2],
            [0, 1, 2, 3],
            "that takes pictures of at least two groups of every class, and b has 1 picture, "
            "c has 1 picture: add pictures, or leave the class out",
        ),
        ([0, 0, 1, 1], [0, 1, 2, 2], "every class, and b has 2 pictures of 1 group: add"),
    ],
)
def test_too_few_pictures_are_not_judged_and_the_class_that_lacks_them_is_named(labels, ties, why):
    check = check_labels(
        labelled(labels), np.zeros((4, 2), np.float32), np.asarray(ties), features="zeros"
    )

    assert check.suspicious == ()
    assert check.note is not None and check.note.startswith("labels were not judged: ")
    assert why in check.note


def test_the_confident_joint_asks_each_class_for_its_own_average():
    """Class 1 is predicted with 0.9 on the average, so 0.85 for it is not confident."""
    probabilities = np.asarray([[0.98, 0.02], [0.04, 0.96], [0.15, 0.85], [0.05, 0.95], [0.1, 0.9]])
    labels = np.asarray([0, 0, 0, 1, 1])

    assert suspects(labels, probabilities).tolist() == [1]


@pytest.mark.parametrize("seed", range(20))
def test_the_confident_joint_is_that_of_cleanlab(seed: int):
    """Compared before the two limits, which cleanlab does not have."""
    filters = pytest.importorskip("cleanlab.filter", reason="cleanlab is not installed")
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(200) % 4)
    probabilities = rng.dirichlet(np.full(4, 0.5), len(labels))
    probabilities[np.arange(len(labels)), labels] += rng.uniform(0, 1, len(labels))
    probabilities /= probabilities.sum(axis=1, keepdims=True)

    theirs = filters.find_label_issues(labels, probabilities, filter_by="confident_learning")

    np.testing.assert_array_equal(confident_classes(labels, probabilities) != labels, theirs)
    assert theirs.any()
