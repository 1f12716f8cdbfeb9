"""One suite for every executor: what holds of one must hold of all."""

from __future__ import annotations

import multiprocessing.connection
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bench.database import Database
from bench.errors import DataError, DeviceError, InputError, WeightsError
from bench.progress import SilentProgress
from bench.records import (
    EpochDone,
    Event,
    Recipe,
    StudyPlan,
    TrialDone,
    TrialFailed,
    TrialJob,
    WeightSource,
)
from bench.search import executors
from bench.search.budget import Budget
from bench.search.coordinator import Coordinator
from bench.search.executors import (
    Executor,
    InlineExecutor,
    MakeTrainer,
    ProcessExecutor,
    make_executor,
    make_trainer,
    require_ray,
)
from bench.search.executors.local import visible_gpus, worker_environment
from bench.search.study import open_study
from bench.training.folds import fold_file
from bench.training.trainer import Trainer
from bench.workspace import Workspace
from tests.search.scripted import CONFIDES, DIES, FAILS, HANGS, RAMBLES, make_scripted
from tests.tiny import BACKBONE, all_events, make_plan, timeless, write_pictures

if TYPE_CHECKING:
    from bench.search.executors.cluster import RayExecutor

RECIPE = Recipe(backbone=BACKBONE, learning_rate=1e-3, freeze_depth=2, batch_norm="updating")
TRIALS = 12  # enough for the median pruner (from 5) and for TPE (from 10) to have their say

NO_RAY = "Ray is not installed (it comes with the extra `ray`)"

pytestmark = [
    # Ray announces what its next version will do with accelerators; nothing here depends on it.
    pytest.mark.filterwarnings("ignore:Tip. In future versions of Ray:FutureWarning"),
    # It leaves the processes of a cluster to end by themselves when the cluster is shut down.
    pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:.*Popen.__del__:pytest.PytestUnraisableExceptionWarning"),
]


def job(number: int, **changes: float) -> TrialJob:
    return TrialJob(number=number, recipe=replace(RECIPE, **changes))  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def no_endless_waiting() -> Iterator[None]:
    """An event that never comes must fail its test instead of stopping all tests for ever."""

    def give_up(_signal: int, _frame: object) -> None:
        raise TimeoutError("an event that was due did not come")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


Make = Callable[[StudyPlan, MakeTrainer], Executor]


@pytest.fixture(scope="session")
def node_workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a Ray node works that does not see the coordinator's workspace."""
    return tmp_path_factory.mktemp("node")


@pytest.fixture(scope="module")
def ray_cluster(node_workspace: Path) -> Iterator[None]:
    """A real one, of this machine alone; started once, because that takes seconds."""
    if find_spec("ray") is None:
        pytest.skip(NO_RAY)
    import ray
    from ray._private import ray_constants

    with pytest.MonkeyPatch.context() as patch:
        # What `require_ray` sets is undone too: other tests have a cluster of another kind.
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "")
        patch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", True)
        require_ray("local")
        with patch.context() as in_nodes:
            in_nodes.setenv("BENCH_WORKSPACE", str(node_workspace))
            from bench.search.executors.cluster import connect

            connect("local")
        yield
        ray.shutdown()


def _inline(plan: StudyPlan, make_trainer: MakeTrainer) -> Executor:
    return InlineExecutor(plan, make_trainer)


def _process(plan: StudyPlan, make_trainer: MakeTrainer) -> Executor:
    return ProcessExecutor(plan, 1, make_trainer)


def _ray(plan: StudyPlan, make_trainer: MakeTrainer) -> Executor:
    from bench.search.executors.cluster import RayExecutor

    return RayExecutor(plan, "local", 1, make_trainer)


KINDS = {"inline": _inline, "process": _process, "ray": _ray}
ON_RAY = pytest.param("ray", marks=pytest.mark.slow)


@pytest.fixture(scope="module", params=["inline", "process", ON_RAY])
def make(request: pytest.FixtureRequest) -> Make:
    if request.param == "ray":
        request.getfixturevalue("ray_cluster")
    return KINDS[request.param]


@pytest.fixture
def executor(make: Make, study_plan: StudyPlan) -> Iterator[Executor]:
    made = make(study_plan, make_scripted)
    yield made
    made.close()


interruptible = pytest.mark.parametrize("make", ["process", ON_RAY], indirect=True)


def hear(executor: Executor) -> list[Event]:
    """All further events of the only trial, each epoch answered with go on."""
    events: list[Event] = []
    while not events or isinstance(events[-1], EpochDone):
        if events:
            executor.answer(events[-1].trial, go_on=True)
        event = executor.next_event()
        assert event is not None
        events.append(event)
    return events


