"""What a person sees of a long piece of work in steps: a bar, plain lines, or nothing.

All of it goes to standard error; standard output belongs to results. rich is imported where a bar
is drawn, so that what tells of its steps is as light as before.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class Steps(Protocol):
    """Hears how far a piece of work is."""

    def begin(self, what: str, parts: int | None = None) -> None:
        """A step of so many equal parts, where they can be told, follows the one before."""

    def advance(self) -> None:
        """One part of the step is done."""


class SilentSteps:
    """Hears everything and says nothing."""

    def begin(self, what: str, parts: int | None = None) -> None:
        pass

    def advance(self) -> None:
        pass


SILENT: Steps = SilentSteps()


class PlainSteps(SilentSteps):
    """One line a step, for logs and pipes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def begin(self, what: str, parts: int | None = None) -> None:
        print(what, file=self._stream, flush=True)


class BarSteps:
    """One line, redrawn in place: the step, how much of it is done, and the time that is left."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None

    def begin(self, what: str, parts: int | None = None) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(what, total=parts)

    def advance(self) -> None:
        if self._task is not None:
            self._progress.advance(self._task)


@contextmanager
def show_steps(*, quiet: bool) -> Iterator[Steps]:
    """Choose a display: a line on a terminal, lines elsewhere, nothing when quiet."""
    if quiet:
        yield SILENT
        return
    if not sys.stderr.isatty():
        yield PlainSteps(sys.stderr)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
    from rich.progress import TimeRemainingColumn as TimeLeft

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeLeft(),
    )
    # Standard output is not redirected: it may be a file, and belongs to results.
    with Progress(
        *columns, console=Console(stderr=True), transient=True, redirect_stdout=False
    ) as progress:
        yield BarSteps(progress)
