"""How much memory a search takes, and how little of it grows with the number of pictures.

    python benchmarks/memory.py --image-size 96 --out memory.json

Makes sets of small pictures in a temporary folder and runs the same short search on each, with
the whole backbone frozen, in a fresh process. Prints the peak of its resident memory as a Markdown
table, and writes JSON. Pages of files that the process maps count; the page cache does not.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image
from results_file import write_result

from bench.workspace import describe_environment

CLASSES = ("blue", "green", "red")
MOST_GROWTH_MB = 500

SPACE = """\
training: {{folds: {folds}, epochs: {epochs}, image_size: {image_size}}}
parameters:
  backbone: {{choices: [{backbone}]}}
  learning_rate: {{low: 1e-5, high: 3e-3, log: true}}
defaults: {{freeze_depth: 5}}
"""


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", default="1000,20000")
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--no-pretrained", action="store_true")
    parser.add_argument("--side", type=int, default=40, help="of the picture files, pixels")
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--folds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--trials", type=int, default=2)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args(arguments)
    rows = []
    for pictures in map(int, options.pictures.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(pictures, options, Path(folder)))
    growth_mb = rows[-1]["peak_rss_mb"] - rows[0]["peak_rss_mb"]
    print("| pictures | peak resident memory, MB | seconds |")
    print("| ---: | ---: | ---: |")
    for row in rows:
        print(f"| {row['pictures']} | {row['peak_rss_mb']:.0f} | {row['seconds']:.0f} |")
    print(
        f"\n{rows[-1]['pictures']} pictures take {growth_mb:.0f} MB more than "
        f"{rows[0]['pictures']} ({MOST_GROWTH_MB} are allowed)."
    )
    environment = asdict(describe_environment(None))
    write_result(options, {"rows": rows, "growth_mb": growth_mb, "environment": environment})
    if growth_mb > MOST_GROWTH_MB:
        sys.exit(1)


def measure(pictures: int, options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Search a set of so many pictures; return the peak of the largest process's memory."""
    data, space = folder / "pictures", folder / "memory.yaml"
    make_pictures(data, pictures, options.side)
    space.write_text(SPACE.format_map(vars(options)))
    command = [
        sys.executable, "-m", "cli", "search", str(data), "--space", str(space),
        "--trials", str(options.trials), "--device", "cpu", "--crop", "none", "--pruner", "none",
        "--no-promote", "--quiet", "--workspace", str(folder / "runs"),
    ]  # fmt: skip
    command += ["--no-pretrained"] if options.no_pretrained else []
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    # Of the process and of all the processes that it waited for, the largest.
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return {
        "pictures": pictures,
        "peak_rss_mb": usage.ru_maxrss * 1024 / 1e6,  # the kernel counts in KiB
        "seconds": time.perf_counter() - started,
    }


def make_pictures(folder: Path, pictures: int, side: int) -> None:
    """Write `folder`/<class>/<number>.png: dark noise with one bright colour, `side` px wide."""
    for name in CLASSES:
        (folder / name).mkdir(parents=True)

    def make(number: int) -> None:
        label = number % len(CLASSES)
        image = np.random.default_rng(number).integers(0, 120, (side, side, 3), dtype=np.uint8)
        image[:, :, 2 - label] += 120
        file = folder / CLASSES[label] / f"{number:06d}.png"
        Image.fromarray(image).save(file, compress_level=1)

    with ThreadPoolExecutor() as pool:
        list(pool.map(make, range(pictures)))


if __name__ == "__main__":
    main(sys.argv[1:])
