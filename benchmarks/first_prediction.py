"""How long a fresh process takes to its first prediction, and where the time goes.

    python benchmarks/first_prediction.py model.onnx picture.png --out first-prediction.md

Each run is a new process with the files in the page cache. Wall time is what a user waits;
processor time is what the work itself takes, whatever else the machine does.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime
import PIL

from bench.workspace import usable_cores, write_atomic

LIMIT_S = 0.6

# Prints the process's clock after each step: seconds since the parent started it.
CHILD = """
import sys, time
started = float(sys.argv[3])
steps = {"interpreter": time.time() - started}
import numpy, PIL.Image, onnxruntime
steps["numpy, Pillow, onnxruntime"] = time.time() - started
from bench import Predictor
predictor = Predictor(sys.argv[1], device="cpu")
steps["model opened"] = time.time() - started
predictor.predict(sys.argv[2])
steps["first prediction"] = time.time() - started
import json
print(json.dumps(steps))
"""


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--processes", type=int, default=15)
    parser.add_argument("--machine", default="this machine")
    parser.add_argument("--date", default=time.strftime("%Y-%m-%d"))
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args(arguments)
    paths = [str(options.model.absolute()), str(options.picture.absolute())]
    in_python = [sys.executable, "-c", CHILD, *paths]
    by_command = [sys.executable, "-m", "cli", "predict", *paths, "--device", "cpu"]
    runs = [measure(in_python) for _ in range(options.processes)]
    command_runs = [measure(by_command) for _ in range(options.processes)]
    text = as_markdown(runs, command_runs, options)
    print(text, end="")
    if options.out is not None:
        write_atomic(options.out, text.encode())
    if min(run["processor"] for run in runs) > LIMIT_S:
        sys.exit(1)


def measure(command: list[str]) -> dict[str, float]:
    """Run one process; return its steps in seconds, and its whole wall and processor time."""
    started = time.time()
    process = subprocess.Popen([*command, *([str(started)] if "-c" in command else [])],
                               stdout=subprocess.PIPE, text=True)  # fmt: skip
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.time() - started
    if os.waitstatus_to_exitcode(status):
        raise subprocess.CalledProcessError(status, command)
    steps = json.loads(said) if "-c" in command else {}
    return {**steps, "process": wall, "processor": usage.ru_utime + usage.ru_stime}


def as_markdown(
    runs: Sequence[dict[str, float]],
    command_runs: Sequence[dict[str, float]],
    options: argparse.Namespace,
) -> str:
    def row(name: str, values: list[float]) -> str:
        return f"| {name} | {min(values):.3f} | {median(values):.3f} | {max(values):.3f} |"

    size_mb = options.model.stat().st_size / 1e6
    lines = [
        "# First prediction",
        "",
        f"Seconds from the start of a fresh process, of {len(runs)} processes; the limit is "
        f"{LIMIT_S}. A model of {size_mb:.1f} MB on the CPU, one picture from a file, the files in "
        "the page cache.",
        "",
        f"Made by `benchmarks/first_prediction.py` on {options.machine} ({usable_cores()} usable), "
        f"{options.date}: python {sys.version.split()[0]}, onnxruntime {onnxruntime.__version__}, "
        f"numpy {np.__version__}, Pillow {PIL.__version__}. Other programs ran on the machine: the "
        "least is the nearest to an idle machine's.",
        "",
        "| reached after, s | least | median | most |",
        "| --- | ---: | ---: | ---: |",
    ]
    steps = [name for name in runs[0] if name not in ("process", "processor")]
    lines += [row(name, [run[name] for run in runs]) for name in steps]
    lines.append(row("processor time of the whole process", [run["processor"] for run in runs]))
    lines.append(row("`bench predict`, to its end", [run["process"] for run in command_runs]))
    lines.append(row("its processor time", [run["processor"] for run in command_runs]))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(sys.argv[1:])
