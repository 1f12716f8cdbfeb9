"""How far one coordinator scales: trials that only sleep, everything else as in a real search.

Usage: scale.py workers [--kinds virtual process ray] [--at 1 4 16 64]    efficiency by workers
       scale.py growth [--at 100 1000 10000]                             cost by size of the study

The coordinator, the study, the sampler, the pruner and the database are the real ones; a trial
sleeps for its epochs. `process` and `ray` are real workers on this machine, which import no torch,
so that dozens fit. `virtual` is for more workers than a machine carries: time jumps to the next
event where nothing is to be done, and what the coordinator does takes as long as it takes. On a
machine with other work, `--clock cpu` counts the coordinator's processor time instead of its wall
time; an SQL server's share is not in it.

Efficiency is what the workers trained, in seconds, over what they could have: workers times the
time from the moment that all are busy to the start of the last trial. Trials take from half to one
and a half of the mean; `--equal` makes them all as long, the worst case: they were begun one right
after the other, so they end so, faster than a coordinator can ask for the next.

Worker processes import this file, so what is heavy is imported where it is used.
"""

from __future__ import annotations

import argparse
import heapq
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from math import log10
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from bench.records import (
    Arithmetic,
    Dataset,
    EpochDone,
    EpochScores,
    Event,
    Picture,
    Recipe,
    Settings,
    Split,
    StudyPlan,
    TrialDone,
    TrialJob,
    WeightSource,
)
from bench.search.executors import Executor, ProcessExecutor

if TYPE_CHECKING:
    from bench.database import Database

FOLDS, EPOCHS = 5, 2
TRIAL_S = 10.0
EPOCH_S = TRIAL_S / (FOLDS * EPOCHS)


# --- trials that only sleep -----------------------------------------------------------------


class Simulated:
    """Sleeps for each epoch and tells a score that depends on the recipe."""

    def __init__(self, sleep: Callable[[float], None] = time.sleep, *, equal: bool = False) -> None:
        self._sleep = sleep
        self._equal = equal

    def run(self, job: TrialJob) -> Generator[Event, bool, None]:
        for fold in range(FOLDS):
            for epoch in range(EPOCHS):
                self._sleep(epoch_s(job.number, self._equal))
                scores = simulated_scores(job.number, job.recipe, fold, epoch, self._equal)
                if (yield EpochDone(trial=job.number, scores=scores)) is False:
                    return
        yield TrialDone(trial=job.number)


def make_simulated(_plan: StudyPlan, _sharing: int) -> Simulated:
    return Simulated()


def epoch_s(number: int, equal: bool) -> float:
    """Seconds of each of a trial's epochs: equal, or from half to one and a half of the mean."""
    return EPOCH_S if equal else EPOCH_S * (0.5 + number * 7919 % 101 / 100)


def simulated_scores(
    number: int, recipe: Recipe, fold: int, epoch: int, equal: bool = False
) -> EpochScores:
    distance = abs(log10(recipe.learning_rate) + 4) + 0.1 * recipe.freeze_depth
    luck = ((number * 7919 + fold * 104729) % 1000) / 1000  # no generator: the same everywhere
    score = 0.9 - 0.2 * distance + 0.05 * epoch / EPOCHS + 0.03 * luck
    return EpochScores(
        fold=fold,
        epoch=epoch,
        train_loss=1 - score,
        loss=1 - score,
        balanced_accuracy=max(0.0, score),
        precision=score,
        recall=score,
        f1=score,
        seconds=epoch_s(number, equal),
    )


class VirtualExecutor:
    """Any number of workers in one process: the clock jumps over what they would sleep."""

    def __init__(self, slots: int, clock: Callable[[], float], *, equal: bool = False) -> None:
        self.slots = slots
        self._equal = equal
        self._trainer = Simulated(sleep=lambda _seconds: None, equal=equal)
        self._clock = clock
        self._skipped_s = 0.0
        self._running: dict[int, Generator[Event, bool, None]] = {}
        self._epochs_left: dict[int, int] = {}
        self._due: list[tuple[float, int]] = []

    def now(self) -> float:
        return self._clock() + self._skipped_s

    def submit(self, job: TrialJob) -> None:
        self._running[job.number] = self._trainer.run(job)
        self._epochs_left[job.number] = FOLDS * EPOCHS
        heapq.heappush(self._due, (self.now() + epoch_s(job.number, self._equal), job.number))

    def next_event(self, timeout_s: float | None = None) -> Event | None:
        due_s, number = heapq.heappop(self._due)
        self._skipped_s += max(0.0, due_s - self.now())
        event = next(self._running[number])
        self._epochs_left[number] -= 1
        if not isinstance(event, EpochDone):
            del self._running[number]
        return event

    def answer(self, trial: int, *, go_on: bool) -> None:
        if go_on:
            wait_s = epoch_s(trial, self._equal) if self._epochs_left[trial] else 0.0
            heapq.heappush(self._due, (self.now() + wait_s, trial))
        else:
            del self._running[trial]

    def cancel(self, trial: int) -> None:
        del self._running[trial]
        self._due = [entry for entry in self._due if entry[1] != trial]
        heapq.heapify(self._due)

    def close(self) -> None:
        self._running.clear()
        self._due.clear()


