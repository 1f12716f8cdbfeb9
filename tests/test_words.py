"""A number agrees with its noun, and a list ends."""

from __future__ import annotations

import pytest

from bench.words import counted, some


@pytest.mark.parametrize(
    ("number", "noun", "said"),
    [
        (0, ("trial",), "0 trials"),
        (1, ("trial",), "1 trial"),
        (2, ("trial",), "2 trials"),
        (1, ("class", "classes"), "1 class"),
        (2, ("class", "classes"), "2 classes"),
        (20_000, ("picture",), "20,000 pictures"),
    ],
)
def test_a_number_agrees_with_its_noun(number: int, noun: tuple[str, ...], said: str) -> None:
    assert counted(number, *noun) == said


@pytest.mark.parametrize(
    ("names", "said"),
    [("a", "a"), ("abcde", "a, b, c, d, e"), ("abcdefg", "a, b, c, d, e and 2 more")],
)
def test_of_many_names_five_are_told_and_the_rest_is_counted(names: str, said: str) -> None:
    assert some(list(names)) == said


def test_what_holds_commas_itself_is_parted_otherwise_and_cut_elsewhere() -> None:
    assert some(["a, b", "c", "d"], most=2, separator="; ") == "a, b; c and 1 more"
