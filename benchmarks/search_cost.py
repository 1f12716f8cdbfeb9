"""What a search costs: `bench` against `plain_script.py`, in turns, on the same machine.

    python benchmarks/search_cost.py trials DATA --backbone efficientnet_lite0
    python benchmarks/search_cost.py race DATA --backbone efficientnet_lite0

`trials` trains one list of trials with both programs, alternately and without pruning, and prints
seconds, ratios and scores: recipes drawn at random from the space, their freezing depths taken in
turn from `--depths`. With `--bf16` the plain script also runs each of them in bfloat16, which
shows what that alone gives. `scores` trains them with several seeds each, for their scores alone:
one seed a trial tells little. `race` runs a whole search with each and prints when `bench` reached
the plain script's best score. That score is the best of many noisy ones, so it also prints when the
score was reached that the same recipe has on average with `--seeds` other seeds. All print the
Markdown tables that the README quotes.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
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
from bench.pipeline import make_plan, search
from bench.progress import SilentProgress
from bench.records import Recipe, StudyPlan, TrialJob
from bench.results import load_trials
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
    task = _plain_task(plan, options)
    sides = ["bench", "plain", "plain_bf16"][: 3 if options.bf16 else 2]
    rows: list[dict[str, Any]] = []
    trainer: Trainer | None = None
    for number, recipe in enumerate(_draw_recipes(plan, options)):
        row: dict[str, Any] = {"depth": recipe.freeze_depth, "policy": recipe.augmentation}
        for side in sides if number % 2 else reversed(sides):
            started = time.perf_counter()
            if side == "bench":
                # Decoding and opening the store belong to the first trial's time.
                trainer = trainer or Trainer(plan)
                job = TrialJob(number=number, recipe=recipe)
                score = statistics.fmean(trainer.fold_scores(job))
            else:
                chosen = replace(task, bf16=side == "plain_bf16")
                score = plain_script.run_trial(chosen, asdict(recipe), seed=1000 * number)
            row[f"{side}_s"] = time.perf_counter() - started
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
        sums = [sum(row[f"{side}_s"] for row in chosen) for side in sides]
        cells = ["all" if depth is None else str(depth), str(len(chosen))]
        cells += [f"{total_s:.1f}" for total_s in sums]
        for some in (chosen, chosen[1:]):  # later trials find stored what the first one computed
            ours, plain = (sum(row[f"{side}_s"] for row in some) for side in ("bench", "plain"))
            cells.append(f"{plain / ours:.1f}" if some else "")
        for side in ("bench", "plain"):
            cells.append(f"{statistics.fmean(row[f'{side}_score'] for row in chosen):.3f}")
        print(f"| {' | '.join(cells)} |")


# --- a whole search -------------------------------------------------------------------------


def race(options: argparse.Namespace, workspace: Workspace) -> dict[str, object]:
    """Search with each program; when did each reach the plain script's best score?"""
    plan = _plan(options, workspace, linear_probe=True)
    space = SearchSpace.from_dict(plan.space)
    curve: list[tuple[float, float]] = []
    started = time.perf_counter()

    def on_trial(study: optuna.Study) -> None:
        curve.append((time.perf_counter() - started, study.best_value))
        _say(f"plain: {len(curve)} trials, {curve[-1][0]:.0f} s, best {curve[-1][1]:.3f}")

    task = _plain_task(plan, options)
    study = plain_script.search(
        task,
        space.distributions(),
        # A head from random numbers, which the plain script's is, wants a higher rate.
        [{**params, "head_lr_factor": 10.0} for params in space.default_params()],
        options.trials,
        options.seed,
        on_trial,
    )
    plain_best = max(score for _, score in curve)
    plain_s = next(at for at, score in curve if score == plain_best)

    database = Database.open(workspace.default_storage)
    started = time.perf_counter()
    search(
        options.data,
        replace(
            _search_options(options, linear_probe=True),
            budget=Budget(trials=options.bench_trials or options.trials),
        ),
        workspace=workspace,
        database=database,
        listener=SilentProgress(),
    )
    bench_total_s = time.perf_counter() - started
    trials = load_trials(database, plan)
    overhead_s = bench_total_s - max(trial.finished_s or 0.0 for trial in trials)
    scored = [(overhead_s + t.finished_s, t.value) for t in trials if t.state == "COMPLETE"]
    best = max(score for _, score in scored)
    recipe = study.best_params
    again = [plain_script.run_trial(task, recipe, 7000 + seed) for seed in range(options.seeds)]
    _say(f"the plain script's best recipe {recipe} with other seeds: {again}")

    goals = {"its best score": plain_best, "that recipe, other seeds": statistics.fmean(again)}
    found = {name: _first_at_least(goal, scored) for name, goal in goals.items()}
    print("| program | trials | whole search, s | best score |")
    print("| --- | ---: | ---: | ---: |")
    print(f"| plain script | {len(curve)} | {curve[-1][0]:.0f} | {plain_best:.3f} |")
    print(f"| bench | {len(trials)} | {bench_total_s:.0f} | {best:.3f} |")
    print(
        "\n| the plain script's | score | it had it after, s | bench reached it after, s | ratio |"
    )
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, goal in goals.items():
        at = found[name]
        reached = "never | –" if at is None else f"{at:.0f} | {plain_s / at:.1f}"
        print(f"| {name} | {goal:.3f} | {plain_s:.0f} | {reached} |")
    return {
        "plain_curve": curve,
        "plain_best": plain_best,
        "plain_best_recipe": recipe,
        "plain_best_again": again,
        "plain_reached_s": plain_s,
        "bench_total_s": bench_total_s,
        "bench_best": best,
        "bench_reached_s": found,
        "bench_curve": [(t.finished_s, t.state, t.value) for t in trials],
        **_context(plan),
    }


def _first_at_least(goal: float, scored: Sequence[tuple[float, float]]) -> float | None:
    """Seconds until a trial with this score ended."""
    return min((at for at, score in scored if score >= goal), default=None)


# --- shared ---------------------------------------------------------------------------------


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
