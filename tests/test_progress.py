"""What a search shows on the way; the lines of finished trials are tested with the command."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from bench.listener import Display
from bench.progress import LiveProgress, PlainProgress, SilentProgress
from bench.records import Recipe, StudyPlan
from tests.clock import Clock
from tests.records import epoch_scores


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


def test_a_log_is_told_once_a_minute_how_far_a_trial_is(plan: StudyPlan) -> None:
    log, clock = io.StringIO(), Clock()
    progress = PlainProgress(Console(file=log), clock)
    progress.search_started(plan, finished=0, total=2, best=None)
    progress.trial_started(0, Recipe(backbone="resnet50"))

    for second, fold, epoch in ((50, 0, 0), (100, 0, 1), (159, 1, 0), (200, 1, 1)):
        clock.now_s = second
        progress.epoch_scored(0, epoch_scores(fold, epoch), mean=0.5)
    progress.trial_ended(0, "COMPLETE", 0.5)

    *running, ended = log.getvalue().splitlines()
    assert running == [
        "trial   0  running  0.500  fold 1 of 2, epoch 2 of 2",
        "trial   0  running  0.500  fold 2 of 2, epoch 2 of 2",
    ]
    assert ended.startswith("trial   0  complete 0.500")


@pytest.mark.parametrize("numbers", [(0, 1), (1, 0)])
def test_of_trials_with_equal_scores_the_first_is_the_best_whichever_ended_first(
    plan: StudyPlan, numbers: tuple[int, int]
) -> None:
    log = io.StringIO()
    progress = PlainProgress(Console(file=log), Clock())
    progress.search_started(plan, finished=0, total=2, best=None)
    for number in numbers:
        progress.trial_started(number, Recipe(backbone="resnet50"))
    for number in numbers:
        progress.trial_ended(number, "COMPLETE", 0.5)

    assert log.getvalue().splitlines()[-1].endswith("[2/2, best 0.500 (trial 0)]")


def test_while_trials_end_within_a_minute_a_log_has_a_line_a_trial(plan: StudyPlan) -> None:
    log, clock = io.StringIO(), Clock()
    progress = PlainProgress(Console(file=log), clock)
    progress.search_started(plan, finished=0, total=3, best=None)

    for number in range(3):
        progress.trial_started(number, Recipe(backbone="resnet50"))
        clock.now_s += 59
        progress.epoch_scored(number, epoch_scores(0, 0), mean=0.5)
        progress.trial_ended(number, "COMPLETE", 0.5)

    first, _, last = log.getvalue().splitlines()
    assert first.endswith("[1/3, best 0.500 (trial 0), trials done in 1:58]")
    assert last.endswith("[3/3, best 0.500 (trial 0)]")  # promotion follows
