"""How fast the audit is, and how many planted duplicates it finds.

    python benchmarks/audit.py PICTURES --planted 1000 --altered 20000 --out FILE.json

Audits a set of real pictures as it is. For `--planted` one tenth of them makes room for duplicates
of the others (identical, saved as JPEG, brightened, cropped, shifted in time). For `--altered`, a
set of so many pictures is made out of the real ones: each is the mean of four, moved in time and
perhaps mirrored, so that no two are duplicates but those that are then planted, one tenth again.
Prints seconds, recall and precision as a Markdown table. A found pair is true when it was planted
or when both pictures come from one given group.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from results_file import write_result

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.data.audit.check import audit
from bench.data.audit.thumbnails import Features, Floats
from bench.data.reading import load_dataset
from bench.records import Dataset, Pair
from bench.runtime.preprocess import open_rgb
from bench.workspace import describe_environment
from tests.data.audit.planted import brightened, cropped, jpeg, png

Pixels = npt.NDArray[np.uint8]

SHARE_PLANTED = 0.1
PLANTED = ("identical", "re-encoded", "brightened", "cropped", "shifted")
BLENDED = 4


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pictures", type=Path, help="a real set, folder or manifest")
    parser.add_argument("--planted", type=int, default=0, help="size of a set with duplicates")
    parser.add_argument("--altered", type=int, default=0, help="size of a set of altered pictures")
    parser.add_argument("--backbone", default="efficientnet_lite0", help="or none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args(arguments)
    import_s = time_import(options.backbone)
    rows = [measure(options.pictures, "real", options.backbone, {})]
    print_table(rows)
    for name, count in (("planted", options.planted), ("altered", options.altered)):
        if count:
            with tempfile.TemporaryDirectory() as folder:
                planted = alter(
                    load_dataset(options.pictures), Path(folder), count, options.seed,
                    blend=name == "altered",
                )  # fmt: skip
                rows.append(measure(Path(folder), name, options.backbone, planted))
                print_table(rows[-1:])
    environment = asdict(describe_environment(None))
    facts = {
        "rows": rows,
        "import_s": import_s,
        "load": os.getloadavg(),
        "environment": environment,
    }
    write_result(options, facts)


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    print("| pictures | read, s (CPU) | audit, s (CPU) | all, s (CPU) | of it features, s CPU "
          "| reported | true | planted | found |")  # fmt: skip
    print("| ---: " * 9 + "|")
    for row in rows:
        seconds = " | ".join(f"{row[k]['s']:.0f} ({row[k]['cpu_s']:.0f})" for k in STAGES)
        cells = (
            f"{row['features_cpu_s']:.0f}",
            row["reported"],
            row["true"],
            row["planted"],
            row["found"],
        )
        print(
            f"| {row['pictures']:,} {row['set']} | {seconds} | " + " | ".join(map(str, cells)), "|"
        )
        print(f"missed: {row['missed'] or 'none'}", file=sys.stderr)


STAGES = ("read", "audit", "all")


def time_import(backbone: str) -> float:
    """Import what the features need, so that no row has to."""
    started = time.perf_counter()
    if backbone != "none":
        import bench.models.features  # noqa: F401
    return time.perf_counter() - started


class Clock:
    """Seconds by the clock and of the processor, by stage."""

    def __init__(self) -> None:
        self.spent: dict[str, dict[str, float]] = {}
        self._now = time.perf_counter(), time.process_time()

    def lap(self, stage: str) -> None:
        now = time.perf_counter(), time.process_time()
        self.spent[stage] = {"s": now[0] - self._now[0], "cpu_s": now[1] - self._now[1]}
        self._now = now


def measure(
    source: Path, name: str, backbone: str, planted: dict[frozenset[str], str]
) -> dict[str, Any]:
    """Read and audit a set; `planted` are its known duplicates."""
    clock = Clock()
    dataset = load_dataset(source)
    clock.lap("read")
    # The given groups must not help: they say what is true.
    loose = replace(dataset, pictures=tuple(replace(p, group=None) for p in dataset.pictures))
    with features_of(backbone) as (features, probing):
        found = audit(loose, features)
    clock.lap("audit")
    read, audited = clock.spent["read"], clock.spent["audit"]
    spent = {**clock.spent, "all": {key: read[key] + audited[key] for key in audited}}
    reported = {paths_of(dataset, pair) for pair in found.pairs}
    true = [pair for pair in found.pairs if is_true(dataset, pair, planted)]
    return {
        "set": name,
        "pictures": len(dataset.pictures),
        **spent,
        "features_cpu_s": probing.cpu_s,
        "reported": len(found.pairs),
        "true": len(true),
        "planted": len(planted),
        "found": len(reported & planted.keys()),
        "missed": dict(Counter(h for pair, h in planted.items() if pair not in reported)),
        "suspicious_labels": len(found.labels.suspicious),
        "labels_note": found.labels.note,
        "shortcuts": len(found.shortcuts),
    }


class Probing:
    """Seconds of the processor that the features take within the audit, all threads together."""

    def __init__(self) -> None:
        self.cpu_s = 0.0
        self._lock = Lock()

    def timed(self, compute: Callable[[Pixels], Floats]) -> Callable[[Pixels], Floats]:
        def compute_timed(images_nhwc: Pixels) -> Floats:
            started = time.thread_time()
            features_nf = compute(images_nhwc)
            with self._lock:
                self.cpu_s += time.thread_time() - started
            return features_nf

        return compute_timed


@contextmanager
def features_of(backbone: str) -> Iterator[tuple[Features | None, Probing]]:
    probing = Probing()
    if backbone == "none":
        yield None, probing
        return
    from bench.models.features import audit_features

    with audit_features(backbone) as compute:
        timed = probing.timed(compute)
        yield Features(f"features of {backbone}", compute.geometry, timed), probing


def paths_of(dataset: Dataset, pair: Pair) -> frozenset[str]:
    return frozenset((dataset.pictures[pair.first].path, dataset.pictures[pair.second].path))


def is_true(dataset: Dataset, pair: Pair, planted: dict[frozenset[str], str]) -> bool:
    if paths_of(dataset, pair) in planted:
        return True
    first, second = dataset.pictures[pair.first], dataset.pictures[pair.second]
    return first.group is not None and first.group == second.group


# --- altered pictures -----------------------------------------------------------------------


def alter(
    dataset: Dataset, folder: Path, count: int, seed: int, *, blend: bool
) -> dict[frozenset[str], str]:
    """Write `count` pictures, real ones or blended ones, with duplicates; return these.

    Groups of real pictures are written as well.
    """
    real = np.stack([np.asarray(inside(dataset, k)) for k in range(len(dataset.pictures))])
    with Image.open(dataset.picture_path(0)) as opened:
        frame = opened.convert("RGB")
    box = dataset.crop or (0, 0, *frame.size)
    each = round(SHARE_PLANTED * count / len(PLANTED))
    originals = count - each * len(PLANTED)
    of = np.random.default_rng(seed).permutation(originals)[: each * len(PLANTED)]
    if not blend and originals > len(real):
        raise SystemExit(f"--planted {count} takes {originals} pictures of a set of {len(real)}")
    jobs = [(index, "") for index in range(originals)]
    jobs += [(int(index), PLANTED[k // each]) for k, index in enumerate(of)]

    chosen = np.random.default_rng(seed).permutation(len(real))

    def class_of(index: int) -> str:
        label = index if blend else dataset.pictures[chosen[index]].label
        return dataset.classes[label % len(dataset.classes)]

    def write(job: tuple[int, str]) -> str:
        index, how = job
        rng = np.random.default_rng([seed, index])
        pixels = blended(real, rng) if blend else real[chosen[index]]
        picture = planted_as(how, pixels, real[rng.integers(len(real))], rng)
        whole = frame.copy()
        whole.paste(picture, box[:2])
        path = f"{class_of(index)}/{index:06d}{how}.png"
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(png(whole))
        return path

    with ThreadPoolExecutor() as pool:
        paths = list(pool.map(write, jobs))
    if not blend:
        groups = [dataset.pictures[chosen[index]].group or "" for index, _ in jobs]
        with (folder / "groups.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("path", "group"), *zip(paths, groups, strict=True)])
    return {
        frozenset((paths[index], path)): how
        for (index, how), path in zip(jobs, paths, strict=True)
        if how
    }


def inside(dataset: Dataset, index: int) -> Image.Image:
    picture = open_rgb(dataset.picture_path(index))
    return picture.crop(dataset.crop) if dataset.crop else picture


def blended(real_nhwc: Pixels, rng: np.random.Generator) -> Pixels:
    mean = np.zeros(real_nhwc.shape[1:], dtype=np.uint16)
    for _ in range(BLENDED):
        picture = real_nhwc[rng.integers(len(real_nhwc))]
        moved = np.roll(picture, rng.integers(picture.shape[1]), axis=1)
        mean += moved[:, ::-1] if rng.random() < 0.5 else moved
    return (mean // BLENDED).astype(np.uint8)


def planted_as(how: str, pixels: Pixels, other: Pixels, rng: np.random.Generator) -> Image.Image:
    if how == "shifted":
        shift = int(rng.uniform(0.1, 0.5) * pixels.shape[1])
        return Image.fromarray(np.concatenate([pixels[:, shift:], other[:, :shift]], axis=1))
    picture = Image.fromarray(pixels)
    if how == "re-encoded":
        return open_rgb(jpeg(picture))
    if how == "brightened":
        return brightened(picture)
    return cropped(picture, rng) if how == "cropped" else picture


if __name__ == "__main__":
    main(sys.argv[1:])
