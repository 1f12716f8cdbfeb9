"""Groups guessed from file names, such as `blues.00012.3.png` or `song_clip3.png`."""

from __future__ import annotations

import re
from collections import Counter, defaultdict

from bench.records import Dataset, GroupGuess

# What stands between a group's name and the suffix of a file; the most telling one stands first.
_TAILS = (
    # a word for a piece, and its number: song_clip3.png, scan-slice012.png
    r"[ ._-]*(?:clip|part|seg|segment|chunk|slice|frame|crop|tile|patch|copy|aug|page|view|window"
    r"|excerpt)[ ._-]*\d+",
    # a copy as file managers name it: song (2).png
    r" ?\(\d+\)",
    # a number behind a number: blues.00012.3.png
    r"(?<=\d)[ ._-]+\d{1,4}",
    # a name and a number: yesterday_3.png
    r"(?<=[^\d ._-])[ ._-]+\d{1,5}",
)

# Shares of the pictures without a group that a pattern has to match, and of those that must then
# stand with another.
_LEAST_MATCHED = 0.5
_LEAST_TOGETHER = 0.5


def guess_groups(dataset: Dataset) -> GroupGuess | None:
    """Offer the first pattern that ties pictures without a group, more finely than classes do.

    It is one that `groups.ties_of_pattern` takes: it finds a name in every picture's path.
    """
    for tail in _TAILS:
        guess = _try(dataset, tail)
        if guess is not None:
            return guess
    return None


def _try(dataset: Dataset, tail: str) -> GroupGuess | None:
    with_tail = re.compile(rf"(?i)^(.+?){tail}\.\w+$")
    loose = [picture for picture in dataset.pictures if picture.group is None]
    members: Counter[str] = Counter()
    by_class: dict[int, set[str]] = defaultdict(set)
    for picture in loose:
        found = with_tail.match(picture.path)
        if found is not None:
            members[found[1]] += 1
            by_class[picture.label].add(found[1])
    together = sum(count for count in members.values() if count > 1)
    if members.total() < max(1, _LEAST_MATCHED * len(loose)):
        return None
    # A class whose pictures are all of one group is numbered through, not grouped.
    if together < _LEAST_TOGETHER * members.total() or any(len(g) < 2 for g in by_class.values()):
        return None
    example, _ = members.most_common(1)[0]
    return GroupGuess(
        pattern=rf"(?i)^(.+?)(?:{tail})?\.\w+$",
        groups=len(members),
        pictures=members.total(),
        example=example,
    )
