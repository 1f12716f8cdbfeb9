"""What INT8 costs in answers and gains in time, on networks trained on real pictures.

    python benchmarks/variants.py DATA
    python benchmarks/variants.py DATA --network resnet50:0 --network efficientnet_b0:0 --quick

Each network (BACKBONE:FREEZE_DEPTH) is trained on the development part of DATA, exported, verified
and scored as `bench promote` does it; then its INT8 variant is made and passes its gate or not.
Both files are measured at batch 1, in fresh processes that take turns. A refused variant is
measured too, to show what the gate costs: for that the gate's tolerance is lifted in a second
making, whose file is not kept. Prints a Markdown table, or writes it to `--out`.
"""

from __future__ import annotations

import argparse
import datetime
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.database import Database
from bench.latency import LatencyJob, LatencyProtocol, measure_many
from bench.pipeline import make_plan
from bench.progress import SilentProgress
from bench.promote.precisions import VariantChoice
from bench.promote.promotion import promote_candidate
from bench.promote.select import Candidate
from bench.promote.variants import make_variants
from bench.records import LatencyRow, ModelRecord, Recipe, VariantRecord
from bench.search.options import SearchOptions
from bench.training.trainer import Trainer
from bench.workspace import Workspace, describe_environment

NETWORKS = ("resnet50:0", "efficientnet_lite0:4", "efficientnet_b0:0", "mobilenetv3_small_100:0")
PRETRAINED = ("efficientnet_lite0",)  # its weights are installed with bench
LIFTED = 100.0


@dataclass(frozen=True)
class Row:
    model: ModelRecord
    variant: VariantRecord
    measured: VariantRecord  # the same, or the one made with the gate lifted
    fp32: LatencyRow
    int8: LatencyRow | None


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--network", action="append", help="BACKBONE:FREEZE_DEPTH; repeat")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--tolerance", type=float, default=0.5)
    parser.add_argument("--threads", type=int, help="of one call; default: the physical cores")
    parser.add_argument("--quick", action="store_true", help="2 short processes a row, not 5")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args(arguments)
    protocol = LatencyProtocol.quick() if options.quick else LatencyProtocol()
    rows = []
    for network in options.network or NETWORKS:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(run(network, options, Workspace(Path(folder)).create(), protocol))
        print(_line(rows[-1]), flush=True)
    text = _document(rows, options, protocol)
    if options.out is None:
        print(text)
    else:
        options.out.write_text(text)


def run(
    network: str, options: argparse.Namespace, workspace: Workspace, protocol: LatencyProtocol
) -> Row:
    backbone, _, depth = network.partition(":")
    search = SearchOptions(
        space="cpu",
        backbones=(backbone,),
        folds=3,
        epochs=options.epochs,
        image_size=options.image_size,
        pretrained=backbone in PRETRAINED,
    )
    with Database.open(workspace.default_storage) as database:
        plan = make_plan(options.data, search, workspace, database, SilentProgress())
    recipe = Recipe(
        backbone=backbone,
        learning_rate=options.learning_rate,
        freeze_depth=int(depth),
        # From random weights the running statistics are still those of no data.
        batch_norm="frozen" if backbone in PRETRAINED else "updating",
    )
    candidate = Candidate(
        name=backbone, role="best", trial=0, recipe=recipe, cv_mean=None, cv_sd=None
    )
    model = promote_candidate(Trainer(plan), candidate, workspace, print)

    def make(tolerance: float) -> tuple[ModelRecord, VariantRecord]:
        choice = VariantChoice.parse("fp32,int8", tolerance)
        made = make_variants(model, plan, workspace, choice, print)
        return made, made.variants[0]

    with_variants, variant = make(options.tolerance)
    measured = variant
    if not variant.offered:
        with_variants, measured = make(LIFTED)
    files = [("fp32", model.path, model.architecture_key)]
    if measured.offered:
        files.append(("int8", measured.path, with_variants.variant_key(measured)))
    fp32, *int8 = measure_many(
        [
            LatencyJob(
                path=workspace.root / path,
                model=backbone,
                architecture_key=key,
                device="cpu",
                batch_size=1,
                threads=options.threads,
                precision=precision,
            )
            for precision, path, key in files
        ],
        protocol=protocol,
    )
    return Row(model, variant, measured, fp32, int8[0] if int8 else None)


HEADERS = (
    "network", "weights", "gate", "calibration", "layers in float32", "pictures compared",
    "same class, %", "points against fp32", "lost / gained", "test fp32, %", "test int8, %",
    "file, MB", "fp32 p50, ms", "int8 p50, ms", "times faster",
)  # fmt: skip


def _line(row: Row) -> str:
    model, variant, check = row.model, row.variant, row.variant.check
    tested = row.measured.test
    mark = "" if variant.offered else " *"
    cells = (
        f"{model.recipe.backbone}, depth {model.recipe.freeze_depth}",
        "random" if model.weights == "random" else "ImageNet",
        "offered" if variant.offered else "refused",
        variant.method,
        f"{len(variant.float_layers)} of {variant.layers}",
        str(check.pictures) if check else "–",
        f"{100 * check.top1_agreement:.1f}" if check else "–",
        f"{check.difference_points:+.2f}" if check else "–",
        f"{check.lost} / {check.gained}" if check else "–",
        f"{100 * model.test.balanced_accuracy:.1f}",
        f"{100 * tested.balanced_accuracy:.1f}{mark}" if tested else "–",
        f"{model.size_bytes / 1e6:.1f} / {variant.size_bytes / 1e6:.1f}",
        _time(row.fp32),
        f"{_time(row.int8)}{mark}" if row.int8 else "–",
        f"{row.fp32.p50_ms / row.int8.p50_ms:.2f}{mark}" if row.int8 else "–",
    )
    return "| " + " | ".join(cells) + " |"


def _time(row: LatencyRow) -> str:
    medians = row.process_medians_ms
    unsteady = "" if row.steady else ", unsteady"
    return f"{row.p50_ms:.2f} ({min(medians):.2f} to {max(medians):.2f}{unsteady})"


def _document(rows: Sequence[Row], options: argparse.Namespace, protocol: LatencyProtocol) -> str:
    environment = describe_environment(None)
    versions = environment.versions
    runtime = versions.get("onnxruntime-gpu") or versions["onnxruntime"]
    lines = [
        "# INT8 against float32",
        "",
        f"`python benchmarks/variants.py DATA`, {datetime.date.today().isoformat()}: "
        f"{environment.cpu}, {environment.cores} shared cores, ONNX Runtime {runtime}, "
        f"{rows[0].fp32.threads} threads; {options.image_size} pixels, {options.epochs} epochs at "
        f"learning rate {options.learning_rate:g}, tolerance {options.tolerance:g} points; "
        f"latency at batch 1 in {protocol.processes} fresh processes a file, which take turns: "
        "median of their medians (and its range).",
        "",
        "| " + " | ".join(HEADERS) + " |",
        "| " + " | ".join("---" for _ in HEADERS) + " |",
        *map(_line, rows),
        "",
        "Weights are those that training began from. The gate compares on development pictures, "
        "which both files know from training; test scores were looked at afterwards.",
        "",
        "\\* measured with the gate lifted; no such file is ever offered.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main(sys.argv[1:])
