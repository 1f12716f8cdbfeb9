"""When a search ends: at its number of trials, or earlier, at a limit that the user has set."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bench.errors import InputError

_DURATION = re.compile(r"(?:(?P<h>\d+)h)?(?:(?P<m>\d+)m)?(?:(?P<s>\d+)s?)?")
_SECONDS = {"h": 3600, "m": 60, "s": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What a run of a study may cost. Trials count over all runs, time over this one.

    `patience` ends a study whose best score has not risen over so many finished trials,
    `trial_timeout_s` a single trial; `retries` and `max_failures` say how failures are borne.
    """

    trials: int
    timeout_s: float | None = None
    patience: int | None = None
    trial_timeout_s: float | None = None
    retries: int = 1
    max_failures: int = 10

    def __post_init__(self) -> None:
        for name, least in (("trials", 1), ("patience", 1), ("retries", 0), ("max_failures", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"--{name.replace('_', '-')} is at least {least}, not {value}")


def parse_duration(text: str) -> float:
    """Turn 90, 90s, 30m or 1h30m into seconds.

    Raises:
        InputError: it is none of these, or no time at all.
    """
    found = _DURATION.fullmatch(text.strip().lower())
    seconds = sum(int(found[unit] or 0) * _SECONDS[unit] for unit in _SECONDS) if found else 0
    if not seconds:
        raise InputError(f"a time is given like 90s, 30m or 1h30m, not {text!r}")
    return float(seconds)


def format_duration(seconds: float) -> str:
    """The shortest text that `parse_duration` would read so: 5400 -> 1h30m."""
    hours, rest = divmod(round(seconds), 3600)
    minutes, rest = divmod(rest, 60)
    parts = [f"{hours}h" * bool(hours), f"{minutes}m" * bool(minutes), f"{rest}s" * bool(rest)]
    return "".join(parts) or "0s"
