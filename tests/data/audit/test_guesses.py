from __future__ import annotations

import pytest

from bench.data.audit.guesses import guess_groups
from bench.data.groups import ties_of_pattern
from tests.data.named import dataset_of


@pytest.mark.parametrize(
    ("template", "group"),
    [
        ("{c}/{c}.0001{s}.{k}.png", "{c}/{c}.0001{s}"),
        ("{c}/song{s}_clip{k}.png", "{c}/song{s}"),
        ("{c}/song{s}-Part-0{k}.jpeg", "{c}/song{s}"),
        ("{c}/song{s} ({k}).png", "{c}/song{s}"),
        ("{c}/scan {s}a_{k}.png", "{c}/scan {s}a"),
    ],
)
def test_groups_in_names_are_offered_with_a_pattern_that_finds_them(template, group):
    paths = [template.format(c=c, s=s, k=k) for c in "ab" for s in (1, 2, 3) for k in (1, 2)]

    dataset = dataset_of(*paths, "a/lone.png")
    guess = guess_groups(dataset)

    assert guess is not None
    assert (guess.groups, guess.pictures) == (6, 12)
    found = {tie.group for tie in ties_of_pattern(dataset, guess.pattern)}
    assert found == {group.format(c=c, s=s) for c in "ab" for s in (1, 2, 3)} | {"a/lone"}
    assert guess.example in found


@pytest.mark.parametrize(
    "paths",
    [
        [f"{c}/{c}{k:05d}.png" for c in ("blues", "jazz") for k in range(6)],
        [f"{c}/{c}.{k:05d}.png" for c in ("blues", "jazz") for k in range(6)],
        [f"{c}/IMG_{k}.png" for c in ("cat", "dog") for k in range(6)],
        [f"{c}/{name}.png" for c in ("cat", "dog") for name in ("one", "two", "three")],
    ],
    ids=["numbers", "numbers behind a dot", "a camera's numbers", "words"],
)
def test_names_that_number_a_class_through_suggest_nothing(paths):
    assert guess_groups(dataset_of(*paths)) is None


def test_pictures_that_have_groups_need_no_guess():
    paths = [f"{c}/song{s}_clip{k}.png" for c in "ab" for s in (1, 2) for k in (1, 2)]

    assert guess_groups(dataset_of(*paths, groups=dict.fromkeys(paths, "given"))) is None
