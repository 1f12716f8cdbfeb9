"""How fast the audit is, and how many planted duplicates it finds.

    python benchmarks/audit.py --pictures 1000,20000 --out benchmarks/results/audit.json

Makes sets of invented spectrogram pictures in a temporary folder, one tenth of them duplicates of
others (identical, saved as JPEG, brightened, cropped, shifted in time), reads them, looks for
duplicates, shortcuts and labels as `bench data check --backbone none` does, and prints seconds,
recall and precision as a Markdown table.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from results_file import write_result

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.data.audit.check import audit
from bench.data.sources import load_dataset
from bench.workspace import describe_environment
from tests.data.audit.planted import PLANTS, plant

STYLES = 10
SHARE_PLANTED = 0.1


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", default="1000")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args(arguments)
    rows = []
    for pictures in map(int, options.pictures.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(Path(folder), pictures, options.seed))
    print("| pictures | read, s (CPU) | audit, s (CPU) | planted | found | reported | false |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for row in rows:
        print(
            f"| {row['pictures']} | {row['read_s']:.0f} ({row['read_cpu_s']:.0f}) "
            f"| {row['audit_s']:.0f} ({row['audit_cpu_s']:.0f}) | {row['planted']} "
            f"| {row['found']} | {row['reported']} | {row['reported'] - row['found']} |"
        )
        print(f"\nmissed: {row['missed'] or 'none'}", file=sys.stderr)
    write_result(options, {"rows": rows, "environment": asdict(describe_environment(None))})


def measure(folder: Path, pictures: int, seed: int) -> dict[str, object]:
    """Audit a set of about so many pictures; seconds by the clock and of the processor."""
    each = round(SHARE_PLANTED * pictures / len(PLANTS))
    recordings = (pictures - each * len(PLANTS)) // STYLES
    planted = plant(folder, recordings=recordings, each=each, styles=STYLES, seed=seed)
    started, started_cpu = time.perf_counter(), time.process_time()
    dataset = load_dataset(folder, crop="none")
    read, read_cpu = time.perf_counter(), time.process_time()
    found = audit(dataset)
    ended, ended_cpu = time.perf_counter(), time.process_time()
    reported = {
        frozenset((dataset.pictures[pair.first].path, dataset.pictures[pair.second].path))
        for pair in found.pairs
    }
    missed = Counter(how for pair, how in planted.pairs.items() if pair not in reported)
    return {
        "pictures": len(dataset.pictures),
        "read_s": read - started,
        "read_cpu_s": read_cpu - started_cpu,
        "audit_s": ended - read,
        "audit_cpu_s": ended_cpu - read_cpu,
        "planted": len(planted.pairs),
        "found": len(reported & planted.pairs.keys()),
        "reported": len(reported),
        "missed": dict(missed),
        "suspicious_labels": len(found.labels.suspicious),
        "shortcuts": len(found.shortcuts),
    }


if __name__ == "__main__":
    main(sys.argv[1:])