def script(plan: StudyPlan, job: TrialJob) -> list[Event]:
    """What the trainer tells of a job when nothing stands between."""
    alone = replace(plan, workspace=f"{plan.workspace}/alone")
    told = all_events(make_scripted(alone, 1), job)  # type: ignore[arg-type]
    return [timeless(event) for event in told]


def is_well(executor: Executor, plan: StudyPlan, number: int) -> bool:
    """Whether the next trial is trained as if nothing had been before."""
    executor.submit(job(number))
    return [timeless(event) for event in hear(executor)] == script(plan, job(number))


# --- every executor -------------------------------------------------------------------------


def test_a_job_gives_the_trainers_own_events_in_their_order(
    executor: Executor, study_plan: StudyPlan
) -> None:
    for number in (0, 1):
        executor.submit(job(number))
        told = hear(executor)

        assert isinstance(told[-1], TrialDone)
        assert len(told) == 7
        assert [timeless(event) for event in told] == script(study_plan, job(number))


@pytest.mark.parametrize("heard", [1, 3])
def test_a_stopped_trial_says_nothing_more_and_frees_its_slot(
    executor: Executor, study_plan: StudyPlan, heard: int
) -> None:
    executor.submit(job(0))
    for answer in range(1, heard + 1):
        assert isinstance(executor.next_event(), EpochDone)
        executor.answer(0, go_on=answer < heard)

    assert is_well(executor, study_plan, 1)


@pytest.mark.parametrize("heard", [0, 1])
def test_a_cancelled_trial_says_nothing_more_and_frees_its_slot(
    executor: Executor, study_plan: StudyPlan, heard: int
) -> None:
    executor.submit(job(0))
    for _ in range(heard):
        assert isinstance(executor.next_event(), EpochDone)
    executor.cancel(0)

    assert executor.next_event(timeout_s=0.0) is None
    assert is_well(executor, study_plan, 1)


def test_a_trial_that_fails_says_why_and_the_next_one_is_trained(
    executor: Executor, study_plan: StudyPlan
) -> None:
    executor.submit(job(FAILS))
    assert hear(executor) == [TrialFailed(trial=FAILS, kind="non-finite loss", message="diverged")]

    assert is_well(executor, study_plan, 1)


def test_where_no_trial_runs_nothing_is_waited_for(executor: Executor) -> None:
    assert executor.next_event() is None
    executor.submit(job(0))
    hear(executor)
    assert executor.next_event() is None


def test_one_slot_is_one_trial_at_a_time(executor: Executor) -> None:
    assert executor.slots == 1


def test_what_is_closed_twice_is_closed(executor: Executor) -> None:
    executor.submit(job(0))
    executor.close()
    executor.close()


def test_a_study_gives_the_same_trials_however_it_is_executed(
    make: Make, study_plan: StudyPlan, tmp_path: Path, environment: Any
) -> None:
    def facts(make: Make, name: str) -> list[tuple[object, ...]]:
        plan = replace(study_plan, workspace=str(tmp_path / name))
        database = Database.open(f"sqlite:///{tmp_path / name}.db")
        database.save_plan(plan, environment)
        study = open_study(plan, database)
        executor = make(plan, make_scripted)
        Coordinator(plan, study, database, SilentProgress()).run(executor, Budget(trials=TRIALS))
        executor.close()
        trials = [trial for trial in study.trials if trial.state.is_finished()]
        database.close()
        return [(t.number, t.state, t.params, t.value, t.intermediate_values) for t in trials]

    assert facts(make, "executed") == facts(_inline, "expected")


@pytest.mark.slow
def test_real_training_gives_its_own_events_to_the_last_bit(make: Make, tmp_path: Path) -> None:
    """Each in a workspace of its own, so that none reads what another has stored."""
    plan = make_plan(write_pictures(tmp_path / "pictures"), tmp_path / "reference")
    expected = all_events(Trainer(plan), job(0))
    executor = make(replace(plan, workspace=str(tmp_path / "executed")), make_trainer)

    executor.submit(job(0))
    told = hear(executor)
    executor.close()

    assert [timeless(event) for event in told] == [timeless(event) for event in expected]


# --- those that can be interrupted ----------------------------------------------------------


