from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console
from rich.progress import Progress

from bench.steps import BarSteps, Steps, show_steps


def work(steps: Steps) -> None:
    steps.begin("reading")
    steps.begin("comparing", 4)
    steps.advance()


@pytest.mark.parametrize(("quiet", "said"), [(False, "reading\ncomparing\n"), (True, "")])
def test_steps_are_lines_of_standard_error_where_it_is_no_terminal(quiet, said, capsys):
    with show_steps(quiet=quiet) as steps:
        work(steps)

    told = capsys.readouterr()
    assert (told.out, told.err) == ("", said)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_a_line_is_redrawn_and_results_stay_on_standard_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")

    with show_steps(quiet=False) as steps:
        work(steps)
        print("result")

    assert "comparing" in screen.getvalue()
    assert capsys.readouterr().out == "result\n"


def test_a_bar_shows_the_last_step_and_how_much_of_it_is_done():
    progress = Progress(console=Console(file=io.StringIO()))
    work(BarSteps(progress))

    (task,) = progress.tasks
    assert (task.description, task.completed, task.total) == ("comparing", 1, 4)
