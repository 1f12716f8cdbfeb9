"""Counts and lists in words."""

from __future__ import annotations

from collections.abc import Sequence

_SHOWN = 5  # of what a message could list without end


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return `1 trial`, `2 trials`, `20,000 pictures`; `plural` where an s does not make it."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def some(names: Sequence[str]) -> str:
    """Return `a, b, c`; of many names the first five and how many more there are."""
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
