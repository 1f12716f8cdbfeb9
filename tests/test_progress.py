"""A search shows its stages as all other long work does; trials are tested with the command."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from bench.progress import LiveProgress, PlainProgress, SilentProgress
from bench.search.listener import Display


def shown(display: Display) -> None:
    with pytest.raises(OSError, match="gone"), display.steps() as steps:
        steps.begin("reading pictures")
        steps.reach(3, 10)
        display.stage("a line of another kind")
        raise OSError("gone")


def test_a_log_has_a_line_a_stage() -> None:
    log = io.StringIO()
    shown(PlainProgress(Console(file=log)))
    assert log.getvalue().splitlines() == ["reading pictures", "a line of another kind"]


def test_on_a_terminal_a_stage_has_a_bar_which_ends_with_it() -> None:
    screen = io.StringIO()
    shown(LiveProgress(Console(file=screen, force_terminal=True, width=100)))

    said = screen.getvalue()
    for line in ("reading pictures", "3/10", "a line of another kind"):
        assert line in said
    assert said.rindex("\x1b[?25h") > said.rindex("\x1b[?25l")  # the cursor is back


def test_quiet_is_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    shown(SilentProgress())
    assert capfd.readouterr() == ("", "")
