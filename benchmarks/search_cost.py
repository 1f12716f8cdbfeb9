"""What a search costs: `bench` against `plain_script.py`, in turns, on the same machine.

    python benchmarks/search_cost.py trials DATA --backbone efficientnet_lite0
    python benchmarks/search_cost.py race DATA --backbone efficientnet_lite0

`trials` trains one list of trials with both programs, alternately and without pruning, and prints
seconds, ratios and scores: recipes drawn at random from the space, their freezing depths taken in
turn from `--depths`. With `--bf16` the plain script also runs each of them in bfloat16, which
shows what that alone gives. `scores` trains them with several seeds each, for their scores alone:
one seed a trial tells little. `race` runs a whole search with each and prints when `bench` reached
the plain script's best score. That is the best of many noisy ones, so it also prints when each
reached the score that the same recipe has on average with `--seeds` other seeds. All print the
Markdown tables that the README quotes.

Seconds are the clock's; in brackets stand those of the processor, of all threads and worker
processes together, which other work on the machine disturbs far less.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import plain_script
import scipy.stats
from results_file import write_result

from bench.database import Database
from bench.models.backbones import describe_backbone
from bench.models.weights import load_network
from bench.pipeline import search
from bench.planning import make_plan
from bench.progress import SilentProgress
from bench.records import Recipe, StudyPlan, TrialJob, TrialState
from bench.search.budget import Budget
from bench.search.options import SearchOptions
from bench.space import SearchSpace
from bench.training.trainer import Trainer
from bench.workspace import Workspace, describe_environment, usable_cores


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["trials", "scores", "race"])
    parser.add_argument("data", type=Path)
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--weights", action="append", default=[], help="BACKBONE=FILE")
    parser.add_argument("--no-pretrained", action="store_true")
    parser.add_argument("--space", default="cpu")
    parser.add_argument("--image-size", type=int, default=160)
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--depths", default="5,4,3")
    parser.add_argument("--trials", type=int, default=9)
    parser.add_argument(
        "--seeds",
        type=int,
        default=3,
        help="of `scores`: for each recipe; of `race`: for the plain script's best one",
    )
    parser.add_argument("--bench-trials", type=int, help="of `race`; default: --trials")
    parser.add_argument("--seed", type=int, default=0, help="of the split and of both programs")
    parser.add_argument("--bf16", action="store_true", help="a third side: plain in bfloat16")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder)).create()
        compare = {"trials": compare_trials, "scores": compare_scores, "race": race}
        result = compare[options.what](options, workspace)
    write_result(options, result)


# --- one list of trials ---------------------------------------------------------------------


def compare_trials(options: argparse.Namespace, workspace: Workspace) -> dict[str, object]:
    """Train the same recipes with both, in turns; the order flips from trial to trial."""
    plan = _plan(options, workspace, linear_probe=False)
    # Storing the pictures belongs to the first trial's time.
    shutil.rmtree(workspace.cache / "decoded")
    task = _plain_task(plan, options)
    sides = ["bench", "plain", "plain_bf16"][: 3 if options.bf16 else 2]
    rows: list[dict[str, Any]] = []
    trainer: Trainer | None = None
    for number, recipe in enumerate(_draw_recipes(plan, options)):
        row: dict[str, Any] = {"depth": recipe.freeze_depth, "policy": recipe.augmentation}
        for side in sides if number % 2 else reversed(sides):
            watch = Stopwatch()
            if side == "bench":
                trainer = trainer or Trainer(plan)
                job = TrialJob(number=number, recipe=recipe)
                score = statistics.fmean(trainer.fold_scores(job))
            else:
                chosen = replace(task, bf16=side == "plain_bf16")
                score = plain_script.run_trial(chosen, asdict(recipe), seed=1000 * number)
            row[f"{side}_s"], row[f"{side}_cpu_s"] = watch.seconds()
            row[f"{side}_score"] = score
        rows.append(row)
        _say(f"trial {number}: {row}")
    _print_trials(rows, sides)
    return {"rows": rows, **_context(plan)}


def compare_scores(options: argparse.Namespace, workspace: Workspace) -> dict[str, object]:
    """Train the same recipes with both, each with several seeds, and compare the means."""
    plan = _plan(options, workspace, linear_probe=False)
    task, trainer = _plain_task(plan, options), Trainer(plan)
    rows: list[dict[str, Any]] = []
    for number, recipe in enumerate(_draw_recipes(plan, options)):
        # A trial's number is part of its seed.
        seeds = [number + options.trials * repeat for repeat in range(options.seeds)]
        row = {
            "recipe": asdict(recipe),
            "bench": [
                statistics.fmean(trainer.fold_scores(TrialJob(number=s, recipe=recipe)))
                for s in seeds
            ],
            "plain": [plain_script.run_trial(task, asdict(recipe), seed=1000 * s) for s in seeds],
        }
        rows.append(row)
        _say(f"trial {number}: {row}")
    _print_scores(rows)
    return {"rows": rows, **_context(plan)}


def _print_scores(rows: Sequence[Mapping[str, Any]]) -> None:
    print("| trial | depth | augmentation | bench score | plain score | difference, points |")
    print("| ---: | ---: | --- | ---: | ---: | ---: |")
    points = []
    for number, row in enumerate(rows):
        recipe, bench, plain = row["recipe"], np.mean(row["bench"]), np.mean(row["plain"])
        points.append(100 * (bench - plain))
        print(f"| {number} | {recipe['freeze_depth']} | {recipe['augmentation']} "
              f"| {bench:.3f} | {plain:.3f} | {points[-1]:+.1f} |")  # fmt: skip
    # Recipes differ in what they gain from either program, so they are what varies.
    interval = scipy.stats.ttest_1samp(points, 0.0).confidence_interval()
    print(f"\nMean difference {np.mean(points):+.1f} points (95 %: {interval.low:+.1f} to "
          f"{interval.high:+.1f}).")  # fmt: skip


def _draw_recipes(plan: StudyPlan, options: argparse.Namespace) -> list[Recipe]:
    """Draw from the space at random; the depths come in turn, so that each is met as often."""
    space = SearchSpace.from_dict(plan.space)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    depths = [int(depth) for depth in options.depths.split(",")]
    return [
        replace(
            space.recipe(study.ask(space.distributions()).params),
            freeze_depth=depths[number % len(depths)],
        )
        for number in range(options.trials)
    ]


def _print_trials(rows: Sequence[Mapping[str, Any]], sides: Sequence[str]) -> None:
    names = {"bench": "bench", "plain": "plain script", "plain_bf16": "plain script, bf16"}
    print("| depth | trials | " + " | ".join(f"{names[side]}, s" for side in sides), end=" | ")
    print("ratio | later trials: ratio | bench score | plain score |")
    print("| --- " + "| ---: " * (len(sides) + 5) + "|")
    for depth in [*sorted({row["depth"] for row in rows}, reverse=True), None]:
        chosen = [row for row in rows if depth in (None, row["depth"])]
        cells = ["all" if depth is None else str(depth), str(len(chosen))]
        cells += [_seconds(_sum(chosen, side, "s"), _sum(chosen, side, "cpu_s")) for side in sides]
        for some in (chosen, chosen[1:]):  # later trials find stored what the first one computed
            cells.append(_ratios(some) if some else "")
        for side in ("bench", "plain"):
            cells.append(f"{statistics.fmean(row[f'{side}_score'] for row in chosen):.3f}")
        print(f"| {' | '.join(cells)} |")


def _ratios(rows: Sequence[Mapping[str, Any]]) -> str:
    clock, processor = (
        _sum(rows, "plain", unit) / _sum(rows, "bench", unit) for unit in ("s", "cpu_s")
    )
    return f"{clock:.1f} ({processor:.1f})"


def _sum(rows: Sequence[Mapping[str, Any]], side: str, unit: str) -> float:
    return sum(row[f"{side}_{unit}"] for row in rows)


# --- a whole search -------------------------------------------------------------------------


@dataclass(frozen=True)
class Scored:
    """A trial that ended: seconds since the search began, by the clock and of the processor."""

    at_s: float
    at_cpu_s: float
    state: TrialState
    score: float | None


class _Timing(SilentProgress):
    """Notes when each trial of a search ended."""

    def __init__(self) -> None:
        self.trials: list[Scored] = []
        self._watch = Stopwatch()

    def trial_ended(
        self, number: int, state: TrialState, value: float | None, error: str | None = None
    ) -> None:
        self.trials.append(Scored(*self._watch.seconds(), state, value))
        _say(f"bench: {self.trials[-1]}")


def race(options: argparse.Namespace, workspace: Workspace) -> dict[str, object]:
    """Search with each program; when did each reach the plain script's best score?"""
    plan = _plan(options, workspace, linear_probe=True)
    space = SearchSpace.from_dict(plan.space)
    task, watch = _plain_task(plan, options), Stopwatch()
    plain: list[Scored] = []

    def on_trial(study: optuna.Study) -> None:
        last = study.trials[-1]
        plain.append(Scored(*watch.seconds(), last.state.name, last.value))
        _say(f"plain: {len(_complete(plain))} complete of {len(plain)}, {plain[-1]}")

    study = plain_script.search(
        task,
        space.distributions(),
        # A head from random numbers, which the plain script's is, wants a higher rate.
        [{**params, "head_lr_factor": 10.0} for params in space.default_params()],
        options.trials,
        options.seed,
        on_trial,
    )
    best = max(_complete(plain), key=lambda trial: trial.score)
    recipe = study.best_params
    again = [plain_script.run_trial(task, recipe, 7000 + seed) for seed in range(options.seeds)]
    _say(f"the plain script's best recipe {recipe} with other seeds: {again}")

    # In a folder where nothing has been read or decoded yet.
    own = Workspace(workspace.root / "search").create()
    timing = _Timing()
    with Database.open(own.default_storage) as database:
        search(
            options.data,
            replace(
                _search_options(options, linear_probe=True),
                budget=Budget(trials=options.bench_trials or options.trials),
            ),
            workspace=own,
            database=database,
            listener=timing,
        )
    ours = timing.trials
    print("| program | trials | whole search, s | best score |")
    print("| --- | ---: | ---: | ---: |")
    for name, trials in (("plain script", plain), ("bench", ours)):
        whole = _seconds(trials[-1].at_s, trials[-1].at_cpu_s)
        top = max(trial.score for trial in _complete(trials))
        print(f"| {name} | {len(trials)} | {whole} | {top:.3f} |")
    print("\n| the plain script's | score | it reached that after, s | bench after, s | ratio |")
    print("| --- | ---: | ---: | ---: | ---: |")
    goals = {"its best score": best.score, "that recipe, other seeds": statistics.fmean(again)}
    for name, goal in goals.items():
        theirs, found = _first(plain, goal), _first(ours, goal)
        assert theirs is not None, "its best score is the luckiest, so it is above its mean"
        had, reached = _seconds(theirs.at_s, theirs.at_cpu_s), "never | –"
        if found is not None:
            ratios = f"{theirs.at_s / found.at_s:.1f} ({theirs.at_cpu_s / found.at_cpu_s:.1f})"
            reached = f"{_seconds(found.at_s, found.at_cpu_s)} | {ratios}"
        print(f"| {name} | {goal:.3f} | {had} | {reached} |")
    return {
        "plain": [asdict(trial) for trial in plain],
        "plain_best_recipe": recipe,
        "plain_best_again": again,
        "bench": [asdict(trial) for trial in ours],
        **_context(plan),
    }