# --- what is measured -----------------------------------------------------------------------


@dataclass(slots=True)
class Meter:
    """Stands between a coordinator and its executor, and listens to what it says.

    What the coordinator does is the time between an event and the next call: an epoch is answered,
    a trial is told to the study, the next one is asked for and submitted.
    """

    executor: Executor
    clock: Callable[[], float]
    epoch_s: list[float] = field(default_factory=list)
    tell_s: list[float] = field(default_factory=list)
    ask_s: list[float] = field(default_factory=list)
    events: int = 0
    trained_s: float = 0.0  # by workers, since all of them are busy
    waited_s: float = 0.0  # by the coordinator, since then
    began_s: float = 0.0  # when all were busy
    ended_s: float = 0.0  # when the last trial was begun
    _heard: set[int] = field(default_factory=set)  # until all workers are
    _last_s: float = 0.0
    _pending: tuple[float, float, int] = (0.0, 0.0, 0)

    @property
    def slots(self) -> int:
        return self.executor.slots

    @property
    def seconds(self) -> float:
        return self.ended_s - self.began_s

    @property
    def efficiency(self) -> float:
        return self.trained_s / (self.slots * self.seconds)

    @property
    def busy_share(self) -> float:
        """Share of the time in which the coordinator worked."""
        return 1.0 - self.waited_s / self.seconds

    def submit(self, job: TrialJob) -> None:
        if len(self._heard) >= self.slots:
            trained_s, waited_s, events = self._pending
            self.trained_s += trained_s
            self.waited_s += waited_s
            self.events += events
            self._pending = (0.0, 0.0, 0)
            self.ended_s = self.clock()
        self.executor.submit(job)
        self._last_s = self.clock()

    def next_event(self, timeout_s: float | None = None) -> Event | None:
        before_s = self.clock()
        event = self.executor.next_event(timeout_s)
        self._last_s = self.clock()
        if event is not None and len(self._heard) < self.slots:
            self._heard.add(event.trial)
            self.began_s = self._last_s
        else:
            trained_s, waited_s, events = self._pending
            trained_s += event.scores.seconds if isinstance(event, EpochDone) else 0.0
            self._pending = trained_s, waited_s + self._last_s - before_s, events + 1
        return event

    def answer(self, trial: int, *, go_on: bool) -> None:
        if go_on:
            self.epoch_s.append(self.clock() - self._last_s)
        self.executor.answer(trial, go_on=go_on)

    def cancel(self, trial: int) -> None:
        self.executor.cancel(trial)

    def close(self) -> None:
        self.executor.close()

    # As a listener of the coordinator.

    def stage(self, text: str) -> None: ...

    def search_started(
        self, plan: StudyPlan, *, finished: int, total: int, best: tuple[float, int] | None
    ) -> None:
        self._last_s = self.clock()

    def trial_started(self, number: int, recipe: Recipe) -> None:
        self.ask_s.append(self.clock() - self._last_s)

    def epoch_scored(self, number: int, scores: EpochScores, mean: float) -> None: ...

    def trial_ended(
        self, number: int, state: str, value: float | None, error: str | None = None
    ) -> None:
        now = self.clock()
        self.tell_s.append(now - self._last_s)
        self._last_s = now

    def search_ended(self) -> None: ...


def make_plan(study: str, workspace: Path, pruner: str) -> StudyPlan:
    """A study over the default space, of pictures that are never opened."""
    from bench.space import load_space

    space = replace(load_space("default"), folds=FOLDS, epochs=EPOCHS)
    pictures = tuple(
        Picture(path=f"{n}.png", label=n % 2, sha256=f"{n}", width=8, height=8, mode="RGB")
        for n in range(20)
    )
    dataset = Dataset(name="none", root="/", kind="folder", classes=("a", "b"), pictures=pictures)
    plain = Arithmetic(device="cpu", dtype="float32", channels_last=False, reason="simulated")
    return StudyPlan(
        study=study,
        space=space.as_dict(),
        dataset=dataset,
        split=Split(
            dataset_fingerprint=dataset.fingerprint,
            seed=0,
            test=(),
            folds=tuple(tuple(range(k, 20, FOLDS)) for k in range(FOLDS)),
        ),
        settings=Settings(
            epochs=EPOCHS,
            batch_size=8,
            image_size=32,
            resize="squash",
            family="spectrogram",
            pretrained=False,
            seed=0,
            pruner=pruner,
        ),
        weights={name: WeightSource(kind="random") for name in space.backbones},
        device="cpu",
        arithmetic=dict.fromkeys(space.backbones, plain),
        workspace=str(workspace),
    )


