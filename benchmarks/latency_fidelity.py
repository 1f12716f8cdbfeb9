"""Whether `bench latency` says what a plain loop over ONNX Runtime says.

    python benchmarks/latency_fidelity.py MODEL... --rounds 9 --out fidelity.md

Each round times the file in two fresh processes, one of `bench latency` and one of a bare loop
(`session.run` between two readings of the clock, nothing else of this project), in turns: bench
first in one round, the loop first in the next. Both open the session with the same threads. Prints
the ratio of their medians with its 95 % bootstrap interval over the rounds, as Markdown; the
target is 2 %. (ONNX Runtime's own onnxruntime_perf_test is not in its wheel.)
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.bootstrap import median_interval
from bench.inspection import inspect_model
from bench.latency.measuring import LatencyJob, LatencyProtocol, measure_in_child
from bench.runtime.machine import machine_name

TARGET = 0.02

BARE_LOOP = """\
import json, sys, time
import numpy as np, onnxruntime as ort

path, threads, batch, warmup, calls = json.loads(sys.argv[1])
options = ort.SessionOptions()
options.intra_op_num_threads = threads
session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
(item,) = session.get_inputs()
shape = [batch, *item.shape[1:]]
pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
feeds = {item.name: pixels if item.type == "tensor(uint8)" else pixels.astype(np.float32) / 255}
for _ in range(warmup):
    session.run(None, feeds)
taken_ns = []
for _ in range(calls):
    start_ns = time.perf_counter_ns()
    session.run(None, feeds)
    taken_ns.append(time.perf_counter_ns() - start_ns)
print(json.dumps([taken_ns, ort.__version__]))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """Medians of two fresh processes, in milliseconds."""

    bench_ms: float
    loop_ms: float


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--machine", default=machine_name(), help="its name in the table")
    parser.add_argument("--date", default="", help="written below the table")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args(arguments)
    lines = [
        "| model | precision | batch | threads | rounds | bench p50, ms | bare loop p50, ms "
        "| ratio | 95 % | within 2 % |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- | --- |",
    ]
    for model in options.models:
        lines.append(table_row(model, rounds_of(model, options), options))
        print(lines[-1], file=sys.stderr)
    lines += ["", f"{options.machine}, Python {platform.python_version()}. {options.date}".strip()]
    text = "\n".join(lines) + "\n"
    print(text, end="")
    if options.out is not None:
        options.out.write_text(text)


def rounds_of(model: Path, options: argparse.Namespace) -> list[Round]:
    protocol = LatencyProtocol()
    job = LatencyJob(
        path=model,
        model=model.name,
        architecture_key=model.name,
        device="cpu",
        batch_size=options.batch,
        threads=options.threads,
    )
    rounds = []
    calls = protocol.schedule.measure_calls

    def by_bench() -> float:
        nonlocal calls
        latencies_ns = measure_in_child(job, protocol).sample.latencies_ns
        calls = len(latencies_ns)  # the loop then takes as many, and as long
        return median(latencies_ns) / 1e6

    def by_loop() -> float:
        request = [str(model), options.threads, options.batch, calls // 3, calls]
        command = [sys.executable, "-c", BARE_LOOP, json.dumps(request)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return median(json.loads(done.stdout)[0]) / 1e6

    by_bench()  # how many calls fit, and the file into the page cache
    for number in range(options.rounds):
        if number % 2:
            loop_ms = by_loop()
            rounds.append(Round(bench_ms=by_bench(), loop_ms=loop_ms))
        else:
            bench_ms = by_bench()
            rounds.append(Round(bench_ms=bench_ms, loop_ms=by_loop()))
    return rounds


def table_row(model: Path, rounds: Sequence[Round], options: argparse.Namespace) -> str:
    ratios = [one.bench_ms / one.loop_ms for one in rounds]
    interval = median_interval(ratios)
    if interval is None:
        raise SystemExit("an interval needs at least 5 rounds: give more with --rounds")
    low, high = interval
    if abs(median(ratios) - 1) > TARGET:
        verdict = "no"
    else:
        verdict = "yes" if low >= 1 - TARGET and high <= 1 + TARGET else "ratio yes, interval wider"
    cells = (
        model.stem,
        inspect_model(model).precision,
        options.batch,
        options.threads,
        len(rounds),
        f"{median(one.bench_ms for one in rounds):.3f}",
        f"{median(one.loop_ms for one in rounds):.3f}",
        f"{median(ratios):.4f}",
        f"{low:.4f} to {high:.4f}",
        verdict,
    )
    return "| " + " | ".join(map(str, cells)) + " |"


if __name__ == "__main__":
    main(sys.argv[1:])
