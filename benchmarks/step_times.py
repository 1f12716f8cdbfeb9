"""How long a training step takes, launched kernel by kernel and recorded as a CUDA graph.

    python benchmarks/step_times.py --backbones resnet50,xception --device cuda \
        --out benchmarks/results/step-times.json

A step is forward, backward, clipping and AdamW on one batch, from the boundary behind the frozen
parts on, as `bench` trains. It is the loop's own step on activations that lie on the device. What
the batch takes in the frozen parts stands beside it. The least of several rounds is printed.
Without a GPU nothing is recorded.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results_file import write_result

from bench.models.backbones import describe_backbone
from bench.models.staged import StagedModel, build_model
from bench.records import Arithmetic, Policy, Recipe, WeightSource
from bench.training.activations import Indices
from bench.training.arithmetic import choose_device
from bench.training.frozen import FrozenPart
from bench.training.learner import Learner
from bench.training.loop import Schedule, fit
from bench.training.memory import keep_freed_memory
from bench.workspace import describe_environment

CLASSES = 10


class OneBatch:
    """The same activations whatever is asked for, on the training device."""

    def __init__(self, activations: torch.Tensor) -> None:
        self._activations = activations

    def read(self, pictures: Indices, *, policy: Policy, view: int) -> torch.Tensor:
        return self._activations[: len(pictures)]


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbones", default="resnet50,xception")
    parser.add_argument("--depths", default="0,3,4,5")
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--steps", type=int, default=50, help="of a round")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args(arguments)
    device = choose_device(options.device)
    if device == "cpu":
        keep_freed_memory()  # as a search does
    rows = []
    print("| network | frozen parts | in them, ms | one by one, ms | recorded, ms | times |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for backbone in options.backbones.split(","):
        for depth in map(int, options.depths.split(",")):
            row: dict[str, Any] = {"backbone": backbone, "depth": depth}
            for graphs in (False, True) if device == "cuda" else (False,):
                arithmetic = Arithmetic(
                    device=device,
                    dtype=options.dtype,
                    channels_last=True,
                    reason="benchmark",
                    graphs=graphs,
                )
                row["recorded_ms" if graphs else "one_by_one_ms"] = least_ms(
                    epochs(backbone, depth, arithmetic, options), options.steps
                )
            row["frozen_ms"] = least_ms(frozen_batch(backbone, depth, arithmetic, options))
            rows.append(row)
            one_by_one, recorded = row["one_by_one_ms"], row.get("recorded_ms")
            gain = f"{recorded:.2f} | {one_by_one / recorded:.1f}" if recorded else "– | –"
            print(f"| {backbone} | {depth} | {row['frozen_ms']:.2f} | {one_by_one:.2f} | {gain} |",
                  flush=True)  # fmt: skip
    name = torch.cuda.get_device_name() if device == "cuda" else None
    environment = asdict(describe_environment(name))
    write_result(options, {"rows": rows, "environment": environment})


def epochs(
    backbone: str, depth: int, arithmetic: Arithmetic, options: argparse.Namespace
) -> Callable[[], object]:
    """Something that trains one more epoch, of `options.steps` steps, each time it is called."""
    model, pixels = _model_and_pixels(backbone, depth, arithmetic, options)
    boundary, batch_size = model.boundary(depth), options.batch_size
    with torch.no_grad():
        activations = model.prefix(pixels, boundary)
    pictures = np.arange(options.steps * batch_size)
    outcomes = fit(
        Learner(model, boundary, arithmetic),
        OneBatch(activations),
        pictures % CLASSES,
        pictures,
        None,
        Recipe(backbone=backbone, freeze_depth=depth, learning_rate=1e-5, batch_norm="updating"),
        Schedule(epochs=5, batch_size=batch_size, seed=0),
    )
    return lambda: next(outcomes)


def frozen_batch(
    backbone: str, depth: int, arithmetic: Arithmetic, options: argparse.Namespace
) -> Callable[[], object]:
    """Something that runs a batch through the frozen parts each time it is called."""
    model, pixels = _model_and_pixels(backbone, depth, arithmetic, options)
    frozen, boundary = FrozenPart(model, arithmetic), model.boundary(depth)
    return lambda: float(frozen.run(pixels, 0, boundary, options.batch_size).sum())


def _model_and_pixels(
    backbone: str, depth: int, arithmetic: Arithmetic, options: argparse.Namespace
) -> tuple[StagedModel, torch.Tensor]:
    size = options.image_size
    model = build_model(
        describe_backbone(backbone),
        WeightSource(kind="random"),
        classes=CLASSES,
        image_size=size,
        seed=0,
    ).to(arithmetic.device)
    model.to(memory_format=torch.channels_last).freeze(depth, "updating")
    pixels = 255.0 * torch.rand(options.batch_size, 3, size, size, device=arithmetic.device)
    return model, pixels.contiguous(memory_format=torch.channels_last)


def least_ms(run: Callable[[], object], steps: int = 1) -> float:
    """Milliseconds of a step in the fastest of four runs, of so many each, after a first one.

    A run ends with a number on the processor, so nothing is under way after it.
    """
    run()
    times_s = []
    for _ in range(4):
        start = time.perf_counter()
        run()
        times_s.append(time.perf_counter() - start)
    return 1e3 * min(times_s) / steps


if __name__ == "__main__":
    main(sys.argv[1:])