def _first(trials: Sequence[Scored], goal: float) -> Scored | None:
    """The first complete trial that reached a score."""
    return next((trial for trial in _complete(trials) if trial.score >= goal), None)


def _complete(trials: Sequence[Scored]) -> list[Scored]:
    """Those that ran to their end and have a score."""
    return [trial for trial in trials if trial.state == "COMPLETE"]


# --- shared ---------------------------------------------------------------------------------


class Stopwatch:
    def __init__(self) -> None:
        self._started = self._now()

    def seconds(self) -> tuple[float, float]:
        """Seconds since it was made: by the clock, and of the processor."""
        clock, processor = self._now()
        return clock - self._started[0], processor - self._started[1]

    @staticmethod
    def _now() -> tuple[float, float]:
        # Worker processes are counted when they have ended, which they do with each fold.
        return time.perf_counter(), sum(os.times()[:4])


def _seconds(clock: float, processor: float) -> str:
    return f"{clock:.1f} ({processor:.1f})"


def _search_options(options: argparse.Namespace, *, linear_probe: bool) -> SearchOptions:
    return SearchOptions(
        study="cost",
        space=options.space,
        backbones=(options.backbone,),
        folds=options.folds,
        epochs=options.epochs,
        image_size=options.image_size,
        device=options.device,
        seed=options.seed,
        pretrained=not options.no_pretrained,
        weights={k: Path(v) for k, _, v in (pair.partition("=") for pair in options.weights)},
        linear_probe=linear_probe,
    )


