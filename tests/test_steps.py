from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console
from rich.progress import Progress

from bench.steps import BarSteps, PlainSteps, Steps, show_steps
from tests.clock import Clock


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


def test_a_log_is_told_every_ten_seconds_how_far_a_step_is():
    log: list[str] = []
    clock = Clock()
    steps = PlainSteps(log.append, clock)

    steps.begin("reading pictures")
    for second in range(1, 26):
        clock.now_s = second
        steps.reach(100 * second, 2500)
    steps.begin("comparing", 3)
    steps.advance()
    clock.now_s = 40
    steps.advance()
    steps.begin("judging")
    clock.now_s = 60
    steps.advance()

    assert log == [
        "reading pictures",
        "reading pictures: 1,000 of 2,500",
        "reading pictures: 2,000 of 2,500",
        "comparing",
        "comparing: 2 of 3",
        "judging",
    ]


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


def test_on_a_terminal_every_step_leaves_its_line_and_the_last_one_has_the_bar():
    screen = io.StringIO()
    progress = Progress(console=Console(file=screen))
    work(BarSteps(progress))

    assert screen.getvalue().split() == ["reading", "comparing"]
    (task,) = progress.tasks
    assert (task.completed, task.total) == (1, 4)