@contextmanager
def stored_plan(
    arguments: argparse.Namespace, name: str
) -> Generator[tuple[StudyPlan, Database], None, None]:
    """A new study's plan, in an SQLite database of its own, or in the database given."""
    from bench.database import Database
    from bench.workspace import describe_environment

    with tempfile.TemporaryDirectory() as folder:
        plan = make_plan(f"{name}-{time.time_ns()}", Path(folder), arguments.pruner)
        database = Database.open(arguments.storage or f"sqlite:///{folder}/bench.db")
        database.save_plan(plan, describe_environment(None))
        yield plan, database
        database.close()


# --- efficiency by number of workers --------------------------------------------------------


def measure_workers(arguments: argparse.Namespace) -> None:
    print(f"trials of {TRIAL_S:g} s on average, {FOLDS * EPOCHS} epochs, pruner {arguments.pruner}")
    print(
        "| kind | workers | trials | efficiency | coordinator busy | processor | events/s |", end=""
    )
    print(" ask ms | tell ms | epoch ms |\n|---|---|---|---|---|---|---|---|---|---|")
    for kind in arguments.kinds:
        for workers in arguments.at:
            _measure(kind, workers, arguments)


def _measure(kind: str, workers: int, arguments: argparse.Namespace) -> None:
    from bench.search.budget import Budget
    from bench.search.coordinator import Coordinator
    from bench.search.study import open_study

    trials = max(arguments.rounds * workers, workers + arguments.least)
    with stored_plan(arguments, f"scale-{kind}-{workers}") as (plan, database):
        study = open_study(plan, database)
        executor, clock = _executor(kind, workers, plan, arguments)
        meter = Meter(executor, clock)
        began_s, began_cpu_s = clock(), time.process_time()
        try:
            Coordinator(plan, study, database, meter).run(meter, Budget(trials=trials))
        finally:
            executor.close()
        processor = (time.process_time() - began_cpu_s) / (clock() - began_s)
    print(
        f"| {kind} | {workers} | {trials} | {meter.efficiency:.3f} | {meter.busy_share:.1%} "
        f"| {processor:.1%} | {meter.events / meter.seconds:.1f} | {_ms(meter.ask_s)} "
        f"| {_ms(meter.tell_s)} | {_ms(meter.epoch_s)} |",
        flush=True,
    )


def _executor(
    kind: str, workers: int, plan: StudyPlan, arguments: argparse.Namespace
) -> tuple[Executor, Callable[[], float]]:
    if kind == "virtual":
        virtual = VirtualExecutor(workers, _timer(arguments.clock), equal=arguments.equal)
        return virtual, virtual.now
    if kind == "process":
        return ProcessExecutor(plan, workers, make_simulated), time.perf_counter
    from bench.search.executors import require_ray

    require_ray("local")
    import ray

    from bench.search.executors.cluster import RayExecutor

    # Sleeping needs no processor: the cluster is told of as many as there are workers.
    ray.init("local", num_cpus=workers, log_to_driver=False, logging_level=logging.ERROR)
    return RayExecutor(plan, "local", workers, make_simulated), time.perf_counter


# --- cost by size of the study --------------------------------------------------------------


def measure_growth(arguments: argparse.Namespace) -> None:
    """Fill a study up to each size, open it, run some more trials, and read everything back."""
    from bench.results import load_study_report
    from bench.search.budget import Budget
    from bench.search.coordinator import Coordinator
    from bench.search.study import open_study
    from reports.markdown import write_report

    print("| trials | open s | ask ms | tell ms | epoch ms | status s | report s |")
    print("|---|---|---|---|---|---|---|")
    clock = _timer(arguments.clock)
    for size in arguments.at:
        with stored_plan(arguments, f"growth-{size}") as (plan, database):
            _fill(plan, database, size)
            began_s = clock()
            study = open_study(plan, database)
            opened_s = clock() - began_s
            executor = VirtualExecutor(1, clock)
            meter = Meter(executor, executor.now)
            coordinator = Coordinator(plan, study, database, meter)
            coordinator.run(meter, Budget(trials=size + arguments.least))
            began_s = clock()
            report = load_study_report(database, plan.study)
            status_s = clock() - began_s
            write_report([report], Path(plan.workspace) / "report")
            report_s = clock() - began_s
            print(
                f"| {size} | {opened_s:.2f} | {_ms(meter.ask_s)} | {_ms(meter.tell_s)} "
                f"| {_ms(meter.epoch_s)} | {status_s:.2f} | {report_s:.2f} |",
                flush=True,
            )


