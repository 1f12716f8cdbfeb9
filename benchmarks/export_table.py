"""Export one small network of each family with random weights, verify the files, and tell.

    python benchmarks/export_table.py docs/export-table.md --machine "two cores of ..."

The weights are random but hide nothing: gains that begin at zero, which switch whole branches
off, are stirred; batch normalisation takes its statistics from the pictures; and the classifier is
scaled until the probabilities differ from picture to picture. Those of a freshly made network are
nearly uniform, so any two networks would agree.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from bench.errors import BenchError
from bench.models.backbones import describe_backbone
from bench.models.export import ServingModel, export
from bench.models.staged import StagedModel, build_model
from bench.promote.verify import verify
from bench.records import ParityCheck, WeightSource
from bench.runtime.metadata import ModelMetadata, Normalisation
from bench.workspace import package_versions, write_atomic

# A small member of each family, and the side of its input in pixels; what is built for one size
# of pictures gets that size.
ARCHITECTURES = {
    "resnet18": 96,
    "resnetv2_50": 96,
    "legacy_xception": 96,
    "xception41p": 96,
    "tf_efficientnet_lite0": 96,
    "efficientnet_b0": 96,
    "mobilenetv3_small_050": 96,
    "ghostnet_050": 96,
    "convnext_atto": 96,
    "regnety_002": 96,
    "densenet121": 96,
    "repvgg_a0": 96,
    "fastvit_t8": 128,
    "hrnet_w18_small": 96,
    "eca_nfnet_l0": 96,
    "inception_v3": 128,
    "vgg11_bn": 96,
    "dla34": 96,
    "vit_tiny_patch16_224": 224,
    "deit_tiny_patch16_224": 224,
    "swin_tiny_patch4_window7_224": 224,
    "maxvit_pico_rw_256": 256,
    "mobilevit_xxs": 128,
    "edgenext_xx_small": 128,
}
CLASSES = ("a", "b", "c", "d", "e")
PICTURES = 20  # the last batches of 4 and 17 differ in size
SPREAD = 2.0  # standard deviation of each logit over the pictures


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A file that was exported and verified."""

    architecture: str
    image_size: int
    size_bytes: int
    export_cpu_s: float
    opset: int
    parity: tuple[ParityCheck, ...]


def pictures(image_size: int) -> npt.NDArray[np.uint8]:
    """(PICTURES, S, S, 3) smooth pictures with noise, each of other colours."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (PICTURES, 4, 4, 3)).astype(np.float32)
    smooth = nn.functional.interpolate(
        torch.from_numpy(coarse).permute(0, 3, 1, 2), size=image_size, mode="bicubic"
    )
    noise = rng.normal(0, 20, (PICTURES, image_size, image_size, 3))
    return np.clip(smooth.permute(0, 2, 3, 1).numpy() + noise, 0, 255).astype(np.uint8)


@torch.no_grad()
def spread_out(model: StagedModel, images_nhwc: npt.NDArray[np.uint8]) -> StagedModel:
    """Make each logit of a random network vary by `SPREAD` around 0 over the pictures."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if parameter.numel() == max(parameter.shape, default=1):  # a gain or bias for each channel
            least = -0.5 if name.endswith("bias") else 0.5
            parameter.copy_(least + torch.rand(parameter.shape, generator=generator))
    images_nchw = torch.from_numpy(images_nhwc).permute(0, 3, 1, 2).float()
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # average over all that is seen, which is this one batch
        norm.train()
    model.network(images_nchw * model.scale + model.bias)
    model.eval()
    logits = model(images_nchw)
    factor = SPREAD / logits.std(dim=0)
    model.classifier.weight.mul_(factor[:, None])
    model.classifier.bias.copy_((model.classifier.bias - logits.mean(dim=0)) * factor)
    return model


def spread_model(architecture: str, images_nhwc: npt.NDArray[np.uint8]) -> StagedModel:
    spec = describe_backbone(architecture)
    size = images_nhwc.shape[1]
    source = WeightSource(kind="random")
    model = build_model(spec, source, classes=len(CLASSES), image_size=size, seed=0)
    return spread_out(model.eval(), images_nhwc)


