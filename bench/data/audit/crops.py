"""Pictures that are a part of another, found by perceptual hashes of many parts.

A hash holds the signs of the lowest frequencies of a picture's discrete cosine transform (pHash;
Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010), here against
the median of each frequency over the set, so that every bit tells half of the set from the other.

Shapes: N pictures, P pairs, H = 32 rows, W = 128 columns; K = 8 frequencies a direction.
"""

from __future__ import annotations

from collections.abc import Container
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
import numpy.typing as npt

from bench.data.audit.detail import LEAST_IN_COMMON, Indices
from bench.data.audit.fits import fit_windows
from bench.data.audit.thumbnails import Floats, Greys
from bench.steps import SILENT, Steps
from bench.words import counted
from bench.workspace import usable_cores

Hashes = npt.NDArray[np.uint64]
Window = tuple[float, float, float, float]  # left, top, right, bottom as shares of the sides

_WHOLE: Window = (0.0, 0.0, 1.0, 1.0)
_FREQUENCIES = 8
# Sides of the parts that are looked for, as shares of the whole's.
_SIDES = (0.95, 0.9, 0.85, 0.8)
_PLACES = (0.0, 0.5, 1.0)
_MOST_BITS = 14  # of 63 in which a candidate may differ
_MOST_PER_PICTURE = 10
_SAMPLES = 500_000
_BLOCK = 1024
_TILE = 256  # hashes on either side that are compared at a time: the results stay in the cache
# Correlation of the low frequencies, all 255 of them, from which a candidate is worth a fit.
_WORTH_A_FIT = 0.6
# Where very many pictures look alike the most alike are fitted: so many and so many more a picture.
_MOST_FITS, _MOST_FITS_PER_PICTURE = 500, 0.1
_FITTED = 64  # at a time: what they need stays in the cache


def _windows() -> tuple[Window, ...]:
    """The whole, and parts cut from both sides, from the left and right, or above and below."""
    windows = [_WHOLE]
    for side, x, y in product(_SIDES, _PLACES, _PLACES):
        left, top = x * (1 - side), y * (1 - side)
        windows.append((left, top, left + side, top + side))
    for side, place in product(_SIDES, _PLACES):
        start = place * (1 - side)
        windows.append((start, 0.0, start + side, 1.0))
        windows.append((0.0, start, 1.0, start + side))
    return tuple(windows)


WINDOWS = _windows()


@dataclass(frozen=True, slots=True)
class Match:
    """`part` agrees with what `window` cuts from `whole`: correlation of their detail."""

    whole: int
    part: int
    window: Window
    correlation: float


def find_crops(
    grey_nhw: Greys,
    pictures: Indices,
    rng: np.random.Generator,
    known: Container[tuple[int, int]] = (),
    steps: Steps = SILENT,
) -> list[Match]:
    """Return pairs of `pictures` of which one resembles a part of the other, with its window.

    Whether the resemblance is enough is for the caller to decide. A part keeps at least about
    four fifths of either side. The pairs (first < second) of `known` are left out.
    """
    whole_nk = _low_frequencies(grey_nhw[pictures], _WHOLE, _FREQUENCIES)
    middle_k = np.median(whole_nk, axis=0)
    hashes_n = _pack(whole_nk > middle_k)
    per_window = [
        _pack(_low_frequencies(grey_nhw[pictures], window, _FREQUENCIES) > middle_k)
        for window in WINDOWS
    ]
    most = _most_bits(per_window, hashes_n, rng)
    steps.begin("looking for parts of pictures", len(WINDOWS))
    close = []
    with ThreadPoolExecutor(usable_cores()) as pool:
        for pairs in pool.map(partial(_close, hashes_n=hashes_n, most=most), per_window):
            close.append(pairs)
            steps.advance()
    candidates = [
        np.stack([np.full_like(whole, place), whole, part])
        for place, (whole, part) in enumerate(close)
    ]
    place_p, whole_p, part_p = np.concatenate(candidates, axis=1)
    best = _worth_a_fit(grey_nhw[pictures], place_p, whole_p, part_p)
    unknown = [
        (WINDOWS[place], int(pictures[whole]), int(pictures[part]))
        for place, whole, part in best
        if (int(pictures[min(whole, part)]), int(pictures[max(whole, part)])) not in known
    ]
    most = int(_MOST_FITS + _MOST_FITS_PER_PICTURE * len(pictures))
    common_hw = _in_common(grey_nhw[pictures])
    return _fitted(grey_nhw, common_hw, unknown[:most], steps)


def _fitted(
    grey_nhw: Greys, common_hw: Floats, starts: list[tuple[Window, int, int]], steps: Steps
) -> list[Match]:
    if not starts:
        return []
    blocks = range(0, len(starts), _FITTED)
    steps.begin(f"fitting {counted(len(starts), 'part')} of pictures", len(blocks))

    def fitted(start: int) -> list[Match]:
        windows, wholes, parts = zip(*starts[start : start + _FITTED], strict=True)
        sides_ps, agreement_p = fit_windows(
            grey_nhw, common_hw, np.asarray(wholes), np.asarray(parts), np.asarray(windows)
        )
        return [
            Match(whole, part, (left, top, right, bottom), agreement)
            for whole, part, (left, top, right, bottom), agreement in zip(
                wholes, parts, sides_ps.tolist(), agreement_p.tolist(), strict=True
            )
        ]

    matches: list[Match] = []
    with ThreadPoolExecutor(usable_cores()) as pool:
        for block in pool.map(fitted, blocks):
            matches += block
            steps.advance()
    return matches