def _fill(plan: StudyPlan, database: Database, size: int) -> None:
    """Write finished trials as a search would have left them, all at once.

    Half of them are pruned in their second fold.
    """
    import optuna
    import sqlalchemy as sa

    from bench.search.pruners import running_mean
    from bench.space import SearchSpace

    space = SearchSpace.from_dict(plan.space)
    distributions = space.distributions()
    as_json = {
        name: optuna.distributions.distribution_to_json(distribution)
        for name, distribution in distributions.items()
    }
    study = optuna.create_study(
        study_name=plan.study, storage=database.storage, direction="maximize"
    )
    engine, tables = database.storage.engine, sa.MetaData()
    tables.reflect(engine)
    sampler = optuna.samplers.RandomSampler(seed=0)
    now = datetime.now(UTC).replace(tzinfo=None)
    rows: dict[str, list[dict[str, object]]] = {
        name: [] for name in ("trials", "trial_params", "trial_values", "trial_intermediate_values")
    }
    rows["bench_epochs"] = []
    with engine.connect() as connection:
        first = connection.execute(sa.select(sa.func.max(tables.tables["trials"].c.trial_id)))
        before = first.scalar() or 0
    for number in range(size):
        trial_id = before + 1 + number
        params = {
            name: sampler.sample_independent(study, None, name, distribution)  # type: ignore[arg-type]
            for name, distribution in distributions.items()
        }
        recipe = space.recipe(params)
        told = 3 if number % 2 else FOLDS * EPOCHS
        epochs = [
            simulated_scores(number, recipe, step // EPOCHS, step % EPOCHS) for step in range(told)
        ]
        means = [running_mean(epochs[: step + 1]) for step in range(told)]
        rows["trials"].append(
            {
                "trial_id": trial_id,
                "number": number,
                "study_id": study._study_id,
                "state": "PRUNED" if number % 2 else "COMPLETE",
                "datetime_start": now,
                "datetime_complete": now + timedelta(seconds=number),
            }
        )
        rows["trial_params"] += [
            {
                "trial_id": trial_id,
                "param_name": name,
                "param_value": distributions[name].to_internal_repr(value),
                "distribution_json": as_json[name],
            }
            for name, value in params.items()
        ]
        rows["trial_values"].append(
            {"trial_id": trial_id, "objective": 0, "value": means[-1], "value_type": "FINITE"}
        )
        rows["trial_intermediate_values"] += [
            {
                "trial_id": trial_id,
                "step": step,
                "intermediate_value": mean,
                "intermediate_value_type": "FINITE",
            }
            for step, mean in enumerate(means)
        ]
        rows["bench_epochs"] += [
            {"study": plan.study, "trial": number, **asdict(scores)} for scores in epochs
        ]
    with engine.begin() as connection:
        for name, values in rows.items():
            connection.execute(tables.tables[name].insert(), values)
        if engine.dialect.name == "postgresql":  # its counter does not see numbers that were given
            counter = sa.func.pg_get_serial_sequence("trials", "trial_id")
            connection.execute(sa.select(sa.func.setval(counter, before + size)))


def _timer(clock: str) -> Callable[[], float]:
    return time.process_time if clock == "cpu" else time.perf_counter


def _ms(seconds: list[float]) -> str:
    return f"{1000 * median(seconds):.1f}" if seconds else "–"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(required=True)
    workers = commands.add_parser("workers")
    workers.set_defaults(run=measure_workers)
    workers.add_argument("--kinds", nargs="+", default=["virtual", "process", "ray"])
    workers.add_argument("--at", nargs="+", type=int, default=[1, 4, 16, 64])
    workers.add_argument("--equal", action="store_true", help="virtual: equally long trials")
    workers.add_argument("--rounds", type=int, default=3, help="trials a worker")
    growth = commands.add_parser("growth")
    growth.set_defaults(run=measure_growth)
    growth.add_argument("--at", nargs="+", type=int, default=[100, 1000, 10_000])
    for command in (workers, growth):
        command.add_argument("--least", type=int, default=20, help="trials measured at least")
        command.add_argument("--storage", help="SQLAlchemy URL; default: a new SQLite database")
        command.add_argument("--pruner", default="median")
        command.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    given = parser.parse_args(arguments)
    given.run(given)


if __name__ == "__main__":
    main(sys.argv[1:])
