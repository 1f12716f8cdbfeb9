"""A count agrees with its noun."""

from __future__ import annotations

import pytest

from bench.words import counted


@pytest.mark.parametrize(
    ("number", "noun", "plural", "said"),
    [
        (0, "trial", None, "0 trials"),
        (1, "trial", None, "1 trial"),
        (2, "trial", None, "2 trials"),
        (1, "class", "classes", "1 class"),
        (2, "class", "classes", "2 classes"),
        (1_234_567, "picture", None, "1,234,567 pictures"),
    ],
)
def test_a_count_agrees_with_its_noun(number, noun, plural, said):
    assert counted(number, noun, plural) == said
