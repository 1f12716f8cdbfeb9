"""Times as a person writes them, and limits that make sense."""

from __future__ import annotations

import pytest

from bench.errors import InputError
from bench.search.budget import Budget, format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("30m", 1800), ("2h", 7200), ("1h30m", 5400), (" 1H5S ", 3605)],
)
def test_a_time_is_read_in_hours_minutes_and_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds
    assert parse_duration(format_duration(seconds)) == seconds


@pytest.mark.parametrize("text", ["", "0", "0m", "soon", "1.5h", "-3s", "30 m", "5m2h"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"a time is given like 90s, 30m or 1h30m"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("limit", "value"),
    [("trials", 0), ("patience", 0), ("retries", -1), ("max_failures", 0)],
)
def test_a_limit_that_allows_nothing_is_refused_by_name(limit: str, value: int) -> None:
    with pytest.raises(InputError, match=f"--{limit.replace('_', '-')} is at least"):
        Budget(**{"trials": 5, limit: value})
