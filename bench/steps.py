"""What a person sees of a long piece of work in steps: lines, with a bar on a terminal, or nothing.

All of it goes to standard error; standard output belongs to results. rich is imported where a bar
is drawn, so that what tells of its steps is as light as before.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

BETWEEN_LINES_S = 10.0  # a log is told so often how much of a step is done


class Steps(Protocol):
    """Hears how far a piece of work is."""

    def begin(self, what: str, parts: int | None = None) -> None:
        """A step of so many equal parts, where they can be told, follows the one before."""

    def advance(self) -> None:
        """One part of the step is done."""

    def reach(self, done: int, parts: int) -> None:
        """So many parts of the step are done, of so many."""


class SilentSteps:
    """Hears everything and says nothing."""

    def begin(self, what: str, parts: int | None = None) -> None:
        pass

    def advance(self) -> None:
        pass

    def reach(self, done: int, parts: int) -> None:
        pass


SILENT: Steps = SilentSteps()


class PlainSteps:
    """A line a step, and of a long one how far it is, for logs and pipes. `clock` tells seconds."""

    def __init__(
        self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._say, self._clock = say, clock
        self._said_s = clock()
        self._what = ""
        self._done = 0
        self._parts: int | None = None

    def begin(self, what: str, parts: int | None = None) -> None:
        self._what, self._done, self._parts = what, 0, parts
        self._said_s = self._clock()
        self._say(what)

    def advance(self) -> None:
        self._done += 1
        if self._parts is not None:
            self.reach(self._done, self._parts)

    def reach(self, done: int, parts: int) -> None:
        self._done, self._parts = done, parts
        if self._clock() - self._said_s >= BETWEEN_LINES_S:
            self._said_s = self._clock()
            self._say(f"{self._what}: {done:,} of {parts:,}")


class BarSteps:
    """A line a step, and below it a bar, redrawn in place, with the time that is left."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None

    def begin(self, what: str, parts: int | None = None) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._progress.console.print(what, highlight=False, markup=False)
        self._task = self._progress.add_task("", total=parts)

    def advance(self) -> None:
        if self._task is not None:
            self._progress.advance(self._task)

    def reach(self, done: int, parts: int) -> None:
        if self._task is not None:
            self._progress.update(self._task, completed=done, total=parts)


@contextmanager
def bar_steps(console: Console) -> Iterator[Steps]:
    """Draw steps on a terminal for as long as the block lasts."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress
    from rich.progress import TimeRemainingColumn as TimeLeft

    columns = (BarColumn(), MofNCompleteColumn(), TimeLeft())
    # Standard output is not redirected: it may be a file, and belongs to results.
    with Progress(*columns, console=console, transient=True, redirect_stdout=False) as progress:
        yield BarSteps(progress)


@contextmanager
def show_steps(*, quiet: bool) -> Iterator[Steps]:
    """Choose a display: lines, with a bar on a terminal; nothing when quiet."""
    if quiet:
        yield SILENT
    elif not sys.stderr.isatty():
        yield PlainSteps(lambda line: print(line, file=sys.stderr, flush=True))
    else:
        from rich.console import Console

        with bar_steps(Console(stderr=True)) as steps:
            yield steps
