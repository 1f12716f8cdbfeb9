"""Training on this machine: in this process, or in worker processes."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, wait

from bench.records import EpochDone, Event, StudyPlan, TrialFailed, TrialJob
from bench.search.executors.protocol import WORKER_DIED, MakeTrainer, Trains, make_trainer
from bench.workspace import usable_cores


class InlineExecutor:
    """Trains in this process, one trial at a time.

    Nothing can interrupt it: `next_event` returns when an event is there, whatever its timeout,
    and `cancel` only reaches a trial that waits for an answer.
    """

    slots = 1

    def __init__(self, plan: StudyPlan, make_trainer: MakeTrainer = make_trainer) -> None:
        self._trainer = make_trainer(plan, 1)
        self._events: Generator[Event, bool, None] | None = None
        self._started = False

    def submit(self, job: TrialJob) -> None:
        self._events = self._trainer.run(job)
        self._started = False

    def next_event(self, timeout_s: float | None = None) -> Event | None:
        if self._events is None:
            return None
        event = self._events.send(True) if self._started else next(self._events)
        self._started = True
        if not isinstance(event, EpochDone):
            self.close()
        return event

    def answer(self, trial: int, *, go_on: bool) -> None:
        if not go_on:
            self.close()

    def cancel(self, trial: int) -> None:
        self.close()

    def close(self) -> None:
        if self._events is not None:
            self._events.close()
            self._events = None


class ProcessExecutor:
    """Trains in worker processes of this machine, one trial each.

    A worker that dies (killed, out of memory, a crash in native code) fails its trial with a
    name, and another one takes its place. Each sees one GPU, the cores are divided.
    """

    def __init__(
        self, plan: StudyPlan, workers: int, make_trainer: MakeTrainer = make_trainer
    ) -> None:
        self._gpus = visible_gpus() if plan.device == "cuda" else ()
        sharing = math.ceil(workers / len(self._gpus)) if self._gpus else workers
        self._of_worker = (plan, sharing, make_trainer)
        self._context = multiprocessing.get_context("spawn")
        self._free_places = deque(range(workers))
        self._idle: deque[_Worker] = deque()
        self._busy: dict[int, _Worker] = {}
        self.slots = workers

    def submit(self, job: TrialJob) -> None:
        worker = self._idle.popleft() if self._idle else self._start_worker()
        try:
            worker.connection.send(job)
        except (BrokenPipeError, ConnectionResetError):  # it died while it was idle
            self._kill(worker)
            self.submit(job)
        else:
            self._busy[job.number] = worker

    def next_event(self, timeout_s: float | None = None) -> Event | None:
        if not self._busy:
            return None
        waiting = {worker.connection: number for number, worker in self._busy.items()}
        ready = wait(list(waiting), timeout_s)
        if not ready:
            return None
        # The lowest trial number first, so that ties are always broken the same way.
        number = min(waiting[connection] for connection in ready)  # type: ignore[index]
        worker = self._busy[number]
        try:
            event: Event = worker.connection.recv()
        except (EOFError, OSError):  # OSError: it died in the middle of an event
            del self._busy[number]
            said = worker.last_words()
            self._kill(worker)
            return TrialFailed(trial=number, kind=WORKER_DIED, message=said)
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

    def cancel(self, trial: int) -> None:
        self._kill(self._busy.pop(trial))

    def close(self) -> None:
        for worker in [*self._idle, *self._busy.values()]:
            self._kill(worker)
        self._idle.clear()
        self._busy.clear()

    def _start_worker(self) -> _Worker:
        place = self._free_places.popleft()
        with _environment(worker_environment(place, self.slots, self._gpus)):
            return _Worker(self._context, place, self._of_worker)

    def _kill(self, worker: _Worker) -> None:
        worker.kill()
        self._free_places.append(worker.place)


class _Worker:
    def __init__(
        self,
        context: multiprocessing.context.SpawnContext,
        place: int,
        of_worker: tuple[StudyPlan, int, MakeTrainer],
    ) -> None:
        self.place = place
        self.connection, remote = context.Pipe()
        self._process = context.Process(target=_work, args=(remote, *of_worker), daemon=True)
        self._process.start()
        remote.close()

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self.connection.close()

    def last_words(self) -> str:
        self._process.join()
        code = self._process.exitcode or 0
        if code < 0:
            return f"the worker was killed by {signal.Signals(-code).name}"
        return f"the worker ended with exit code {code}"


def _work(connection: Connection, plan: StudyPlan, sharing: int, make_trainer: MakeTrainer) -> None:
    """A worker's life: take a job, tell its events, wait for answers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the coordinator's to handle
    trainer = make_trainer(plan, sharing)
    # A connection ends with its coordinator, however that died: then nobody is left to be told.
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            _train(connection, trainer, connection.recv())


def _train(connection: Connection, trainer: Trains, job: TrialJob) -> None:
    events = trainer.run(job)
    event = next(events)
    while isinstance(event, EpochDone):
        connection.send(event)
        if not connection.recv():
            events.close()
            return
        event = events.send(True)
    connection.send(event)


# --- what a worker may use ------------------------------------------------------------------


def visible_gpus() -> tuple[str, ...]:
    """The GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named:
        return tuple(named.split(","))
    import torch

    return tuple(str(index) for index in range(torch.cuda.device_count()))


def worker_environment(place: int, workers: int, gpus: Sequence[str]) -> dict[str, str]:
    """Environment variables that give the worker at `place` its share of this machine.

    Libraries read them as they are loaded, so they are set before a worker begins.
    """
    environment = {}
    if workers > 1:
        threads = max(1, usable_cores() // workers)
        given = os.environ.get("OMP_NUM_THREADS", "")
        if given.isdecimal():
            threads = min(threads, int(given))
        environment["OMP_NUM_THREADS"] = str(threads)
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = gpus[place % len(gpus)]
    return environment


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the processes that the block starts."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
