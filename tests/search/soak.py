"""Kill a study's coordinator and workers at random moments, over and over, and look at the end.

The trainer is scripted, so that hundreds of kills take minutes; what is put to the test is all
that stands around it. `python -m tests.search.soak URL WORKERS TRIALS` is the process that dies.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.database import Database
from bench.ownership import own
from bench.progress import SilentProgress
from bench.records import StudyPlan, TrialJob, TrialRecord
from bench.results import load_plan, load_trials
from bench.search.budget import Budget
from bench.search.coordinator import Coordinator
from bench.search.executors import Executor, InlineExecutor, ProcessExecutor
from bench.search.study import open_study
from bench.workspace import describe_environment
from tests.search.scripted import Scripted, make_scripted

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Soaked:
    """What a study looks like after all the kills."""

    kills: int
    worker_kills: int
    trials: tuple[TrialRecord, ...]
    rows: int  # of trials in the database
    integrity: str


def own_and_run(url: str, workers: int, trials: int) -> None:
    """Own the study and run it to its end, as `bench search` does."""
    with Database.open(url) as database:
        (study,) = database.studies()
        plan = load_plan(database, study)
        executor: Executor
        if workers == 1:
            executor = InlineExecutor(plan, make_scripted)
        else:
            executor = ProcessExecutor(plan, workers, make_scripted)
        with own(study, database, lambda _: None):
            try:
                coordinator = Coordinator(
                    plan, open_study(plan, database), database, SilentProgress()
                )
                coordinator.run(executor, Budget(trials=trials, retries=1_000))
            finally:
                executor.close()


def soak(plan: StudyPlan, *, workers: int, trials: int, kills: int, seed: int) -> Soaked:
    """Run a study of `trials`, killing it `kills` times (it is always begun again).

    A study that ends before has been killed fewer times, and that is what is told.
    """
    file = Path(plan.workspace) / "bench.db"
    url = f"sqlite:///{file}"
    with Database.open(url) as database:
        database.save_plan(plan, describe_environment(None))
    moments = random.Random(seed)
    killed = worker_kills = 0
    # Sparing with rows, so that the study outlasts the kills.
    most_rows = max(2, 2 * trials * 10 // max(kills, 1))
    for _ in range(kills):
        process = _start(url, workers, trials)
        wait_for_rows(process, file, moments.randint(1, most_rows))
        children = _children(process.pid)
        if children and moments.random() < 0.5:
            victim = moments.choice(children)
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
                worker_kills += 1
            wait_for_rows(process, file, moments.randint(1, 5))
        process.kill()
        killed += process.wait() == -signal.SIGKILL
        for orphan in children:
            with suppress(ProcessLookupError):
                os.kill(orphan, signal.SIGKILL)
    assert _start(url, workers, trials).wait() == 0
    with Database.open(url) as database:
        records = load_trials(database, load_plan(database, plan.study))
    with closing(sqlite3.connect(file)) as opened:
        (integrity,) = opened.execute("PRAGMA integrity_check").fetchone()
        (rows,) = opened.execute("SELECT count(*) FROM trials WHERE state != 'WAITING'").fetchone()
    return Soaked(killed, worker_kills, records, rows, integrity)


def undisturbed(plan: StudyPlan, trials: int, folder: Path) -> tuple[TrialRecord, ...]:
    """The trials of the same study, left alone."""
    folder.mkdir()
    return soak(
        replace(plan, workspace=str(folder)), workers=1, trials=trials, kills=0, seed=0
    ).trials


def facts(trials: tuple[TrialRecord, ...]) -> list[tuple[Any, ...]]:
    """All that a study found out, without times, losses and who trained it."""
    from tests.tiny import timeless_scores  # imports torch, which what is killed shall not need

    return [
        (t.number, t.state, t.value, t.recipe, t.is_default,
         [replace(timeless_scores(row), loss=0.0, train_loss=0.0) for row in t.epochs])
        for t in trials
    ]  # fmt: skip


def expected_value(plan: StudyPlan, trial: TrialRecord) -> float:
    """The score that a trial's own recipe and seed give, whoever trained it."""
    job = TrialJob(number=trial.number, recipe=trial.recipe)
    last = plan.settings.epochs - 1
    scores = [
        Scripted._scored(job, fold, last, 0.0).balanced_accuracy
        for fold in range(len(plan.split.folds))
    ]
    return sum(scores) / len(scores)


def _start(url: str, workers: int, trials: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.search.soak", url, str(workers), str(trials)]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})


def wait_for_rows(process: subprocess.Popen[bytes], file: Path, rows: int) -> None:
    """Wait until so many rows have been added; the process may also end before."""
    goal = _rows(file) + rows
    while _rows(file) < goal:
        try:
            process.wait(timeout=0.002)
            return
        except subprocess.TimeoutExpired:
            continue


def _rows(file: Path) -> int:
    """How many trials, parameters and epochs are stored; 0 before there is a database."""
    tables = ("trials", "trial_params", "trial_intermediate_values", "bench_epochs")
    try:
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=60)) as opened:
            return sum(opened.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in tables)
    except sqlite3.OperationalError:
        return 0


def _children(pid: int) -> list[int]:
    file = Path(f"/proc/{pid}/task/{pid}/children")
    try:
        return [int(child) for child in file.read_text().split()]
    except OSError:
        return []


if __name__ == "__main__":
    own_and_run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
