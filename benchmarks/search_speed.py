"""How fast this machine searches: pictures and floating-point operations a second.

    python benchmarks/search_speed.py --trials 50 --folds 5 --epochs 10 --image-size 224 \
        --backbones resnet50,xception --no-pretrained --out benchmarks/results/search-speed.json

It runs one search, without pruning unless `--pruner` says otherwise, so that every trial does its
whole work, over DATA or over 1,008 synthetic pictures. Operations are counted by PyTorch's own
counter; a training step counts as three forward passes of what is trained. "Asked for" is what a
plain loop would compute for the same trials; "done" leaves out what was read from the store of
frozen activations.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from results_file import write_result
from torch.utils.flop_counter import FlopCounterMode

from bench.data.demo import make_demo
from bench.database import Database
from bench.models.backbones import describe_backbone
from bench.models.staged import StagedModel, build_model
from bench.pipeline import search
from bench.progress import make_progress
from bench.records import PARTS, StudyPlan, TrialRecord, best_trial
from bench.results import load_trials
from bench.search.budget import Budget, parse_duration
from bench.search.options import SearchOptions
from bench.workspace import Workspace, describe_environment

# Dense bfloat16 TFLOP/s with tensor cores, from the makers' data sheets.
PEAK_TFLOPS = {"H200": 989.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "RTX 4090": 165.0}


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=None)
    parser.add_argument("--backbones", default="resnet50,xception")
    parser.add_argument("--space", default="default")
    parser.add_argument("--no-pretrained", action="store_true")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--pruner", default="none")
    parser.add_argument("--time-limit", type=parse_duration, default=None, help="such as 2m30s")
    parser.add_argument("--peak-tflops", type=float, default=None)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        result = measure(options, Workspace(Path(folder) / "runs").create(), Path(folder))
    write_result(options, result)


def measure(options: argparse.Namespace, workspace: Workspace, scratch: Path) -> dict[str, object]:
    data = options.data
    if data is None:
        data = scratch / "pictures"
        make_demo(data, pieces_per_class=42, clips_per_piece=4)
    database = Database.open(workspace.default_storage)
    started = time.perf_counter()
    plan = search(
        data,
        SearchOptions(
            study="speed",
            budget=Budget(trials=options.trials, timeout_s=options.time_limit),
            space=options.space,
            backbones=tuple(options.backbones.split(",")),
            folds=options.folds,
            epochs=options.epochs,
            image_size=options.image_size,
            batch_size=options.batch_size,
            device=options.device,
            workers=options.workers,
            pruner=options.pruner,
            pretrained=not options.no_pretrained,
        ),
        workspace=workspace,
        database=database,
        listener=make_progress(quiet=False),
    )
    seconds = time.perf_counter() - started
    trials = [
        trial for trial in load_trials(database, plan) if trial.state in ("COMPLETE", "PRUNED")
    ]
    asked, done, pictures = _work(plan, trials, options.image_size)
    name = torch.cuda.get_device_name() if plan.device == "cuda" else None
    peak = options.peak_tflops or next(
        (tflops for key, tflops in PEAK_TFLOPS.items() if name and key in name), None
    )
    result = {
        "seconds": seconds,
        "trials": len(trials),
        "pruned": sum(trial.state == "PRUNED" for trial in trials),
        "epochs": sum(len(trial.epochs) for trial in trials),
        "recipes": [asdict(trial.recipe) for trial in trials],
        "pictures_per_s": pictures / seconds,
        "asked_tflops": asked / seconds / 1e12,
        "done_tflops": done / seconds / 1e12,
        "peak_tflops": peak,
        "best": best.value if (best := best_trial(trials)) else None,
        "arithmetic": {key: asdict(value) for key, value in plan.arithmetic.items()},
        "environment": asdict(describe_environment(name)),
    }
    print("| device | trials (pruned) | epochs | whole search, s | pictures a second | "
          "TFLOP/s asked for | TFLOP/s done | share of peak |")  # fmt: skip
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    share = f"{100 * done / seconds / 1e12 / peak:.1f} %" if peak else "peak not known"
    print(
        f"| {name or 'CPU'} | {len(trials)} ({result['pruned']}) | {result['epochs']} "
        f"| {seconds:.0f} | {pictures / seconds:.0f} "
        f"| {asked / seconds / 1e12:.3f} | {done / seconds / 1e12:.3f} | {share} |"
    )
    return result


def _work(
    plan: StudyPlan, trials: Sequence[TrialRecord], image_size: int
) -> tuple[float, float, int]:
    """Operations asked for, operations done, and pictures that went through trained parts."""
    asked, done, pictures = 0.0, 0.0, 0
    stored: set[tuple[str, str, int, int]] = set()
    costs = {name: _flops_to_boundaries(plan, name, image_size) for name in plan.arithmetic}
    for trial in trials:
        to_boundary = costs[trial.recipe.backbone]
        frozen = to_boundary[trial.recipe.freeze_depth]
        trained = to_boundary[PARTS] - frozen
        for row in trial.epochs:
            train = len(plan.split.training_part(row.fold))
            validation = len(plan.split.folds[row.fold])
            pictures += train + validation
            work = (3 * train + validation) * trained
            done += work
            asked += work + (train + validation) * frozen
            for view in ((trial.recipe.augmentation, row.epoch), ("none", 0)):
                key = (trial.recipe.backbone, *view, trial.recipe.freeze_depth)
                if key not in stored:
                    stored.add(key)
                    done += frozen * len(plan.split.development)
    return asked, done, pictures


@torch.no_grad()
def _flops_to_boundaries(plan: StudyPlan, backbone: str, image_size: int) -> list[float]:
    """Floating-point operations of one picture from the pixels to each boundary."""
    model: StagedModel = build_model(
        describe_backbone(backbone),
        plan.weights[backbone],
        classes=len(plan.dataset.classes),
        image_size=image_size,
        seed=0,
    ).eval()
    flops, activations = [0.0], torch.zeros(1, 3, image_size, image_size)
    for boundary in range(PARTS):
        with FlopCounterMode(display=False) as counter:
            activations = model.between(activations, boundary, boundary + 1)
        flops.append(flops[-1] + counter.get_total_flops())
    return flops


if __name__ == "__main__":
    main(sys.argv[1:])