def export_and_verify(architecture: str, folder: Path) -> Row:
    """Raises BenchError where the network cannot be built, exported or verified."""
    images_nhwc = pictures(ARCHITECTURES[architecture])
    model = spread_model(architecture, images_nhwc)
    metadata = ModelMetadata(
        classes=CLASSES,
        geometry=model.spec.geometry(
            image_size=images_nhwc.shape[1], crop=None, resize="center-crop"
        ),
        normalisation=Normalisation(mean=model.spec.mean, std=model.spec.std),
    )
    file = folder / f"{architecture}.onnx"
    started = time.process_time()
    export(ServingModel(model), metadata, file)
    export_cpu_s = time.process_time() - started
    labels_n = np.arange(PICTURES) % len(CLASSES)
    parity = verify(model, file, images_nhwc, labels_n)
    return Row(
        architecture=architecture,
        image_size=images_nhwc.shape[1],
        size_bytes=file.stat().st_size,
        export_cpu_s=export_cpu_s,
        opset=onnx.load(file).opset_import[0].version,
        parity=parity,
    )


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="Markdown file to write.")
    parser.add_argument("--machine", default=platform.processor())
    parser.add_argument("--date", default=datetime.date.today().isoformat())
    parser.add_argument("--only", nargs="*", default=[*ARCHITECTURES])
    options = parser.parse_args(arguments)
    rows, failures = [], {}
    for architecture in options.only:
        with tempfile.TemporaryDirectory() as folder:
            try:
                rows.append(export_and_verify(architecture, Path(folder)))
            except BenchError as error:
                failures[architecture] = str(error)
        print(architecture, failures.get(architecture, "verified"), file=sys.stderr, flush=True)
        text = as_markdown(rows, failures, options.machine, options.date)
        write_atomic(options.out, text.encode())


def as_markdown(rows: Sequence[Row], failures: dict[str, str], machine: str, date: str) -> str:
    versions = package_versions()
    shown = ("torch", "timm", "onnx", "onnxscript", "onnxruntime-gpu", "onnxruntime", "numpy")
    used = ", ".join(f"{name} {versions[name]}" for name in shown if name in versions)
    providers = sorted({check.provider for row in rows for check in row.parity})
    lines = [
        "# Networks that export",
        "",
        f"{len(rows)} architectures of timm, exported by `bench` with a dynamic batch and verified "
        f"by it against torch on {PICTURES} pictures (made by a generator), whose outputs are "
        "spread out: random weights and gains, batch normalisation fitted to the pictures, a "
        f"classifier scaled so that each logit has a standard deviation of {SPREAD:g}. The "
        "differences are the largest of any probability; 1e-4 is allowed, and more where the file "
        "is about as near to the network in float64 as torch in float32 is. Verified on "
        f"{', '.join(providers)}. Sizes include five classes.",
        "",
        f"Made by `benchmarks/export_table.py` on {machine}, {date}: {used}. The seconds are of "
        "one processor's time, as other programs ran on the machine.",
        "",
        "| architecture | input, px | size, MB | export, CPU s | batch 1 | batch 4 | batch 17 "
        "| opset |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        differences = [
            max(c.max_abs_difference for c in row.parity if c.batch_size == batch_size)
            for batch_size in sorted({c.batch_size for c in row.parity})
        ]
        shown_differences = " | ".join(f"{difference:.1e}" for difference in differences)
        lines.append(
            f"| {row.architecture} | {row.image_size} | {row.size_bytes / 1e6:.1f} | "
            f"{row.export_cpu_s:.1f} | {shown_differences} | {row.opset} |"
        )
    excused = {row.architecture: row.parity for row in rows if any(c.rounding for c in row.parity)}
    if excused:
        lines += ["", "Largest differences from float64, where more than 1e-4 was excused:", ""]
    for name, parity in excused.items():
        rounding = [check.rounding for check in parity if check.rounding]
        file, model = (max(getattr(r, side) for r in rounding) for side in ("file", "model"))
        lines.append(f"- {name}: the file {file:.1e}, torch in float32 {model:.1e}")
    if failures:
        lines += ["", "What cannot be shipped:", ""]
        lines += [f"- {name}: {' '.join(reason.split())}" for name, reason in failures.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(sys.argv[1:])