@interruptible
def test_a_trial_that_hangs_is_waited_for_no_longer_than_said_and_can_be_cancelled(
    executor: Executor, study_plan: StudyPlan
) -> None:
    executor.submit(job(HANGS))
    assert executor.next_event(timeout_s=0.01) is None
    executor.cancel(HANGS)

    assert is_well(executor, study_plan, 1)


@interruptible
def test_a_worker_that_dies_in_a_trial_fails_it_and_another_takes_its_place(
    executor: Executor, study_plan: StudyPlan
) -> None:
    executor.submit(job(DIES))
    (failed,) = hear(executor)

    assert isinstance(failed, TrialFailed)
    assert (failed.trial, failed.kind) == (DIES, "worker died")
    assert failed.message
    assert is_well(executor, study_plan, 1)


def test_a_worker_killed_in_the_middle_of_an_event_fails_its_trial(study_plan: StudyPlan) -> None:
    executor = ProcessExecutor(study_plan, 1, make_scripted)
    executor.submit(job(RAMBLES))
    multiprocessing.connection.wait([executor._busy[RAMBLES].connection])
    (worker,) = multiprocessing.active_children()
    worker.kill()

    (failed,) = hear(executor)
    executor.close()

    assert isinstance(failed, TrialFailed)
    assert failed.kind == "worker died"


def kill_worker_of(event: Event | None) -> None:
    """Kill the process that told an event, and see it gone."""
    assert isinstance(event, EpochDone)
    process = int(event.scores.seconds)
    os.kill(process, signal.SIGKILL)
    while Path(f"/proc/{process}").exists():
        multiprocessing.active_children()  # which buries those that are ours
        time.sleep(0.01)


@interruptible
def test_a_worker_killed_as_it_waits_for_an_answer_fails_its_trial(
    executor: Executor, study_plan: StudyPlan
) -> None:
    executor.submit(job(0))
    kill_worker_of(executor.next_event())
    executor.answer(0, go_on=True)
    failed = executor.next_event()

    assert isinstance(failed, TrialFailed)
    assert (failed.trial, failed.kind) == (0, "worker died")
    assert is_well(executor, study_plan, 1)


@interruptible
def test_a_worker_killed_as_its_trial_is_stopped_fails_nothing(
    executor: Executor, study_plan: StudyPlan
) -> None:
    executor.submit(job(0))
    kill_worker_of(executor.next_event())
    executor.answer(0, go_on=False)

    assert is_well(executor, study_plan, 1)


@interruptible
def test_a_worker_killed_while_idle_is_replaced(executor: Executor, study_plan: StudyPlan) -> None:
    executor.submit(job(0))
    kill_worker_of(hear(executor)[0])

    assert is_well(executor, study_plan, 1)


# --- processes ------------------------------------------------------------------------------


def test_a_worker_that_was_killed_is_said_to_be(study_plan: StudyPlan) -> None:
    executor = ProcessExecutor(study_plan, 1, make_scripted)
    executor.submit(job(DIES))
    (failed,) = hear(executor)
    executor.close()

    assert failed == TrialFailed(
        trial=DIES, kind="worker died", message="the worker was killed by SIGKILL"
    )


def test_close_leaves_no_process(study_plan: StudyPlan) -> None:
    others = set(multiprocessing.active_children())
    executor = ProcessExecutor(study_plan, 2, make_scripted)
    executor.submit(job(0))
    executor.submit(job(1))
    assert len(set(multiprocessing.active_children()) - others) == 2

    executor.close()

    assert set(multiprocessing.active_children()) - others == set()


