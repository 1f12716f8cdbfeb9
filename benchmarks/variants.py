"""What INT8 costs in answers and gains in time, on networks trained on real pictures.

    python benchmarks/variants.py DATA
    python benchmarks/variants.py DATA --network resnet50:0 --network efficientnet_b0:0 --quick
    python benchmarks/variants.py --digits --test-fraction 0.5 --image-size 64 --epochs 20

Each network (BACKBONE:FREEZE_DEPTH) is trained on the development part of DATA, exported, verified
and scored as `bench promote` does it; then its INT8 variant is made and passes its gate or not.
Then both files answer the test pictures, which neither has seen, and are compared in pairs. Both
are measured at batch 1, in fresh processes that take turns. A refused variant is tested and
measured too, to show what the gate costs: for that the gate's tolerance is lifted in a second
making, whose file is not kept. Prints a Markdown table, or writes it to `--out`.

`--digits` takes the place of DATA: scikit-learn's 1,797 handwritten digits, which need no download
and which a network learns from random weights in minutes, so that accuracy stands near its top,
and hundreds of pictures can be held out to see half a point.
"""

from __future__ import annotations

import argparse
import datetime
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from bench.database import Database
from bench.latency.measuring import LatencyJob, LatencyProtocol, measure_many
from bench.planning import make_plan
from bench.progress import SilentProgress
from bench.promote.precisions import VariantChoice
from bench.promote.promotion import evaluate, promote_candidate
from bench.promote.select import Candidate
from bench.promote.variants import make_variants
from bench.records import Estimate, LatencyRow, ModelRecord, Recipe, StudyPlan, VariantRecord
from bench.search.options import SearchOptions
from bench.statistics.answers import answers_of
from bench.statistics.comparisons import on_test_pictures
from bench.training.trainer import Trainer
from bench.workspace import Workspace, describe_environment

NETWORKS = ("resnet50:0", "efficientnet_lite0:4", "efficientnet_b0:0", "mobilenetv3_small_100:0")
PRETRAINED = ("efficientnet_lite0",)  # its weights are installed with bench
LIFTED = 100.0
DIGITS_SIDE = 64


@dataclass(frozen=True)
class HeldOut:
    """The INT8 file against the float32 file on the test pictures, in pairs."""

    pictures: int
    lost: int  # right in float32, wrong in INT8
    gained: int
    difference: Estimate  # of balanced accuracies, INT8 minus float32


@dataclass(frozen=True)
class Row:
    model: ModelRecord
    variant: VariantRecord
    measured: VariantRecord  # the same, or the one made with the gate lifted
    held_out: HeldOut | None
    fp32: LatencyRow
    int8: LatencyRow | None


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("data", type=Path, nargs="?")
    data.add_argument("--digits", action="store_true", help="scikit-learn's digits instead")
    parser.add_argument("--network", action="append", help="BACKBONE:FREEZE_DEPTH; repeat")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--tolerance", type=float, default=0.5)
    parser.add_argument("--test-fraction", type=float, default=0.2, help="held out of training")
    parser.add_argument("--threads", type=int, help="of one call; default: the physical cores")
    parser.add_argument("--quick", action="store_true", help="2 short processes a row, not 5")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args(arguments)
    protocol = LatencyProtocol.quick() if options.quick else LatencyProtocol()
    rows = []
    for network in options.network or (NETWORKS[:1] if options.digits else NETWORKS):
        with tempfile.TemporaryDirectory() as folder:
            workspace = Workspace(Path(folder) / "runs").create()
            pictures = write_digits(Path(folder) / "digits") if options.digits else options.data
            rows.append(run(network, pictures, options, workspace, protocol))
        print(_line(rows[-1]), flush=True)
    text = _document(rows, options, protocol)
    if options.out is None:
        print(text)
    else:
        options.out.write_text(text)


