"""One suite for every executor: what holds of one must hold of all."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bench.records import EpochDone, Event, Recipe, StudyPlan, TrialDone, TrialFailed, TrialJob
from bench.search.executors import Executor, InlineExecutor, ProcessExecutor, make_executor
from bench.training.trainer import Trainer
from tests.tiny import BACKBONE, make_plan, timeless, write_pictures

RECIPE = Recipe(backbone=BACKBONE, learning_rate=1e-3, freeze_depth=2, batch_norm="updating")


def job(number: int, **changes: float) -> TrialJob:
    return TrialJob(number=number, recipe=replace(RECIPE, **changes))  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def no_endless_waiting() -> Iterator[None]:
    """An event that never comes must fail its test instead of stopping all tests for ever."""

    def give_up(_signal: int, _frame: object) -> None:
        raise TimeoutError("an event that was due did not come")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> StudyPlan:
    folder = tmp_path_factory.mktemp("executors")
    return make_plan(write_pictures(folder / "pictures"), folder / "reference")


@pytest.fixture(scope="module", params=["inline", "process"])
def executor(request: pytest.FixtureRequest, base: StudyPlan) -> Iterator[Executor]:
    """Each with a workspace of its own, so that none reads what another has stored."""
    plan = replace(base, workspace=str(Path(base.workspace).with_name(request.param)))
    made = InlineExecutor(plan) if request.param == "inline" else ProcessExecutor(plan, 1)
    yield made
    made.close()


def hear(executor: Executor, trial: int) -> list[Event]:
    """All further events of a trial, each epoch answered with go on."""
    events = [executor.next_event()]
    while isinstance(events[-1], EpochDone):
        executor.answer(trial, go_on=True)
        events.append(executor.next_event())
    return events


@pytest.fixture(scope="module")
def reference(base: StudyPlan) -> Callable[[TrialJob], list[Event]]:
    """What the trainer tells of a job when nothing stands between."""
    trainer = Trainer(base)

    def events_of(job: TrialJob) -> list[Event]:
        events = trainer.run(job)
        told = [next(events)]
        while isinstance(told[-1], EpochDone):
            told.append(events.send(True))
        return [timeless(event) for event in told]

    return events_of


# --- every executor -------------------------------------------------------------------------


def test_a_job_gives_the_trainers_own_events_to_the_last_bit(
    executor: Executor, reference: Callable[[TrialJob], list[Event]]
) -> None:
    for number in (0, 1):
        executor.submit(job(number))
        told = hear(executor, number)

        assert isinstance(told[-1], TrialDone)
        assert [timeless(event) for event in told] == reference(job(number))


@pytest.mark.parametrize("heard", [1, 3])
def test_a_stopped_trial_says_nothing_more_and_frees_its_slot(
    executor: Executor, reference: Callable[[TrialJob], list[Event]], heard: int
) -> None:
    stopped, following = job(10 * heard), job(10 * heard + 1)
    executor.submit(stopped)
    for answer in range(1, heard + 1):
        assert isinstance(executor.next_event(), EpochDone)
        executor.answer(stopped.number, go_on=answer < heard)

    executor.submit(following)
    told = hear(executor, following.number)

    assert [timeless(event) for event in told] == reference(following)


def test_a_trial_that_fails_says_why_and_the_next_one_is_trained(
    executor: Executor, reference: Callable[[TrialJob], list[Event]]
) -> None:
    executor.submit(job(40, learning_rate=1e30))
    failed = hear(executor, 40)[-1]
    assert isinstance(failed, TrialFailed)
    assert (failed.trial, failed.kind) == (40, "NonFiniteLoss")

    executor.submit(job(41))
    assert [timeless(event) for event in hear(executor, 41)] == reference(job(41))


def test_one_slot_is_one_trial_at_a_time(executor: Executor) -> None:
    assert executor.slots == 1


def test_one_worker_trains_in_this_process_and_more_are_slots(
    base: StudyPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_WORKER_THREADS", "1")

    assert isinstance(make_executor(base, 1), InlineExecutor)
    several = make_executor(base, 3)

    assert isinstance(several, ProcessExecutor)
    assert several.slots == 3


# --- workers that die -----------------------------------------------------------------------


class Mortal(ProcessExecutor):
    """One whose only worker can be killed."""

    def __init__(self, plan: StudyPlan) -> None:
        self._others = set(multiprocessing.active_children())
        super().__init__(plan, 1)

    @property
    def workers(self) -> set[multiprocessing.process.BaseProcess]:
        return set(multiprocessing.active_children()) - self._others

    def kill_worker(self) -> None:
        (worker,) = self.workers
        worker.kill()
        worker.join()


@pytest.fixture
def mortal(base: StudyPlan, tmp_path: Path) -> Iterator[Mortal]:
    executor = Mortal(replace(base, workspace=str(tmp_path / "mortal")))
    yield executor
    executor.close()


def test_close_leaves_no_process(mortal: Mortal) -> None:
    mortal.submit(job(0))
    assert len(mortal.workers) == 1

    mortal.close()

    assert mortal.workers == set()


@pytest.mark.slow
@pytest.mark.parametrize("waiting_for_an_answer", [False, True])
def test_a_worker_killed_in_a_trial_fails_it_and_another_takes_its_place(
    mortal: Mortal,
    reference: Callable[[TrialJob], list[Event]],
    waiting_for_an_answer: bool,
) -> None:
    mortal.submit(job(0))
    if waiting_for_an_answer:
        assert isinstance(mortal.next_event(), EpochDone)
    mortal.kill_worker()
    if waiting_for_an_answer:
        mortal.answer(0, go_on=True)
    failed = mortal.next_event()

    assert isinstance(failed, TrialFailed)
    assert (failed.trial, failed.kind) == (0, "worker died")
    assert "SIGKILL" in failed.message
    mortal.submit(job(1))
    assert [timeless(event) for event in hear(mortal, 1)] == reference(job(1))


@pytest.mark.slow
def test_a_worker_killed_as_its_trial_is_stopped_fails_nothing(
    mortal: Mortal, reference: Callable[[TrialJob], list[Event]]
) -> None:
    mortal.submit(job(0))
    assert isinstance(mortal.next_event(), EpochDone)
    mortal.kill_worker()
    mortal.answer(0, go_on=False)

    mortal.submit(job(1))
    assert [timeless(event) for event in hear(mortal, 1)] == reference(job(1))


@pytest.mark.slow
def test_a_worker_killed_while_idle_is_replaced(
    mortal: Mortal, reference: Callable[[TrialJob], list[Event]]
) -> None:
    mortal.submit(job(0))
    hear(mortal, 0)
    mortal.kill_worker()

    mortal.submit(job(1))
    assert [timeless(event) for event in hear(mortal, 1)] == reference(job(1))
