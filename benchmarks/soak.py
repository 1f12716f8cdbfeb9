"""A long soak: coordinator and workers are killed at random moments, at least 200 times.

    python benchmarks/soak.py --kills 200 --workers 1,4

The trainer is scripted (`tests/search/soak.py`); it prints what the study looked like at its end.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.search.conftest import small_plan
from tests.search.soak import expected_value, facts, soak, undisturbed


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--workers", default="1,4")
    parser.add_argument("--trials", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    print("| workers | kills | of them workers | trials | lost or doubled | wrong scores | "
          "database | as undisturbed | seconds |")  # fmt: skip
    print("| ---: | ---: | ---: | ---: | ---: | ---: | --- | --- | ---: |")
    for workers in map(int, options.workers.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            plan = replace(small_plan(Path(folder)), workspace=str(Path(folder) / "killed"))
            Path(plan.workspace).mkdir()
            started = time.perf_counter()
            ended = soak(
                plan,
                workers=workers,
                trials=options.trials,
                kills=options.kills,
                seed=options.seed,
            )
            seconds = time.perf_counter() - started
            same = "more than one worker: order varies"
            if workers == 1:
                alone = undisturbed(plan, options.trials, Path(folder) / "alone")
                same = "yes" if facts(ended.trials) == facts(alone) else "NO"
            numbers = [trial.number for trial in ended.trials]
            odd = len(set(numbers) ^ set(range(options.trials))) + abs(ended.rows - options.trials)
            wrong = sum(
                trial.value is None or abs(trial.value - expected_value(plan, trial)) > 1e-12
                for trial in ended.trials
                if trial.state == "COMPLETE"
            )
            print(
                f"| {workers} | {ended.kills} | {ended.worker_kills} | {len(numbers)} | {odd} "
                f"| {wrong} | {ended.integrity} | {same} | {seconds:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1:])
