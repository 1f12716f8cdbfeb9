"""The rules that tie pictures, how they are joined, and what is said of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.data.groups import (
    Tie,
    conflict_remark,
    group_numbers,
    is_tied,
    join,
    load_groups,
    remarks,
    ties_of_file,
    ties_of_pattern,
)
from bench.data.names import excerpt_key
from bench.data.splits import make_split
from bench.errors import DataError
from bench.records import BrokenPicture, Dataset
from tests.data.named import dataset_of

FOUR = dataset_of("a/1.png", "a/2.png", "b/3.png", "b/4.png")


def copied(dataset: Dataset, original: int, copy: int) -> Dataset:
    pictures = list(dataset.pictures)
    pictures[copy] = replace(pictures[copy], sha256=pictures[original].sha256)
    return replace(dataset, pictures=tuple(pictures))


def groups_of(dataset: Dataset) -> list[str | None]:
    return [picture.group for picture in dataset.pictures]


def csv(folder: Path, *rows: str) -> Path:
    file = folder / "tracks.csv"
    file.write_text("path,group\n" + "\n".join(rows))
    return file


# --- joining --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dataset", "ties", "sets", "names"),
    [
        (FOUR, [], [{0}, {1}, {2}, {3}], [None] * 4),
        (FOUR, [Tie("audit", 0, 3)], [{0, 3}, {1}, {2}], ["a/1.png", None, None, "a/1.png"]),
        (
            FOUR,
            [Tie("audit", 0, 1), Tie("ear", 1, 2)],
            [{0, 1, 2}, {3}],
            ["a/1.png", "a/1.png", "a/1.png", None],
        ),
        (FOUR, [Tie("list", 1, 1, "x")], [{0}, {1}, {2}, {3}], [None, "x", None, None]),
        (
            FOUR,
            [Tie("one", 0, 1, "x"), Tie("other", 2, 3, "x")],
            [{0, 1}, {2, 3}],
            ["x", "x", "x (b/3.png)", "x (b/3.png)"],
        ),
        (
            dataset_of("a/1.png", "a/2.png", "b/3.png", groups={"a/1.png": "x", "b/3.png": "y"}),
            [Tie("audit", 0, 2)],
            [{0, 2}, {1}],
            ["x + y", None, "x + y"],
        ),
        (copied(FOUR, 0, 3), [], [{0, 3}, {1}, {2}], [None] * 4),
        (
            copied(FOUR, 0, 3),
            [Tie("list", 3, 2, "x")],
            [{0, 2, 3}, {1}],
            ["x", None, "x", "x"],
        ),
    ],
    ids=[
        "nothing is tied",
        "a pair is named after its first picture",
        "ties of two rules chain",
        "a lone picture keeps the name that it was given",
        "two rules use one word for two things",
        "two groups become one",
        "copies need no name",
        "a copy brings its original along",
    ],
)
def test_what_is_connected_by_any_rule_is_one_group(dataset, ties, sets, names):
    joined = join(dataset, ties)

    numbers = group_numbers(joined).tolist()
    found = {frozenset(i for i, n in enumerate(numbers) if n == number) for number in numbers}
    assert found == set(map(frozenset, sets))
    assert groups_of(joined) == names
    assert is_tied(joined) == any(len(one) > 1 for one in sets)


def test_each_rule_is_counted_by_itself_and_later_ones_are_added():
    dataset = copied(dataset_of("a/1", "a/2", "b/3", "b/4", groups={"a/1": "x", "a/2": "x"}), 1, 2)
    once = join(dataset, [Tie("list", 0, 1), Tie("list", 2, 3)])
    twice = join(once, [Tie("audit", 0, 3)])

    assert [str(tied) for tied in once.tied] == [
        "the data set's groups: 2 pictures tied in 1 group",
        "identical files: 2 pictures tied in 1 group",
        "list: 4 pictures tied in 2 groups",
    ]
    assert twice.tied[:3] == once.tied
    assert str(twice.tied[3]) == "audit: 2 pictures tied in 1 group"


def test_a_data_set_without_further_rules_keeps_its_groups_and_its_fingerprint():
    dataset = dataset_of("a/1", "a/2", "b/3", groups={"a/1": "x", "a/2": "x"})
    assert join(dataset, []).fingerprint == dataset.fingerprint


def test_groups_of_several_classes_are_allowed_and_told():
    joined = join(FOUR, [Tie("list", 1, 2, "x")])
    assert any("1 group holds pictures of several classes, such as 'x' (a, b)" in said
               for said in remarks(joined))  # fmt: skip
    assert conflict_remark(joined) == ()
    assert not any("several classes" in said for said in remarks(join(FOUR, [Tie("l", 0, 1)])))


@pytest.mark.parametrize(
    ("dataset", "ties", "conflicts", "said"),
    [
        (FOUR, [Tie("audit", 0, 1)], (), None),
        (
            FOUR,
            [Tie("audit", 3, 0)],
            ((0, 3),),
            "1 pair of duplicates carries different labels, such as a/1.png (a) and b/4.png (b): "
            "one label of each is wrong, or what it shows belongs to both classes; "
            "`bench data check` shows them",
        ),
        (
            copied(FOUR, 1, 2),
            [Tie("audit", 0, 3), Tie("audit", 0, 1)],
            ((0, 3), (1, 2)),
            "2 pairs of duplicates carry different labels, such as a/1.png (a) and b/4.png (b)",
        ),
    ],
    ids=["of one class", "of two classes", "copies as well"],
)
def test_found_duplicates_with_different_labels_are_counted_and_told_once(
    dataset, ties, conflicts, said
):
    joined = join(join(dataset, ()), ties)

    assert joined.conflicts == conflicts
    assert not any("several classes" in remark for remark in remarks(joined))
    assert [remark.startswith(said or "") for remark in conflict_remark(joined)] == (
        [True] if said else []
    )


def test_pictures_are_told_to_stay_together_by_the_name_of_their_group_or_first_copy():
    joined = join(copied(FOUR, 1, 3), [Tie("list", 2, 2, "alone")])
    assert joined.sets == (None, "a/2.png", "alone", "a/2.png")


@pytest.mark.parametrize("seed", range(3))
def test_no_split_parts_pictures_that_different_rules_tie(seed):
    dataset = dataset_of(*(f"{name}/{number}" for name in "ab" for number in range(30)))
    ties = [Tie("pairs", i, i + 1) for i in range(0, 60, 2)]
    ties += [Tie("twins", i, i + 2) for i in range(0, 58, 6)]
    joined = join(dataset, ties)
    split = make_split(joined, folds=3, test_fraction=0.2, seed=seed)

    part_of = {index: k for k, part in enumerate((split.test, *split.folds)) for index in part}
    assert split.protocol == "grouped"
    assert all(part_of[tie.a] == part_of[tie.b] for tie in ties)


# --- rules ----------------------------------------------------------------------------------


def test_a_file_of_groups_names_pictures_by_path_and_may_name_one_twice(tmp_path):
    file = csv(tmp_path, "a/1.png,x", "./b/3.png,x", "b/3.png,y", "b/4.png,y", "a/2.png,")
    joined = load_groups(FOUR, file=file, pattern=None)
    assert groups_of(joined) == ["x + y", None, "x + y", "x + y"]
    assert [tied.rule for tied in joined.tied] == ["--groups tracks.csv"]


def test_a_file_of_groups_may_name_gtzan_excerpts_as_their_recordings_are_named(tmp_path):
    dataset = dataset_of("jazz/jazz00054.png", "jazz/jazz00055.png")
    file = csv(tmp_path, "jazz.00054,x", "jazz/jazz.00055.wav,x")
    assert groups_of(load_groups(dataset, file=file, pattern=None)) == ["x", "x"]


def test_a_file_and_a_pattern_are_joined(tmp_path):
    joined = load_groups(FOUR, file=csv(tmp_path, "a/1.png,x", "b/3.png,x"), pattern="^(.)/")
    assert len(set(groups_of(joined))) == 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["a/9.png,x", "a/1.png,x"], r"1 of its files is not in /made: a/9\.png; mend the paths"),
        ([f"c/{n},x" for n in range(9)], r"9 of its files .*c/4 and 4 more"),
    ],
)
def test_a_file_that_names_absent_pictures_is_refused(tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        ties_of_file(FOUR, csv(tmp_path, *rows))


def test_a_broken_picture_may_have_a_group(tmp_path):
    broken = replace(FOUR, broken=(BrokenPicture(path="a/9.png", reason="empty"),))
    assert len(ties_of_file(broken, csv(tmp_path, "a/9.png,x", "a/1.png,x"))) == 1


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", r"is no regular expression"),
        (r"a/\d", r"--group-pattern 'a/\\d' has no capture group"),
        ("a/", r"has no capture group: put parentheses"),
        ("a/(.)", r"does not for 2 of 4: b/3\.png, b/4\.png; widen"),
        ("(a)?", r"does not for 2 of 4"),
    ],
)
def test_a_pattern_that_does_not_name_every_group_is_refused(pattern, message):
    with pytest.raises(DataError, match=message):
        ties_of_pattern(FOUR, pattern)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("jazz.00054", "jazz00054"),
        ("jazz00054.png", "jazz00054"),
        ("jazz/jazz.00054.wav", "jazz00054"),
        ("Jazz.00054.au", "jazz00054"),
        ("holiday.png", None),
        ("jazz54.png", None),
    ],
)
def test_the_ways_of_naming_an_excerpt_have_one_key(name, key):
    assert excerpt_key(name) == key