@pytest.mark.parametrize(
    ("device", "workers", "kind", "slots"),
    [
        ("cpu", None, InlineExecutor, 1),
        ("cpu", 1, InlineExecutor, 1),
        ("cpu", 3, ProcessExecutor, 3),
        ("cuda", None, ProcessExecutor, 2),
        ("cuda", 1, InlineExecutor, 1),
        ("cuda", 3, ProcessExecutor, 3),
    ],
)
def test_one_worker_trains_in_this_process_and_several_gpus_get_one_each(
    study_plan: StudyPlan,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    workers: int | None,
    kind: type[Executor],
    slots: int,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    monkeypatch.setattr(InlineExecutor.__init__, "__defaults__", (make_scripted,))

    made = make_executor(replace(study_plan, device=device), workers)  # type: ignore[arg-type]

    assert type(made) is kind
    assert made.slots == slots


@pytest.mark.parametrize(
    ("place", "workers", "gpus", "given", "expected"),
    [
        (0, 1, (), None, {}),
        (0, 2, (), None, {"OMP_NUM_THREADS": "4"}),
        (1, 3, (), None, {"OMP_NUM_THREADS": "2"}),
        (7, 20, (), None, {"OMP_NUM_THREADS": "1"}),
        (0, 2, (), "3", {"OMP_NUM_THREADS": "3"}),
        (0, 2, (), "6", {"OMP_NUM_THREADS": "4"}),
        (0, 1, ("6",), None, {"CUDA_VISIBLE_DEVICES": "6"}),
        (1, 2, ("4", "6"), None, {"OMP_NUM_THREADS": "4", "CUDA_VISIBLE_DEVICES": "6"}),
        (2, 4, ("4", "6"), None, {"OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": "4"}),
    ],
)
def test_a_worker_gets_its_share_of_eight_cores_and_a_gpu(
    monkeypatch: pytest.MonkeyPatch,
    place: int,
    workers: int,
    gpus: tuple[str, ...],
    given: str | None,
    expected: dict[str, str],
) -> None:
    monkeypatch.setattr(executors.local, "usable_cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)

    assert worker_environment(place, workers, gpus) == expected


def test_workers_are_placed_on_gpus_in_turn(
    study_plan: StudyPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    executor = ProcessExecutor(replace(study_plan, device="cuda"), 3, make_scripted)

    numbers = [CONFIDES, CONFIDES + 1, CONFIDES + 2]
    for number in numbers:
        executor.submit(job(number))
    told = {event.trial: event for event in (executor.next_event() for _ in numbers) if event}
    executor.close()

    assert [told[number] for number in numbers] == [
        TrialFailed(trial=number, kind="bad trial code", message=f"sharing 2, ('{gpu}', '1')")
        for number, gpu in zip(numbers, ["4", "6", "4"], strict=True)
    ]
    assert visible_gpus() == ("4", "6")


# --- Ray ------------------------------------------------------------------------------------


def test_ray_that_is_not_installed_is_named_with_its_extra(
    study_plan: StudyPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executors, "find_spec", lambda _name: None)

    with pytest.raises(InputError, match=r'pip install "bench\[ray\]"'):
        make_executor(study_plan, None, "local")


@pytest.mark.parametrize(
    ("nodes", "device", "workers", "share", "trials"),
    [
        # CPUs and GPUs of each node, what a trial gets, and how many fit onto each node.
        ([(8, 0)], "cpu", None, (8, 0), [1]),
        ([(8, 0), (8, 0)], "cpu", None, (8, 0), [1, 1]),
        ([(4, 0), (64, 0)], "cpu", None, (4, 0), [1, 16]),
        ([(8, 0)], "cpu", 2, (4, 0), [2]),
        ([(8, 0)], "cpu", 3, (2, 0), [4]),
        ([(4, 0), (16, 0)], "cpu", 5, (4, 0), [1, 4]),
        ([(2, 0)], "cpu", 5, (1, 0), [2]),
        ([(0, 0), (2, 0)], "cpu", None, (2, 0), [0, 1]),
        ([(32, 8)], "cuda", None, (4, 1), [8]),
        ([(32, 8)], "cuda", 2, (4, 1), [8]),
        ([(8, 0), (16, 4), (16, 2)], "cuda", None, (4, 1), [0, 4, 2]),
        ([(2, 4)], "cuda", None, (0, 1), [4]),
    ],
)
def test_a_cluster_is_divided_by_gpus_or_by_cpus(
    nodes: list[tuple[int, int]],
    device: str,
    workers: int | None,
    share: tuple[int, int],
    trials: list[int],
) -> None:
    pytest.importorskip("ray", reason=NO_RAY)
    from bench.search.executors.cluster import Share, share_of

    resources = [{"CPU": float(cpus), "GPU": float(gpus)} for cpus, gpus in nodes]

    given = share_of(resources, device, workers)

    assert given == Share(cpus=share[0], gpus=share[1])
    assert [given.fits(node) for node in resources] == trials


@pytest.mark.parametrize(("device", "missing"), [("cuda", "has a GPU"), ("cpu", "has a CPU")])
def test_a_cluster_without_the_device_is_refused(device: str, missing: str) -> None:
    pytest.importorskip("ray", reason=NO_RAY)
    from bench.search.executors.cluster import share_of

    with pytest.raises(DeviceError, match=missing):
        share_of([{"memory": 1e9}], device, None)


@pytest.fixture
def far(ray_cluster: None, study_plan: StudyPlan, tmp_path: Path) -> Iterator[RayExecutor]:
    """An executor whose nodes do not see the coordinator's workspace."""
    from bench.search.executors.cluster import RayExecutor

    dataset = replace(study_plan.dataset, root=str(tmp_path))
    executor = RayExecutor(replace(study_plan, dataset=dataset), "local", 1, make_scripted)
    (mark,) = Workspace(tmp_path).cache.glob(".seen-by-nodes-*")
    mark.unlink()
    yield executor
    executor.close()


def test_folds_of_a_node_with_a_workspace_of_its_own_come_back(
    far: RayExecutor, study_plan: StudyPlan, node_workspace: Path
) -> None:
    far.submit(job(0))
    hear(far)

    for fold in (0, 1):
        here = fold_file(Workspace(Path(study_plan.workspace)), study_plan.study, 0, fold)
        there = fold_file(Workspace(node_workspace), study_plan.study, 0, fold)
        assert here.read_bytes() == there.read_bytes()


@pytest.mark.slow
def test_folds_that_an_interrupted_run_has_finished_are_not_trained_again_elsewhere(
    far: RayExecutor, study_plan: StudyPlan
) -> None:
    events = make_scripted(study_plan, 1).run(job(7))
    next(events)  # the first fold is stored, and the run ends

    far.submit(job(7))
    losses = [event.scores.loss for event in hear(far) if isinstance(event, EpochDone)]

    assert losses == [-1.0] * 3 + [1.0] * 3  # stored ones are told with a loss of -1


@pytest.mark.slow
def test_a_node_without_the_pictures_ends_the_search_with_their_path_and_its_name(
    ray_cluster: None, study_plan: StudyPlan
) -> None:
    weights = {"small": WeightSource(kind="file", detail="/far/small.pth")}
    executor = _ray(replace(study_plan, weights=weights), make_scripted)
    (mark,) = Workspace(Path(study_plan.workspace)).cache.glob(".seen-by-nodes-*")
    mark.unlink()
    executor.submit(job(0))

    with pytest.raises(DataError) as caught:
        executor.next_event()
    executor.close()

    for said in (socket.gethostname(), "/nowhere", "/far/small.pth"):
        assert said in str(caught.value)


def test_a_silent_address_is_refused_at_once(study_plan: StudyPlan) -> None:
    pytest.importorskip("ray", reason=NO_RAY)
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # nobody listens there, and nobody else can
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        with pytest.raises(InputError, match=f"--ray {address}: no cluster answers"):
            make_executor(study_plan, None, address)


@pytest.mark.slow
@pytest.mark.parametrize(
    "order", ["require_ray('local'); import ray", "import ray; require_ray('local')"]
)
def test_ray_is_told_to_stay_on_this_machine_whenever_it_is_imported(order: str) -> None:
    pytest.importorskip("ray", reason=NO_RAY)
    script = (
        f"from bench.search.executors import require_ray; {order}; "
        "from ray._private import ray_constants; print(ray_constants.ENABLE_RAY_CLUSTER)"
    )
    unset = {k: v for k, v in os.environ.items() if k != "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"}
    told = subprocess.run(
        [sys.executable, "-c", script], env=unset, capture_output=True, text=True, check=True
    )
    assert told.stdout.split() == ["False"]


def test_a_cluster_of_this_machine_that_others_would_reach_is_ended_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ray = pytest.importorskip("ray", reason=NO_RAY)
    from bench.search.executors.cluster import connect

    ended = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: None)
    monkeypatch.setattr(ray, "shutdown", lambda: ended.append(True))
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "192.0.2.7")

    with pytest.raises(InputError, match=r"listen on 192\.0\.2\.7 .* before Ray is imported"):
        connect("local")
    assert ended == [True]


@pytest.mark.slow
def test_a_cluster_of_this_machine_alone_listens_to_this_machine_alone(ray_cluster: None) -> None:
    import ray

    assert [node["NodeManagerAddress"] for node in ray.nodes()] == ["127.0.0.1"]


@pytest.mark.skipif(find_spec("ray") is None, reason=NO_RAY)
def test_a_node_of_its_own_workspace_refuses_other_weights_than_the_study_began_with(
    tmp_path: Path,
) -> None:
    from bench.search.executors.cluster import plan_of_own_workspace

    plan = make_plan(write_pictures(tmp_path / "pictures"), tmp_path / "runs")
    file = tmp_path / "weights.pth"
    file.write_bytes(b"other weights")
    source = WeightSource(kind="file", detail=str(file), digest="0123456789abcdef")
    with pytest.raises(WeightsError, match="put the old file back"):
        plan_of_own_workspace(replace(plan, weights={BACKBONE: source}))
