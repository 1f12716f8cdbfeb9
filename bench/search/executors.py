"""Where trials are trained: in this process, or in local worker processes.

An executor trains and reports; it never sees the study. After every epoch it waits for an answer,
so that pruning is decided before the next epoch starts and the same study gives the same trials
however it is executed.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections import deque
from multiprocessing.connection import Connection, wait
from typing import Protocol

from bench.records import EpochDone, Event, StudyPlan, TrialFailed, TrialJob
from bench.workspace import usable_cores


class Executor(Protocol):
    """Trains up to `slots` trials at a time."""

    @property
    def slots(self) -> int: ...

    def submit(self, job: TrialJob) -> None:
        """Start a trial; at most `slots` may be unfinished."""
        ...

    def next_event(self) -> Event:
        """Wait for the next event of any trial; the last one of a trial frees its slot."""
        ...

    def answer(self, trial: int, *, go_on: bool) -> None:
        """Answer a trial's `EpochDone`; a trial told to stop sends nothing more."""
        ...

    def close(self) -> None:
        """Stop everything; unfinished trials are dropped."""
        ...


class InlineExecutor:
    """Trains in this process, one trial at a time."""

    slots = 1

    def __init__(self, plan: StudyPlan) -> None:
        from bench.training.trainer import Trainer, TrialEvents

        self._trainer = Trainer(plan)
        self._events: TrialEvents | None = None
        self._started = False

    def submit(self, job: TrialJob) -> None:
        self._events = self._trainer.run(job)
        self._started = False

    def next_event(self) -> Event:
        assert self._events is not None
        event = self._events.send(True) if self._started else next(self._events)
        self._started = True
        return event

    def answer(self, trial: int, *, go_on: bool) -> None:
        if not go_on:
            self.close()

    def close(self) -> None:
        if self._events is not None:
            self._events.close()
            self._events = None


class ProcessExecutor:
    """Trains in worker processes of this machine, one trial each.

    A worker that dies (killed, out of memory, a crash in native code) fails its trial with a
    name, and another one takes its place.
    """

    def __init__(self, plan: StudyPlan, workers: int) -> None:
        self._plan = plan
        self._context = multiprocessing.get_context("spawn")
        self._idle: deque[_Worker] = deque()
        self._busy: dict[int, _Worker] = {}
        self.slots = workers

    def submit(self, job: TrialJob) -> None:
        worker = (
            self._idle.popleft() if self._idle else _Worker(self._context, self._plan, self.slots)
        )
        try:
            worker.connection.send(job)
        except (BrokenPipeError, ConnectionResetError):  # it died while it was idle
            worker.kill()
            self.submit(job)
        else:
            self._busy[job.number] = worker

    def next_event(self) -> Event:
        waiting = {worker.connection: number for number, worker in self._busy.items()}
        ready = wait(list(waiting))
        # The lowest trial number first, so that ties are always broken the same way.
        number = min(waiting[connection] for connection in ready)  # type: ignore[index]
        worker = self._busy[number]
        try:
            event: Event = worker.connection.recv()
        except (EOFError, ConnectionResetError):
            del self._busy[number]
            return TrialFailed(trial=number, kind="worker died", message=worker.last_words())
        if not isinstance(event, EpochDone):
            self._idle.append(self._busy.pop(number))
        return event

    def answer(self, trial: int, *, go_on: bool) -> None:
        worker = self._busy[trial]
        # A worker that has died meanwhile is told of by the next event.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            worker.connection.send(go_on)
        if not go_on:
            self._idle.append(self._busy.pop(trial))

    def close(self) -> None:
        for worker in [*self._idle, *self._busy.values()]:
            worker.kill()
        self._idle.clear()
        self._busy.clear()


class _Worker:
    def __init__(
        self, context: multiprocessing.context.SpawnContext, plan: StudyPlan, workers: int
    ) -> None:
        self.connection, remote = context.Pipe()
        self._process = context.Process(target=_work, args=(remote, plan, workers), daemon=True)
        self._process.start()
        remote.close()

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self.connection.close()

    def last_words(self) -> str:
        self._process.join()
        code = self._process.exitcode or 0
        self.connection.close()
        if code < 0:
            return f"the worker was killed by {signal.Signals(-code).name}"
        return f"the worker ended with exit code {code}"


def _work(connection: Connection, plan: StudyPlan, workers: int) -> None:
    """A worker's life: take a job, tell its events, wait for answers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the coordinator's to handle
    import torch

    from bench.training.trainer import Trainer

    torch.set_num_threads(min(torch.get_num_threads(), max(1, usable_cores() // workers)))
    trainer = Trainer(plan, workers=workers)
    while True:
        try:
            job: TrialJob = connection.recv()
        except EOFError:
            return
        events = trainer.run(job)
        event = next(events)
        while isinstance(event, EpochDone):
            connection.send(event)
            if not connection.recv():
                events.close()
                break
            event = events.send(True)
        else:
            connection.send(event)


def make_executor(plan: StudyPlan, workers: int) -> Executor:
    """One worker trains in this process; more are processes that share the cores."""
    return InlineExecutor(plan) if workers == 1 else ProcessExecutor(plan, workers)