def _in_common(grey_nhw: Greys) -> Floats:
    """Return the mean picture, or nothing where it is one of too few."""
    if len(grey_nhw) < LEAST_IN_COMMON:
        return np.zeros(grey_nhw.shape[1:], dtype=np.float32)
    return np.asarray(grey_nhw.mean(axis=0), dtype=np.float32)


def _low_frequencies(grey_nhw: Greys, window: Window, frequencies: int) -> Floats:
    """Return the cosine transform of a part, as if cut and stretched; unit length, no mean."""
    left, top, right, bottom = window
    rows_kh = _cosines(grey_nhw.shape[1], top, bottom, frequencies)
    columns_kw = _cosines(grey_nhw.shape[2], left, right, frequencies)
    blocks = [
        rows_kh @ grey_nhw[start : start + _BLOCK].astype(np.float32) @ columns_kw.T
        for start in range(0, len(grey_nhw), _BLOCK)
    ]
    flat = np.concatenate(blocks).reshape(len(grey_nhw), -1)[:, 1:]
    return np.asarray(flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6))


def _cosines(length: int, start: float, stop: float, frequencies: int) -> Floats:
    """Return the rows of a cosine transform (type II) that lies between two shares of a side."""
    at = ((np.arange(length) + 0.5) / length - start) / (stop - start)
    waves = np.cos(np.pi * np.arange(frequencies)[:, None] * at)
    return np.where((at >= 0) & (at <= 1), waves, 0.0).astype(np.float32)


def _pack(bits_nk: npt.NDArray[np.bool_]) -> Hashes:
    packed = np.packbits(np.pad(bits_nk, ((0, 0), (0, 1))), axis=1)
    return packed.view(np.uint64).ravel()


def _most_bits(per_window: list[Hashes], hashes_n: Hashes, rng: np.random.Generator) -> int:
    """Choose how many bits may differ so that the candidates remain few, from random pairs."""
    count = len(hashes_n)
    first, second = rng.integers(0, count, (2, _SAMPLES))
    cut = np.stack(per_window)[rng.integers(0, len(per_window), _SAMPLES), first]
    apart = first != second
    distances = np.bitwise_count(cut[apart] ^ hashes_n[second[apart]])
    below = np.cumsum(np.bincount(distances, minlength=65)) / max(len(distances), 1)
    allowed = _MOST_PER_PICTURE / (len(per_window) * count)
    return int(np.searchsorted(below[:_MOST_BITS], allowed, side="right"))


def _close(cut_n: Hashes, hashes_n: Hashes, most: int) -> tuple[Indices, Indices]:
    wholes, parts = [], []
    for start, begin in product(range(0, len(cut_n), _TILE), range(0, len(hashes_n), _TILE)):
        differing = cut_n[start : start + _TILE, None] ^ hashes_n[begin : begin + _TILE]
        is_close = np.bitwise_count(differing) <= most
        whole, part = np.divmod(np.flatnonzero(is_close), is_close.shape[1])
        wholes.append(whole + start)
        parts.append(part + begin)
    whole, part = np.concatenate(wholes), np.concatenate(parts)
    return whole[whole != part], part[whole != part]


def _worth_a_fit(
    grey_nhw: Greys, place_p: Indices, whole_p: Indices, part_p: Indices
) -> list[tuple[int, int, int]]:
    """Return the best (window, whole, part) of each pair whose low frequencies correlate.

    The pairs that correlate most come first.
    """
    fine_nk = _low_frequencies(grey_nhw, _WHOLE, 2 * _FREQUENCIES)
    in_common_k = fine_nk.mean(axis=0) if len(grey_nhw) >= _FREQUENCIES else 0.0
    scores_p = np.zeros(len(place_p), dtype=np.float32)
    for place in np.unique(place_p):
        of_place = np.flatnonzero(place_p == place)
        cut_pk = _low_frequencies(grey_nhw[whole_p[of_place]], WINDOWS[place], 2 * _FREQUENCIES)
        cut_pk -= in_common_k
        part_pk = fine_nk[part_p[of_place]] - in_common_k
        lengths = np.linalg.norm(cut_pk, axis=1) * np.linalg.norm(part_pk, axis=1)
        scores_p[of_place] = (cut_pk * part_pk).sum(axis=1) / np.maximum(lengths, 1e-6)
    best: dict[tuple[int, int], tuple[int, int, int]] = {}
    for p in np.argsort(-scores_p, kind="stable"):
        if scores_p[p] < _WORTH_A_FIT:
            break
        pair = (min(whole_p[p], part_p[p]), max(whole_p[p], part_p[p]))
        best.setdefault(pair, (int(place_p[p]), int(whole_p[p]), int(part_p[p])))
    return list(best.values())
