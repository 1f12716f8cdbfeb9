"""What a user may say about a search, checked as far as that goes without pictures and torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from bench.data.groups import check_groups_file, parse_pattern
from bench.data.protocols import check_lists, refuse_lists_without_taker
from bench.data.reading import CropChoice
from bench.data.splits import check_test_fraction
from bench.errors import InputError, WeightsError, not_among
from bench.models.names import check_backbone_name
from bench.records import Protocol, Store
from bench.search.budget import Budget
from bench.workspace import check_study_name

PRUNERS = ("racing", "median", "hyperband", "none")
SAMPLERS = ("tpe", "gp", "cmaes", "random", "grid")
STORES: tuple[Store, ...] = get_args(Store)


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOptions:
    """What a user may say about a search; None leaves it to the space or to the machine.

    budget: trials, time and failures at which the search ends.
    max_latency_ms: leaves out backbones that take longer for one picture on `device`.
    study: the name to begin, or to go on with.
    space: the name of a search space, or a file.
    backbones: those to try instead of the space's.
    folds, epochs, image_size, batch_size: instead of the space's; `image_size` in pixels.
    workers: processes that train side by side; None for one a GPU, or one.
    ray: the address of a Ray cluster that trains instead; `auto` and `local` are two.
    seed: of the split, the sampler, augmentation and every training.
    device: `auto`, `cpu` or `cuda`.
    pruner, sampler: one of `PRUNERS` and `SAMPLERS`.
    crop: `auto` (inside the frame that all pictures share), `none`, or a box in pixels.
    test_fraction: of the pictures, that are locked away for the test; above 0, at most 0.5.
    pretrained: False begins with random weights.
    weights: files of starting weights by backbone.
    cache_gb: disk for activations of frozen parts, in 10^9 bytes; 0 computes them each time.
    linear_probe: begins each head with a logistic regression on frozen features.
    store: how activations are stored, exactly or rounded to 16 bits (`half`).
    groups, group_pattern: a CSV file (path,group), or a regular expression whose match on a
        path is the group; pictures of one group stay together.
    tie_duplicates: looks for duplicates and keeps them together.
    protocols: how pictures are split; the first one is searched on, the winner is trained again
        under the others.
    parts: lists of files, for the protocol `file`.

    Raises:
        InputError, DataError, WeightsError: something in it cannot work with any pictures.
    """

    budget: Budget = field(default_factory=lambda: Budget(trials=50))
    max_latency_ms: float | None = None
    study: str | None = None
    space: str | None = None
    backbones: tuple[str, ...] = ()
    folds: int | None = None
    epochs: int | None = None
    image_size: int | None = None
    batch_size: int | None = None
    workers: int | None = None
    ray: str | None = None
    seed: int = 0
    device: str = "auto"
    pruner: str = "racing"
    sampler: str = "tpe"
    crop: CropChoice = "auto"
    test_fraction: float = 0.2
    pretrained: bool = True
    weights: Mapping[str, Path] = field(default_factory=dict)
    cache_gb: float = 8.0
    linear_probe: bool = True
    store: Store = "exact"
    groups: Path | None = None
    group_pattern: str | None = None
    tie_duplicates: bool = True
    protocols: tuple[Protocol, ...] = ()
    parts: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if self.study is not None:
            check_study_name(self.study)
        if self.pruner not in PRUNERS:
            raise not_among("--pruner", self.pruner, PRUNERS)
        if self.sampler not in SAMPLERS:
            raise not_among("--sampler", self.sampler, SAMPLERS)
        if not (math.isfinite(self.cache_gb) and self.cache_gb >= 0):
            raise InputError(f"--cache-gb must be a number of gigabytes, not {self.cache_gb}")
        if self.workers is not None and self.workers < 1:
            raise InputError(f"--workers must be 1 or more, not {self.workers}")
        if self.seed < 0:
            raise InputError(f"--seed must be 0 or more, not {self.seed}")
        if self.max_latency_ms is not None and not self.max_latency_ms > 0:
            raise InputError(f"--max-latency-ms must be more than 0, not {self.max_latency_ms:g}")
        check_test_fraction(self.test_fraction)
        if self.group_pattern is not None:
            parse_pattern(self.group_pattern)
        if self.groups is not None:
            check_groups_file(self.groups.expanduser())
        if self.protocols:
            refuse_lists_without_taker(self.protocols, self.parts)
        check_lists(self.parts)
        for name in self.backbones:
            check_backbone_name(name)
        for name, file in self.weights.items():
            if not file.is_file():
                raise WeightsError(f"--weights {name}={file}: no such file")


def parse_store(text: str) -> Store:
    """Read `exact` or `half`.

    Raises:
        InputError: it is neither.
    """
    for store in STORES:
        if store == text:
            return store
    raise not_among("--store", text, STORES)
