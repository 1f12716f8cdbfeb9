"""A Ray cluster of two nodes, which are processes of this machine: one of them may go."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from optuna.trial import FrozenTrial, TrialState

from bench.database import Database
from bench.progress import SilentProgress
from bench.records import EpochScores, StudyPlan
from bench.search.budget import Budget
from bench.search.coordinator import Coordinator
from bench.search.study import FAILURES, REMARK, open_study
from tests.search.scripted import make_saying_where

pytest.importorskip("ray", reason="Ray is not installed (it comes with the extra `ray`)")
import ray
from ray.cluster_utils import Cluster

pytestmark = [
    pytest.mark.slow,
    # As in the executors' own tests.
    pytest.mark.filterwarnings("ignore:Tip. In future versions of Ray:FutureWarning"),
    pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:.*Popen.__del__:pytest.PytestUnraisableExceptionWarning"),
]

TRIALS = 8


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head and a second node, each with a CPU for one trial."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    made.add_node(num_cpus=1)
    made.wait_for_nodes()
    yield made
    ray.shutdown()
    made.shutdown()


class Follower(SilentProgress):
    """Does something when the first epoch is told by a given number of trials."""

    def __init__(self, act: Any, after: int) -> None:
        self._act, self._after = act, after
        self._heard: set[int] = set()

    def epoch_scored(self, number: int, scores: EpochScores, mean: float) -> None:
        self._heard.add(number)
        if len(self._heard) == self._after and self._act is not None:
            self._act()
            self._act = None


def search(
    plan: StudyPlan, cluster: Cluster, database: Database, environment: Any, follower: Follower
) -> list[FrozenTrial]:
    from bench.search.executors.cluster import RayExecutor

    database.save_plan(plan, environment)
    study = open_study(plan, database)
    executor = RayExecutor(plan, cluster.address, None, make_saying_where)
    assert executor.slots == 2
    try:
        Coordinator(plan, study, database, follower).run(executor, Budget(trials=TRIALS))
    finally:
        executor.close()
    return [trial for trial in study.trials if trial.state.is_finished()]


def test_trials_run_on_both_nodes(
    study_plan: StudyPlan, cluster: Cluster, database: Database, environment: Any
) -> None:
    trials = search(study_plan, cluster, database, environment, Follower(None, 0))

    assert [trial.number for trial in trials] == list(range(TRIALS))
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    nodes = {trial.user_attrs[REMARK] for trial in complete}
    assert nodes == {node.node_id for node in (cluster.head_node, *cluster.worker_nodes)}


def test_trials_of_a_node_that_goes_are_trained_on_the_other(
    study_plan: StudyPlan, cluster: Cluster, database: Database, environment: Any
) -> None:
    gone = cluster.worker_nodes.copy().pop()
    follower = Follower(lambda: cluster.remove_node(gone, allow_graceful=False), after=4)

    trials = search(study_plan, cluster, database, environment, follower)

    assert [trial.number for trial in trials] == list(range(TRIALS))
    assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    tried_again = [error for trial in trials for error in trial.user_attrs.get(FAILURES, ())]
    assert all(error.startswith("worker died") for error in tried_again)
    last = [trial for trial in trials if trial.state == TrialState.COMPLETE][-1]
    assert last.user_attrs[REMARK] == cluster.head_node.node_id
