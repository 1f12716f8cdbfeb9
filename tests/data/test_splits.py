"""The rules of the locked test set and the folds, over many seeds and shapes of data."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from bench.data.splits import (
    DEFAULT_FOLDS,
    check_split,
    make_split,
    refuse_scarce_classes,
    scarce_classes,
)
from bench.errors import DataError
from bench.records import Dataset, Picture, Split
from bench.space import SearchSpace

# (label, group, given split) of a picture.
Row = tuple[int, str | None, str | None]


def dataset_of(rows: list[Row]) -> Dataset:
    total = 1 + max(label for label, _, _ in rows)
    pictures = tuple(
        Picture(
            path=f"{number}.png",
            label=label,
            sha256=str(number),
            width=1,
            height=1,
            mode="RGB",
            group=group,
            given_split=given,
        )
        for number, (label, group, given) in enumerate(rows)
    )
    return Dataset(
        name="made",
        root="/made",
        kind="folder",
        classes=tuple("abcdefgh"[:total]),
        pictures=pictures,
    )


def single(*counts: int) -> Dataset:
    return dataset_of([(label, None, None) for label, n in enumerate(counts) for _ in range(n)])


def grouped(*sizes_of_class: list[int]) -> Dataset:
    return dataset_of(
        [
            (label, f"{label}-{group}", None)
            for label, sizes in enumerate(sizes_of_class)
            for group, size in enumerate(sizes)
            for _ in range(size)
        ]
    )


def random_dataset(kind: str, rng: np.random.Generator) -> Dataset:
    classes = int(rng.integers(2, 5))
    if kind == "single":
        return single(*rng.integers(20, 40, classes).tolist())
    sizes = [rng.integers(1, 5, rng.integers(12, 18)).tolist() for _ in range(classes)]
    dataset = grouped(*sizes)
    if kind == "grouped":
        return dataset
    if kind == "partly grouped":
        return with_groups(dataset, lambda label, group: group if rng.random() < 0.5 else None)
    # A group may hold several classes, as near-duplicates under different labels do.
    return with_groups(dataset, lambda label, group: group.partition("-")[2])


def with_groups(dataset: Dataset, regroup) -> Dataset:
    pictures = tuple(replace(p, group=regroup(p.label, p.group)) for p in dataset.pictures)
    return replace(dataset, pictures=pictures)


def parts_of(split: Split) -> list[tuple[int, ...]]:
    return [split.test, *split.folds]


def labels_in(dataset: Dataset, part: tuple[int, ...]) -> set[int]:
    return {dataset.pictures[index].label for index in part}


KINDS = ("single", "grouped", "partly grouped", "groups across classes")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(5))
def test_a_split_is_disjoint_complete_whole_and_holds_every_class_everywhere(kind, seed):
    rng = np.random.default_rng(seed)
    dataset = random_dataset(kind, rng)
    folds = int(rng.integers(2, 6))
    fraction = float(rng.choice([0.1, 0.15, 0.2, 0.25, 0.3, 0.4]))
    split = make_split(dataset, folds=folds, test_fraction=fraction, seed=seed)

    parts = parts_of(split)
    assert len(split.folds) == folds
    assert sorted(i for part in parts for i in part) == list(range(len(dataset.pictures)))
    for part in parts:
        assert list(part) == sorted(part)
        assert labels_in(dataset, part) == set(range(len(dataset.classes)))
    groups = [{dataset.pictures[i].group for i in part} - {None} for part in parts]
    assert sum(map(len, groups)) == len(set().union(*groups))
    assert split.dataset_fingerprint == dataset.fingerprint
    assert split.seed == seed

    total = len(dataset.pictures)
    slack = 0.03 if kind == "single" else 0.1
    assert len(split.test) / total == pytest.approx(fraction, abs=slack)
    for fold in split.folds:
        assert len(fold) / len(split.development) == pytest.approx(1 / folds, abs=slack)


@pytest.mark.parametrize(
    ("fraction", "expected"),
    [(0.01, 1), (0.05, 5), (0.1, 10), (0.2, 20), (0.3, 30), (0.4, 40), (0.5, 50)],
)
def test_single_pictures_meet_the_test_fraction_in_every_class(fraction, expected):
    dataset = single(100, 200)
    split = make_split(dataset, folds=3, test_fraction=fraction, seed=0)
    labels = [dataset.pictures[index].label for index in split.test]
    assert (labels.count(0), labels.count(1)) == (expected, 2 * expected)


@pytest.mark.parametrize(
    ("each", "folds", "fraction", "expected"), [(4, 3, 0.2, 1), (6, 5, 0.05, 1), (3, 2, 0.01, 1)]
)
def test_a_small_class_gives_at_least_one_picture_to_the_test_set(each, folds, fraction, expected):
    split = make_split(single(each, each), folds=folds, test_fraction=fraction, seed=0)
    assert len(split.test) == 2 * expected


def test_folds_of_single_pictures_differ_by_one_picture_of_a_class_at_most():
    dataset = single(47, 23)
    split = make_split(dataset, folds=4, test_fraction=0.2, seed=3)
    for label in range(2):
        counts = [sum(dataset.pictures[i].label == label for i in fold) for fold in split.folds]
        assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([30, 30, 10, 10, 10, 2], [30, 30, 10, 10, 1, 1]),
        ([30, 10, 3, 3, 3, 2], [30, 30, 10, 3, 2, 2, 1]),
        ([30, 30, 2, 2, 2, 1], [30, 30, 30, 10, 3, 1]),
    ],
)
def test_a_test_set_that_leaves_a_group_for_each_fold_goes_before_an_evener_one(first, second):
    dataset = grouped(first, second)
    split = make_split(dataset, folds=5, test_fraction=0.2, seed=0)
    left = {(dataset.pictures[i].label, dataset.pictures[i].group) for i in split.development}
    assert min(Counter(label for label, _ in left).values()) >= 5


def test_the_seed_fixes_the_split_and_another_seed_gives_another():
    dataset = single(30, 30)
    splits = [make_split(dataset, folds=3, test_fraction=0.2, seed=s) for s in (5, 5, 6)]
    assert splits[0] == splits[1]
    assert splits[0].fingerprint == splits[1].fingerprint != splits[2].fingerprint


def test_a_given_test_set_is_kept_whatever_the_fraction_and_seed():
    rows: list[Row] = [(n % 2, None, "test" if n < 6 else "train") for n in range(40)]
    for seed in range(5):
        split = make_split(dataset_of(rows), folds=3, test_fraction=0.5, seed=seed)
        assert split.test == (0, 1, 2, 3, 4, 5)
        assert split.development == tuple(range(6, 40))


def test_a_given_train_part_alone_is_no_given_split():
    rows: list[Row] = [(n % 2, None, "train") for n in range(40)]
    assert len(make_split(dataset_of(rows), folds=3, test_fraction=0.25, seed=0).test) == 10


# --- refusals -------------------------------------------------------------------------------


def given(*test_of_class: int, each: int = 6) -> Dataset:
    return dataset_of(
        [
            (label, None, "test" if number < test else "train")
            for label, test in enumerate(test_of_class)
            for number in range(each)
        ]
    )


@pytest.mark.parametrize(
    ("dataset", "folds", "fraction", "message"),
    [
        (single(20, 20), 1, 0.2, r"--folds must be at least 2, not 1"),
        (single(20, 20), 3, 0.0, r"--test-fraction must lie above 0 and at most 0\.5, not 0\.0"),
        (single(20, 20), 3, 0.6, r"--test-fraction must lie above 0 and at most 0\.5, not 0\.6"),
        (single(20, 20), 3, float("nan"), r"--test-fraction must lie above 0"),
        (single(20), 3, 0.2, r"at least two classes.* has 1 \(a\): add a subfolder a class"),
        (
            single(20, 5, 3),
            5,
            0.2,
            r"at least 6 pictures .*; b has 5 pictures; c has 3 pictures: add .*fewer --folds",
        ),
        (grouped([1] * 9, [9, 9, 9]), 3, 0.2, r"b has 27 pictures of 3 groups: add pictures"),
        (single(6, 6), 5, 0.5, r"5 folds beside the test set.*a smaller --test-fraction"),
        (given(5, 1), 2, 0.2, r"need at least 2 .*a has 1 picture: move pictures from test"),
        (given(2, 0), 3, 0.2, r"the test set would hold no picture of b: move .* to test$"),
        (
            dataset_of([(n % 2, f"g{n % 5}", "test" if n < 4 else "train") for n in range(40)]),
            2,
            0.2,
            r"group 'g0' in test and in train: move them to one side",
        ),
    ],
    ids=[
        "one fold",
        "fraction 0",
        "fraction above a half",
        "fraction not a number",
        "one class",
        "too few pictures",
        "too few groups",
        "test set too large for the folds",
        "given test set leaves too few",
        "given test set lacks a class",
        "given split tears a group",
    ],
)
def test_an_impossible_split_is_refused_with_the_remedy(dataset, folds, fraction, message):
    with pytest.raises(DataError, match=message):
        make_split(dataset, folds=folds, test_fraction=fraction, seed=0)


@pytest.mark.parametrize(
    ("counts", "folds", "most"),
    [
        ((20, 5), 5, 4),
        ((20, 3), 5, 2),
        ((20, 2), 5, None),
        ((20, 1), 5, None),
        ((20, 5, 1), 5, None),
        ((20, 2), 2, None),
    ],
)
def test_fewer_folds_are_the_remedy_only_where_so_few_can_be_had(counts, folds, most):
    with pytest.raises(DataError, match="add pictures") as refusal:
        refuse_scarce_classes(single(*counts), folds=folds)
    said = str(refusal.value)
    assert said.endswith(
        f"add pictures, remove the class or use fewer --folds ({most} at most)"
        if most
        else "add pictures or remove the class"
    )
    if most:
        refuse_scarce_classes(single(*counts), folds=most)


def test_classes_too_small_for_the_usual_search_are_named_with_what_they_have():
    small = scarce_classes(grouped([1] * 6, [9, 9, 9], [1] * 5))
    assert [(each.name, each.holdings) for each in small] == [
        ("b", "27 pictures of 3 groups"),
        ("c", "5 pictures"),
    ]


def test_groups_do_not_count_where_the_random_protocol_alone_is_asked_for():
    dataset = grouped([9, 9], [9, 9])
    refuse_scarce_classes(dataset, ("random",), folds=5)
    for protocols in ((), ("grouped",), ("random", "grouped")):
        with pytest.raises(DataError, match="18 pictures of 2 groups"):
            refuse_scarce_classes(dataset, protocols, folds=5)


def test_the_usual_folds_are_those_of_a_search_space_that_names_none():
    assert SearchSpace.__dataclass_fields__["folds"].default == DEFAULT_FOLDS


@pytest.mark.parametrize("seed", range(10))
def test_a_tight_data_set_is_split_soundly_or_refused_with_a_remedy(seed):
    rng = np.random.default_rng(seed)
    dataset = grouped(*[rng.integers(1, 5, 4).tolist() for _ in range(3)])
    try:
        split = make_split(dataset, folds=3, test_fraction=0.2, seed=seed)
    except DataError as error:
        assert "fewer --folds" in str(error)
    else:
        check_split(dataset, split)


@pytest.mark.parametrize(
    ("test", "folds", "message"),
    [
        ((0, 1), ((2, 3), (4, 5)), None),
        ((0, 1), ((1, 2, 3), (4, 5)), "every picture exactly once"),
        ((0, 1), ((2, 3), (4,)), "every picture exactly once"),
        ((0, 1), ((2, 4), (3, 5)), "fold 1 would hold no picture of b"),
        ((0, 3), ((1, 2), (4, 5)), r"the group 'g' stands in the test set and in fold 1"),
    ],
)
def test_a_split_is_checked_by_name_of_its_parts(test, folds, message):
    rows: list[Row] = [(n % 2, "g" if n < 2 else None, None) for n in range(6)]
    dataset = dataset_of(rows)
    split = Split(dataset_fingerprint=dataset.fingerprint, seed=0, test=test, folds=folds)
    if message is None:
        check_split(dataset, split)
    else:
        with pytest.raises(DataError, match=message):
            check_split(dataset, split)


def test_identical_files_never_straddle_the_split():
    """GTZAN holds 50 exact replicas: a copy in the test set would be known by heart."""
    dataset = single(20, 20)
    copies = {0: 7, 3: 12, 25: 31}
    pictures = list(dataset.pictures)
    for original, copy in copies.items():
        pictures[copy] = replace(pictures[copy], sha256=pictures[original].sha256)
    dataset = replace(dataset, pictures=tuple(pictures))
    for seed in range(20):
        split = make_split(dataset, folds=3, test_fraction=0.2, seed=seed)
        parts = [split.test, *split.folds]
        for original, copy in copies.items():
            assert any({original, copy} <= set(part) for part in parts)