def _plan(options: argparse.Namespace, workspace: Workspace, *, linear_probe: bool) -> StudyPlan:
    database = Database.open(workspace.default_storage)
    chosen = _search_options(options, linear_probe=linear_probe)
    return make_plan(options.data, chosen, workspace, database, SilentProgress())


def _plain_task(plan: StudyPlan, options: argparse.Namespace) -> plain_script.Task:
    """The same pictures, folds, size and starting weights for the plain script."""
    dataset, spec = plan.dataset, describe_backbone(options.backbone)
    return plain_script.Task(
        files=[dataset.picture_path(index) for index in range(len(dataset.pictures))],
        labels=np.asarray(dataset.labels),
        crop=dataset.crop,
        folds=[np.asarray(fold) for fold in plan.split.folds],
        epochs=plan.settings.epochs,
        image_size=options.image_size,
        batch_size=plan.settings.batch_size,
        backbone=options.backbone,
        make_network=lambda: load_network(
            spec, plan.weights[options.backbone], classes=len(dataset.classes)
        ),
        mean=spec.mean,
        std=spec.std,
        device=plan.device,
        workers=usable_cores(),
    )


def _context(plan: StudyPlan) -> dict[str, object]:
    return {
        "environment": asdict(describe_environment(None)),
        "arithmetic": {name: asdict(chosen) for name, chosen in plan.arithmetic.items()},
        "pictures": len(plan.dataset.pictures),
        "development_pictures": len(plan.split.development),
        "classes": len(plan.dataset.classes),
        "synthetic": plan.dataset.synthetic,
    }


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
