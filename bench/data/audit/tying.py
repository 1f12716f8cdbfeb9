"""Duplicates that the audit finds are tied, so that no split parts them.

Pairs are searched for once a data set and kept in the workspace, by the data set's fingerprint.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from bench.data.audit.duplicates import find_duplicates, ties_of_pairs
from bench.data.groups import join
from bench.data.pixel_cache import NO_CACHE, PixelCache
from bench.records import Dataset, Pair, from_json, to_json
from bench.workspace import write_atomic

# Raised whenever the search begins to find other pairs.
_VERSION = 2


def tie_duplicates(
    dataset: Dataset,
    cache: Path | None = None,
    tell: Callable[[str], None] | None = None,
    pixel_cache: PixelCache = NO_CACHE,
) -> Dataset:
    """Join the pictures of every pair that the audit finds into one group.

    `cache` is a folder that keeps the pairs; `tell` hears before a search begins, which takes
    seconds for 1,000 pictures and minutes for 20,000.

    Raises:
        DataError: a picture that could be read before can no longer be.
    """
    file = cache / f"{dataset.fingerprint}-{_VERSION}.json" if cache else None
    pairs = _kept(file)
    if pairs is None:
        if tell is not None:
            tell(f"looking for duplicates among {len(dataset.pictures)} pictures")
        pairs = find_duplicates(dataset, pixel_cache)
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(file, to_json(pairs))
    return join(dataset, ties_of_pairs(pairs))


def _kept(file: Path | None) -> tuple[Pair, ...] | None:
    if file is None or not file.exists():
        return None
    try:
        return from_json(file.read_bytes(), tuple[Pair, ...])
    except msgspec.DecodeError:
        return None  # another program's file: it can be made again
