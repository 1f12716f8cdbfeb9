"""Where trials are trained: in this process, in local worker processes, or on a Ray cluster.

    protocol   what an executor is, and the seam to what it trains with
    local      this process, and worker processes of this machine
    cluster    the nodes of a Ray cluster; imported only where one is asked for

An executor trains and reports; it never sees the study. After every epoch it waits for an answer,
so that pruning is decided before the next epoch starts and the same study gives the same trials
however it is executed.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec

from bench.errors import InputError
from bench.records import StudyPlan
from bench.search.executors.local import InlineExecutor, ProcessExecutor, visible_gpus
from bench.search.executors.protocol import Executor, MakeTrainer, Trains, make_trainer

__all__ = [
    "Executor",
    "InlineExecutor",
    "MakeTrainer",
    "ProcessExecutor",
    "Trains",
    "make_executor",
    "make_trainer",
    "require_ray",
]


def make_executor(plan: StudyPlan, workers: int | None = None, ray: str | None = None) -> Executor:
    """Train `workers` trials at a time, on a Ray cluster where one is named.

    None leaves their number to the machine: one a GPU, one where there is none; a cluster's
    resources set it there.

    Raises:
        InputError: Ray is not installed, or no cluster answers at that address.
        DeviceError: no node of the cluster has what a trial needs.
    """
    if ray is not None:
        require_ray(ray)
        from bench.search.executors.cluster import RayExecutor

        return RayExecutor(plan, ray, workers)
    if workers is None:
        workers = len(visible_gpus()) if plan.device == "cuda" else 1
    return InlineExecutor(plan) if workers == 1 else ProcessExecutor(plan, workers)


def require_ray(address: str) -> None:
    """Refuse `--ray` at once where it cannot work, and settle what Ray reads as it is imported.

    Raises:
        InputError: Ray is not installed.
    """
    if find_spec("ray") is None:
        raise InputError('--ray needs Ray, which is not installed: pip install "bench[ray]"')
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing is sent to anybody
    if address == "local":
        # Ray has no authentication. This switch, the default on macOS and Windows, keeps its
        # ports on the loopback interface.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        if "ray" in sys.modules:  # it has read the switch already
            from ray._private import ray_constants

            ray_constants.ENABLE_RAY_CLUSTER = False
