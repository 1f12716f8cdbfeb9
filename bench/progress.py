"""What a person sees while a search runs: a live table, plain lines, or nothing.

All of it goes to standard error; standard output belongs to results.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from bench.listener import Display
from bench.records import EpochScores, Recipe, StudyPlan, TrialState, trial_order
from bench.steps import SILENT, PlainSteps, Steps, bar_steps
from bench.words import counted

BETWEEN_LINES_S = 60.0  # a log is told so often how far a trial is

Clock = Callable[[], float]  # tells seconds


@dataclass(slots=True)
class _Running:
    recipe: Recipe
    scores: EpochScores | None = None
    mean: float | None = None


@dataclass(slots=True)
class _Tally:
    """What both displays count."""

    clock: Clock
    total: int = 0
    finished: int = 0
    before: int = 0
    folds: int = 0
    epochs: int = 0
    best: tuple[float, int] | None = None
    started_s: float = 0.0
    epochs_seen: int = 0
    running: dict[int, _Running] = field(default_factory=dict)

    def begin(
        self, plan: StudyPlan, finished: int, total: int, best: tuple[float, int] | None
    ) -> None:
        self.total, self.finished, self.before, self.best = total, finished, finished, best
        self.folds, self.epochs = len(plan.split.folds), plan.settings.epochs
        self.started_s = self.clock()

    def end(self, number: int, state: TrialState, value: float | None) -> None:
        self.running.pop(number, None)
        self.finished += state in ("COMPLETE", "PRUNED")
        if state == "COMPLETE" and value is not None:
            scores = (value, number), self.best or (value, number)
            self.best = max(scores, key=lambda score: trial_order(*score))

    def time_left(self) -> str:
        """How long the trials to come may take; nothing after the last, as promotion follows."""
        done, to_come = self.finished - self.before, self.total - self.finished
        if to_come <= 0:
            return ""
        if not done:
            return "trials done in –"
        return f"trials done in {clock_time((self.clock() - self.started_s) / done * to_come)}"

    def rate(self) -> str:
        minutes = (self.clock() - self.started_s) / 60
        return f"{self.epochs_seen / minutes:.0f} epochs/min" if self.epochs_seen else ""

    def best_text(self) -> str:
        return f"{self.best[0]:.3f} (trial {self.best[1]})" if self.best else "–"


class SilentProgress:
    """Hears everything and says nothing."""

    def stage(self, text: str) -> None:
        pass

    def search_started(
        self, plan: StudyPlan, *, finished: int, total: int, best: tuple[float, int] | None
    ) -> None:
        pass

    def trial_started(self, number: int, recipe: Recipe) -> None:
        pass

    def epoch_scored(self, number: int, scores: EpochScores, mean: float) -> None:
        pass

    def trial_ended(
        self, number: int, state: TrialState, value: float | None, error: str | None = None
    ) -> None:
        pass

    def search_ended(self) -> None:
        pass

    def steps(self) -> AbstractContextManager[Steps]:
        return nullcontext(SILENT)


class _CountingProgress(SilentProgress):
    """What the displays share: they count, and draw what runs if they have a picture of it."""

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._tally = _Tally(clock)

    def trial_started(self, number: int, recipe: Recipe) -> None:
        self._tally.running[number] = _Running(recipe)
        self._draw()

    def epoch_scored(self, number: int, scores: EpochScores, mean: float) -> None:
        running = self._tally.running[number]
        running.scores, running.mean = scores, mean
        self._tally.epochs_seen += 1
        self._draw()

    def _draw(self) -> None:
        pass


class PlainProgress(_CountingProgress):
    """One line a finished trial, and of a long one how far it is, for logs and pipes."""

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        super().__init__(console, clock)
        self._said_s = clock()

    def _say(self, text: str) -> None:
        self._said_s = self._clock()
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def stage(self, text: str) -> None:
        self._say(text)

    def search_started(
        self, plan: StudyPlan, *, finished: int, total: int, best: tuple[float, int] | None
    ) -> None:
        self._tally.begin(plan, finished, total, best)
        if finished:
            self._say(f"going on with {finished} of {counted(total, 'trial')} finished")

    def trial_ended(
        self, number: int, state: TrialState, value: float | None, error: str | None = None
    ) -> None:
        recipe = self._tally.running[number].recipe
        self._tally.end(number, state, value)
        shown = "–" if value is None else f"{value:.3f}"
        tally = self._tally
        how_far = f"{tally.finished}/{tally.total}", f"best {tally.best_text()}", tally.time_left()
        self._say(
            f"trial {number:>3}  {state.lower():<8} {shown}  {describe(recipe)}  "
            f"[{', '.join(filter(None, how_far))}]" + (f"  {error}" if error else "")
        )

    def epoch_scored(self, number: int, scores: EpochScores, mean: float) -> None:
        super().epoch_scored(number, scores, mean)
        if self._clock() - self._said_s >= BETWEEN_LINES_S:
            self._say(
                f"trial {number:>3}  running  {mean:.3f}  fold {scores.fold + 1} of "
                f"{self._tally.folds}, epoch {scores.epoch + 1} of {self._tally.epochs}"
            )

    def steps(self) -> AbstractContextManager[Steps]:
        return nullcontext(PlainSteps(self._say, self._clock))


class LiveProgress(_CountingProgress):
    """A table of running trials and a bar, redrawn in place; finished trials scroll above."""

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        super().__init__(console, clock)
        self._live: Live | None = None

    def stage(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False)

    def search_started(
        self, plan: StudyPlan, *, finished: int, total: int, best: tuple[float, int] | None
    ) -> None:
        self._tally.begin(plan, finished, total, best)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._live.start()
        self._draw()

    def trial_ended(
        self, number: int, state: TrialState, value: float | None, error: str | None = None
    ) -> None:
        recipe = self._tally.running[number].recipe
        self._tally.end(number, state, value)
        shown = "–" if value is None else f"{value:.3f}"
        colour = {"COMPLETE": "green", "PRUNED": "yellow"}.get(state, "red")
        self._console.print(
            f"trial {number:>3}  [{colour}]{state.lower():<8}[/] {shown}  "
            + escape(describe(recipe))
            + (f"  [red]{escape(error)}[/]" if error else ""),
            highlight=False,
        )
        self._draw()

    def search_ended(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def steps(self) -> AbstractContextManager[Steps]:
        return bar_steps(self._console)

    def _draw(self) -> None:
        if self._live is not None:
            self._live.update(self._picture(), refresh=True)

    def _picture(self) -> Group:
        tally = self._tally
        table = Table("trial", "fold", "epoch", "balanced accuracy", "recipe", box=None)
        for number, running in sorted(tally.running.items()):
            scores = running.scores
            table.add_row(
                str(number),
                f"{scores.fold + 1}/{tally.folds}" if scores else "–",
                f"{scores.epoch + 1}/{tally.epochs}" if scores else "–",
                f"{running.mean:.3f}" if running.mean is not None else "–",
                describe(running.recipe),
            )
        bar = Progress(
            TextColumn("trials"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(f"best {tally.best_text()}  {tally.rate()}  {tally.time_left()}"),
        )
        bar.add_task("", total=tally.total, completed=tally.finished)
        return Group(table, bar)


def clock_time(seconds: float) -> str:
    """Return 5:07 for 307 seconds, 1:05:07 for an hour more."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def describe(recipe: Recipe) -> str:
    """The parameters that matter most, in one line."""
    return (
        f"{recipe.backbone} depth {recipe.freeze_depth} lr {recipe.learning_rate:.1e} "
        f"{recipe.augmentation}"
    )


def make_progress(*, quiet: bool) -> Display:
    """Choose a display: a live table on a terminal, lines elsewhere, nothing when quiet."""
    console = Console(stderr=True)
    if quiet:
        return SilentProgress()
    return LiveProgress(console) if console.is_terminal else PlainProgress(console)
