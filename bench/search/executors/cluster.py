"""Training on the nodes of a Ray cluster.

Trials run in actors, not in tasks, because a trainer keeps networks and decoded pictures between
trials. An actor's method returns with the next event, so an answer is the call for the next one
and nothing streams. Ray schedules and tells of deaths; the study stays with the coordinator.

A node that sees the coordinator's workspace works in it. One that does not has a workspace of its
own, builds its stores there once, and its finished folds travel with the events.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
import uuid
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from bench.errors import BenchError, DataError, DeviceError, InputError
from bench.models.weights import refuse_changed_weights
from bench.records import EpochDone, Event, StudyPlan, TrialFailed, TrialJob
from bench.search.executors.protocol import WORKER_DIED, MakeTrainer, Trains, make_trainer
from bench.training.folds import fold_file
from bench.workspace import Workspace, usable_cores, write_atomic

_LOCAL = "local"
_LOOPBACK = "127.0.0.1"
# A plan is a few megabytes; Ray would reserve a third of the memory for larger things.
_OBJECT_STORE_BYTES = 128 << 20
_ANSWER_S = 5.0
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class RayExecutor:
    """Trains on a Ray cluster, as many trials at a time as its nodes (and `workers`) allow.

    `address` is `host:port`, `auto` for the cluster that this machine belongs to, or `local` for
    one of this machine alone that ends with the executor.

    Raises:
        InputError: no cluster answers at `address`.
        DeviceError: no node has what a trial needs.
    """

    def __init__(
        self,
        plan: StudyPlan,
        address: str,
        workers: int | None = None,
        make_trainer: MakeTrainer = make_trainer,
    ) -> None:
        # Nodes have another working directory.
        self._plan = replace(plan, workspace=str(Path(plan.workspace).absolute()))
        self._workspace = Workspace(Path(self._plan.workspace))
        self._workers = workers
        self._idle: list[Any] = []
        self._busy: dict[int, _Running] = {}
        with ExitStack() as stack:
            # Ray's remarks on dying workers go to standard output, which belongs to results.
            stack.enter_context(redirect_stdout(sys.stderr))
            if connect(address):
                stack.callback(ray.shutdown)
            nodes = _nodes()
            self._share = share_of(nodes, plan.device, workers)
            self.slots = self._capacity()
            mark = self._workspace.cache / f".seen-by-nodes-{uuid.uuid4().hex}"
            write_atomic(mark, b"")
            stack.callback(mark.unlink, missing_ok=True)
            self._actor = ray.remote(
                num_cpus=self._share.cpus, num_gpus=self._share.gpus, max_restarts=0
            )(_Worker)
            sharing = 1 if self._share.gpus else max(self._share.fits(node) for node in nodes)
            self._of_worker = ray.put((self._plan, str(mark), sharing, make_trainer))
            self._stack = stack.pop_all()

    def submit(self, job: TrialJob) -> None:
        warm = bool(self._idle)
        worker = self._idle.pop() if warm else self._actor.remote(self._of_worker)
        due = worker.start.remote(job, self._finished_folds(job.number))
        self._busy[job.number] = _Running(job=job, worker=worker, due=due, warm=warm)

    def next_event(self, timeout_s: float | None = None) -> Event | None:
        # Those that are ready come in this order: ties are always broken the same way.
        due = {self._busy[number].due: number for number in sorted(self._busy)}
        if not due:
            return None
        ready, _ = ray.wait(list(due), timeout=timeout_s)
        if not ready:
            return None
        running = self._busy[due[ready[0]]]
        try:
            told: _Told = ray.get(ready[0])
        except RayTaskError as error:
            if isinstance(error.cause, BenchError):
                raise error.cause from None
            return self._bury(running, error)
        except RayError as error:
            if running.warm and not running.heard:  # it died while it was idle
                del self._busy[running.job.number]
                self.submit(running.job)
                return self.next_event(timeout_s)
            return self._bury(running, error)
        running.heard = True
        if told.fold is not None:
            assert isinstance(told.event, EpochDone)
            write_atomic(self._fold_file(told.event.trial, told.event.scores.fold), told.fold)
        if not isinstance(told.event, EpochDone):
            self._free(running)
        return told.event

    def answer(self, trial: int, *, go_on: bool) -> None:
        running = self._busy[trial]
        if go_on:
            running.due = running.worker.go_on.remote()
        else:
            running.worker.stop.remote()
            self._free(running)

    def cancel(self, trial: int) -> None:
        ray.kill(self._busy.pop(trial).worker)

    def close(self) -> None:
        for worker in [*self._idle, *(running.worker for running in self._busy.values())]:
            ray.kill(worker)
        self._idle.clear()
        self._busy.clear()
        self._stack.close()

    def _free(self, running: _Running) -> None:
        self._idle.append(self._busy.pop(running.job.number).worker)
        self.slots = self._capacity()  # nodes come and go

    def _bury(self, running: _Running, error: RayError) -> TrialFailed:
        number = running.job.number
        ray.kill(self._busy.pop(number).worker)
        self.slots = self._capacity()
        return TrialFailed(trial=number, kind=WORKER_DIED, message=_one_line(error))

    def _capacity(self) -> int:
        """Trials that fit onto the nodes that live now; one more waits where none does."""
        fitting = sum(self._share.fits(node) for node in _nodes())
        return max(1, fitting if self._workers is None else min(fitting, self._workers))

    def _fold_file(self, trial: int, fold: int) -> Path:
        return fold_file(self._workspace, self._plan.study, trial, fold)

    def _finished_folds(self, trial: int) -> dict[int, bytes]:
        """What an interrupted run has finished of a trial."""
        files = {k: self._fold_file(trial, k) for k in range(len(self._plan.split.folds))}
        return {fold: file.read_bytes() for fold, file in files.items() if file.exists()}


@dataclass(slots=True)
class _Running:
    """A trial and the actor that trains it; `due` is the reference to its next event."""

    job: TrialJob
    worker: Any
    due: Any
    warm: bool  # whether the actor has served another trial before
    heard: bool = False


@dataclass(frozen=True, slots=True)
class _Told:
    """An event, and with the last epoch of a fold its file, where the workspace is not shared."""

    event: Event
    fold: bytes | None = None


class _Worker:
    """What an actor is made of: a trainer and the events of the trial at hand."""

    def __init__(self, of_worker: tuple[StudyPlan, str, int, MakeTrainer]) -> None:
        self._of_worker = of_worker
        self._site: _Site | None = None
        self._events: Generator[Event, bool, None] | None = None

    def start(self, job: TrialJob, finished_folds: Mapping[int, bytes]) -> _Told:
        """Begin a trial.

        Raises:
            DataError: this node has neither the coordinator's workspace nor the pictures.
        """
        if self._site is None:
            # Not in the constructor: what an actor's constructor raises reaches nobody by type.
            plan, mark, sharing, make_trainer = self._of_worker
            shared = Path(mark).exists()
            plan = plan if shared else plan_of_own_workspace(plan)
            self._site = _Site(plan, shared, make_trainer(plan, sharing))
        if not self._site.shared:
            for fold, data in finished_folds.items():
                write_atomic(self._site.fold_file(job.number, fold), data)
        self._events = self._site.trainer.run(job)
        return self._told(next(self._events))

    def go_on(self) -> _Told:
        assert self._events is not None
        return self._told(self._events.send(True))

    def stop(self) -> None:
        assert self._events is not None
        self._events.close()

    def _told(self, event: Event) -> _Told:
        site = self._site
        assert site is not None
        if site.shared or not isinstance(event, EpochDone):
            return _Told(event)
        if event.scores.epoch < site.plan.settings.epochs - 1:
            return _Told(event)
        return _Told(event, site.fold_file(event.trial, event.scores.fold).read_bytes())


@dataclass(frozen=True, slots=True)
class _Site:
    """Where a worker trains; the mark that the coordinator left tells whether it shares the place.

    An equal path alone proves nothing: two machines may each have a folder of that name.
    """

    plan: StudyPlan
    shared: bool
    trainer: Trains

    def fold_file(self, trial: int, fold: int) -> Path:
        return fold_file(Workspace(Path(self.plan.workspace)), self.plan.study, trial, fold)


def plan_of_own_workspace(plan: StudyPlan) -> StudyPlan:
    """Return the plan for a node that does not share the coordinator's workspace.

    Raises:
        DataError: the pictures, or a file of weights, are not there.
        WeightsError: a file of weights is another one here.
    """
    files = [source.detail for source in plan.weights.values() if source.kind == "file"]
    missing = [path for path in (plan.dataset.root, *files) if not Path(path).exists()]
    if missing:
        raise DataError(
            f"the node {socket.gethostname()} has no {', '.join(missing)}: a node that does not "
            "share the workspace needs the pictures, and files given by --weights, under the "
            "paths that they have on the coordinator's machine; copy or mount them there"
        )
    for backbone, source in plan.weights.items():
        refuse_changed_weights(backbone, source)
    own = os.environ.get("BENCH_WORKSPACE") or Path.home() / ".cache" / "bench"
    return replace(plan, workspace=str(Path(own).absolute()))


# --- the cluster ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Share:
    """What one trial is given of a node."""

    cpus: int
    gpus: int

    def fits(self, node: Mapping[str, float]) -> int:
        """How many such shares a node with these resources has."""
        wanted = {"CPU": self.cpus, "GPU": self.gpus}
        return min(int(node.get(name, 0)) // count for name, count in wanted.items() if count)


def share_of(nodes: Sequence[Mapping[str, float]], device: str, workers: int | None) -> Share:
    """Divide a cluster: a GPU a trial, with its part of the node's CPUs; without GPUs, CPUs.

    On CPUs, `workers` trials get the largest equal share; None is a trial a node, of the size of
    the smallest.

    Raises:
        DeviceError: no node has such a device.
    """
    if device == "cuda":
        having = [node for node in nodes if node.get("GPU", 0) >= 1]
        if not having:
            raise DeviceError("--ray: no node of the cluster has a GPU; give --device cpu")
        return Share(cpus=min(int(node.get("CPU", 0) // node["GPU"]) for node in having), gpus=1)
    cpus = [int(node.get("CPU", 0)) for node in nodes if node.get("CPU", 0) >= 1]
    if not cpus:
        raise DeviceError("--ray: no node of the cluster has a CPU to offer")
    if workers is None:
        return Share(cpus=min(cpus), gpus=0)
    shares = (
        share for share in range(max(cpus), 0, -1) if sum(n // share for n in cpus) >= workers
    )
    return Share(cpus=next(shares, 1), gpus=0)


def _nodes() -> list[dict[str, float]]:
    """Resources of the nodes that live."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def connect(address: str) -> bool:
    """Join or start a cluster; return whether that was needed, and is to be undone.

    Raises:
        InputError: no cluster answers at `address`, or this machine's own would answer others.
    """
    host, _, port = address.rpartition(":")
    if port.isdecimal() and "//" not in host:
        _refuse_silence(address, host, int(port))
    if ray.is_initialized():
        return False
    alone: dict[str, Any] = {
        "num_cpus": usable_cores(),
        "include_dashboard": False,
        "object_store_memory": _OBJECT_STORE_BYTES,
    }
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **(alone if address == _LOCAL else {}),
        )
    except (ConnectionError, ValueError) as error:
        raise _no_cluster(address, error) from error
    if address == _LOCAL and (reached_at := ray.util.get_node_ip_address()) != _LOOPBACK:
        ray.shutdown()
        raise InputError(
            f"--ray local: Ray would listen on {reached_at} and obey whoever reaches it; set "
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 before Ray is imported"
        )
    return True


def _refuse_silence(address: str, host: str, port: int) -> None:
    """Ray itself tries for minutes where nothing listens."""
    try:
        socket.create_connection((host, port), timeout=_ANSWER_S).close()
    except OSError as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str, error: Exception) -> InputError:
    return InputError(
        f"--ray {address}: no cluster answers ({_one_line(error)}); give HOST:PORT of a running "
        "one's head, auto on one of its machines, or local to train on this one"
    )


def _one_line(error: Exception) -> str:
    """What happened and why; Ray puts the traceback of a worker, in colours, in between."""
    lines = _COLOUR.sub("", str(error)).strip().splitlines()
    ends = lines if len(lines) <= 2 else [lines[0], "...", lines[-1]]
    return " ".join(" ".join(ends).split())
