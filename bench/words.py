"""Counts and lists in words."""

from __future__ import annotations

from collections.abc import Sequence


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return `1 trial`, `2 trials`, `20,000 pictures`; `plural` where an s does not make it."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def some(names: Sequence[str], *, most: int = 5, separator: str = ", ") -> str:
    """Return `a, b, c`; of more names than `most`, those and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return separator.join(names[:most]) + more
