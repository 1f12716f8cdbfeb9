"""What the displays say of a stage that counts what it does."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from bench.progress import LiveProgress, PlainProgress, SilentProgress


class Clock:
    """Seconds that pass when the test says so."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def log() -> io.StringIO:
    return io.StringIO()


def test_a_log_is_told_of_a_count_every_ten_seconds(log: io.StringIO) -> None:
    clock = Clock()
    progress = PlainProgress(Console(file=log), clock)

    with progress.counting("reading pictures") as count:
        for second in range(1, 26):
            clock.now_s = second
            count(100 * second, 2500)

    assert log.getvalue().splitlines() == [
        "reading pictures: 1,000 of 2,500",
        "reading pictures: 2,000 of 2,500",
    ]


def test_on_a_terminal_a_count_is_a_bar_which_ends_with_its_stage(log: io.StringIO) -> None:
    progress = LiveProgress(Console(file=log, force_terminal=True, width=100))

    with pytest.raises(OSError, match="gone"), progress.counting("reading pictures") as count:
        count(3, 10)
        progress.stage("a line above the bar")
        raise OSError("gone")

    said = log.getvalue()
    assert "reading pictures" in said
    assert "3/10" in said
    assert "a line above the bar" in said
    assert said.rindex("\x1b[?25h") > said.rindex("\x1b[?25l")  # the cursor is back


def test_quiet_is_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    with SilentProgress().counting("reading pictures") as count:
        count(1, 2)

    assert capfd.readouterr() == ("", "")