def write_digits(folder: Path) -> Path:
    """Write scikit-learn's digits (Alpaydin and Kaynak, 1998) as PNGs, a folder a class."""
    digits = load_digits()
    for number, (pixels_hw, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        picture = Image.fromarray(np.minimum(16 * pixels_hw, 255).astype(np.uint8))
        file = folder / str(label) / f"{number:04}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        picture.resize((DIGITS_SIDE, DIGITS_SIDE), Image.Resampling.BICUBIC).save(file)
    return folder


def run(
    network: str,
    pictures: Path,
    options: argparse.Namespace,
    workspace: Workspace,
    protocol: LatencyProtocol,
) -> Row:
    backbone, _, depth = network.partition(":")
    search = SearchOptions(
        space="cpu",
        backbones=(backbone,),
        folds=3,
        epochs=options.epochs,
        image_size=options.image_size,
        pretrained=backbone in PRETRAINED,
        test_fraction=options.test_fraction,
        # Two people's ones of 8 x 8 pixels look like copies, which says nothing of a precision.
        tie_duplicates=not options.digits,
        crop="none" if options.digits else "auto",
    )
    with Database.open(workspace.default_storage) as database:
        plan = make_plan(pictures, search, workspace, database, SilentProgress())
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
    held_out = compare_on_test(model, measured, plan, workspace) if measured.offered else None
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
    return Row(model, variant, measured, held_out, fp32, int8[0] if int8 else None)


def compare_on_test(
    model: ModelRecord, variant: VariantRecord, plan: StudyPlan, workspace: Workspace
) -> HeldOut:
    predictions, _ = evaluate(workspace.root / variant.path, plan)
    labels_n = np.asarray(predictions.labels)
    before_n, after_n = (
        np.asarray(each.probabilities).argmax(axis=1) == labels_n
        for each in (model.predictions, predictions)
    )
    first, second = (answers_of(each, plan.dataset) for each in (predictions, model.predictions))
    return HeldOut(
        pictures=len(labels_n),
        lost=int((before_n & ~after_n).sum()),
        gained=int((~before_n & after_n).sum()),
        difference=on_test_pictures(first, second).difference,
    )


HEADERS = (
    "network", "weights", "gate", "calibration", "layers in float32", "gate's pictures",
    "same class, %", "points against fp32", "lost / gained", "test pictures", "test fp32, %",
    "test int8, %", "test points against fp32 (95 %)", "test lost / gained", "file, MB",
    "fp32 p50, ms", "int8 p50, ms", "times faster",
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
        str(len(model.predictions.indices)),
        f"{100 * model.test.balanced_accuracy:.2f}",
        f"{100 * tested.balanced_accuracy:.2f}{mark}" if tested else "–",
        f"{_points(row.held_out.difference)}{mark}" if row.held_out else "–",
        f"{row.held_out.lost} / {row.held_out.gained}{mark}" if row.held_out else "–",
        f"{model.size_bytes / 1e6:.1f} / {variant.size_bytes / 1e6:.1f}",
        _time(row.fp32),
        f"{_time(row.int8)}{mark}" if row.int8 else "–",
        f"{row.fp32.p50_ms / row.int8.p50_ms:.2f}{mark}" if row.int8 else "–",
    )
    return "| " + " | ".join(cells) + " |"


def _points(difference: Estimate) -> str:
    value = f"{100 * difference.value:+.2f}"
    if difference.interval is None:
        return value
    low, high = difference.interval
    return f"{value} ({100 * low:+.2f} to {100 * high:+.2f})"


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
        f"`python benchmarks/variants.py {'--digits' if options.digits else 'DATA'}`, "
        f"{datetime.date.today().isoformat()}: "
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
        "which both files know from training; the test pictures, which neither has seen, were "
        "looked at afterwards, in pairs, with the cluster-robust interval of docs/statistics.md.",
        "",
        "\\* measured with the gate lifted; no such file is ever offered.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main(sys.argv[1:])
