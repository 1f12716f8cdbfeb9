"""The detail of small pictures, and how well that of two pictures agrees once it is aligned.

Pictures of one kind resemble one another in the large: all spectrograms are bright below and dark
above, those of one style share tempo and register. Copies agree in the small as well. So slow
changes along the rows, and what all pictures of a set have in common, are taken away before
pictures are compared; brightness and contrast go with them.

Shapes: N pictures, P pairs, R rows, T columns, L lags, F frequencies.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property, partial

import numpy as np
import numpy.typing as npt
from scipy import fft
from scipy.ndimage import gaussian_filter1d

from bench.data.audit.thumbnails import Floats, Greys
from bench.steps import SILENT, Steps
from bench.words import counted
from bench.workspace import usable_cores

Indices = npt.NDArray[np.int64]

# What changes over more than about this share of the width is not detail. Of the widths tried on
# real overlapping clips (none, 1/5, 1/11, 1/32), it told them best from other clips of their style.
_SLOW = 1 / 32
# Fewer pictures than this share too much by chance for it to be taken away.
LEAST_IN_COMMON = 20
# The largest shift looked for, as a share of the width; in the rest, pictures overlap.
MOST_SHIFT = 2 / 3
# The share of its part of the detail that an overlap is taken to hold at least.
_LEAST_ENERGY = 0.2
# Standard deviation of detail, in grey levels, below which a picture shows nothing.
_BLANK = 0.75
# Pairs that are aligned at a time.
_PAIRS = 512


@cache
def detail_filter(columns: int) -> Floats:
    """Return the matrix (T, T) that takes slow changes from rows: a product is its fastest way."""
    whole = np.eye(columns, dtype=np.float32)
    return np.asarray(whole - gaussian_filter1d(whole, _SLOW * columns, axis=1, mode="nearest"))


def detail_of(grey_nrt: Greys) -> Floats:
    """Take the slow changes along each row away."""
    count, rows, columns = grey_nrt.shape
    detail = grey_nrt.reshape(-1, columns).astype(np.float32) @ detail_filter(columns)
    return np.asarray(detail.reshape(count, rows, columns))


@dataclass(frozen=True)
class Detail:
    """The detail of all pictures of a set, made as it is asked for: it is large."""

    grey_nrt: Greys

    @cached_property
    def in_common_rt(self) -> Floats:
        """The mean detail over the set."""
        total = np.zeros(self.grey_nrt.shape[1:], dtype=np.float64)
        if len(self.grey_nrt) < LEAST_IN_COMMON:
            return total.astype(np.float32)
        for start in range(0, len(self.grey_nrt), 256):
            total += detail_of(self.grey_nrt[start : start + 256]).sum(axis=0)
        return (total / len(self.grey_nrt)).astype(np.float32)

    def of(self, pictures: Indices) -> Floats:
        """Return the detail of some pictures: (len(pictures), R, T)."""
        return detail_of(self.grey_nrt[pictures]) - self.in_common_rt

    @cached_property
    def blank_n(self) -> npt.NDArray[np.bool_]:
        """Whether a picture shows next to nothing, so that it cannot be compared."""
        spread = [
            detail_of(self.grey_nrt[start : start + 256]).std(axis=(1, 2))
            for start in range(0, len(self.grey_nrt), 256)
        ]
        return np.concatenate(spread) < _BLANK


@dataclass(frozen=True, slots=True)
class Lags:
    """The shifts in time at which pictures of T columns are compared."""

    columns: int

    @property
    def all(self) -> Indices:
        most = int(self.columns * MOST_SHIFT)
        return np.arange(-most, most + 1)

    @property
    def overlaps(self) -> Floats:
        """Share of the width in which two pictures overlap, by lag."""
        return (1 - np.abs(self.all) / self.columns).astype(np.float32)

    @property
    def later(self) -> Iterator[tuple[int, float]]:
        """The lags from 0 up, each with the share of the width in which pictures overlap."""
        for lag, overlap in zip(self.all.tolist(), self.overlaps.tolist(), strict=True):
            if lag >= 0:
                yield lag, overlap

    @property
    def transform_length(self) -> int:
        """Length of a Fourier transform that no lag wraps around."""
        return int(fft.next_fast_len(self.columns + int(self.all[-1]), real=True))

    def scales(self, detail_nrt: Floats) -> tuple[Floats, Floats]:
        """Return what makes products of detail correlations, by lag: both are (L, N).

        The first is for the picture whose content comes earlier (at t), the second for the one
        in which it comes `lag` columns later (at t + lag).
        """
        energy_nt = np.einsum("nrt,nrt->nt", detail_nrt, detail_nrt, dtype=np.float64)
        until = np.pad(np.cumsum(energy_nt, axis=1), ((0, 0), (1, 0)))
        total = until[:, -1]
        lags, width = self.all, self.columns
        start, stop = np.maximum(-lags, 0), width - np.maximum(lags, 0)
        least = least_energy(total, self.overlaps[:, None])
        earlier = np.maximum((until[:, stop] - until[:, start]).T, least)
        later = np.maximum((until[:, stop + lags] - until[:, start + lags]).T, least)
        tiny = np.finfo(np.float32).tiny
        return (
            (1 / np.sqrt(np.maximum(earlier, tiny))).astype(np.float32),
            (1 / np.sqrt(np.maximum(later, tiny))).astype(np.float32),
        )


def least_energy(total_n: Floats, overlap: Floats | float) -> Floats:
    """Return the energy that an overlap is taken to have at least: silence matches anything."""
    return np.asarray(_LEAST_ENERGY * overlap * total_n)


def weigh(correlation: Floats, overlap: Floats | float) -> Floats:
    """Return Fisher's z times the root of the overlap: a short overlap agrees by chance."""
    limited = np.clip(correlation, -0.999, 0.999)
    return np.asarray(np.arctanh(limited) * np.sqrt(overlap), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Alignment:
    """The lags at which pairs agree best: weighed score, plain correlation, lag in columns.

    Lags are multiples of half a column.
    """

    scores_p: Floats
    correlations_p: Floats
    lags_p: npt.NDArray[np.float64]


def align(detail: Detail, first_p: Indices, second_p: Indices, steps: Steps = SILENT) -> Alignment:
    """Find the best lag of each pair by cross-correlating their detail over all rows.

    It is fastest where pairs of one picture stand together.
    """
    if not len(first_p):
        nothing = np.empty(0, dtype=np.float32)
        return Alignment(nothing, nothing, np.empty(0))
    starts = range(0, len(first_p), _PAIRS)
    steps.begin(f"aligning {counted(len(first_p), 'pair')} that may be one", len(starts))
    spectra = partial(_Spectra.of, detail)
    chunks = []
    with ThreadPoolExecutor(usable_cores()) as pool:
        pairs = [(first_p[k : k + _PAIRS], second_p[k : k + _PAIRS]) for k in starts]
        for chunk in pool.map(lambda pair: _align(*map(spectra, pair)), pairs):
            chunks.append(chunk)
            steps.advance()
    return Alignment(
        np.concatenate([chunk.scores_p for chunk in chunks]),
        np.concatenate([chunk.correlations_p for chunk in chunks]),
        np.concatenate([chunk.lags_p for chunk in chunks]),
    )


@dataclass(frozen=True, slots=True)
class _Spectra:
    """What the alignment of P pairs needs of one picture of each."""

    lags: Lags
    spectra_prf: npt.NDArray[np.complex64]
    earlier_lp: Floats
    later_lp: Floats

    @classmethod
    def of(cls, detail: Detail, pictures_p: Indices) -> _Spectra:
        unique, at = np.unique(pictures_p, return_inverse=True)
        strips_nrt = detail.of(unique)
        lags = Lags(strips_nrt.shape[2])
        spectra_nrf = fft.rfft(strips_nrt, n=lags.transform_length, axis=2)
        earlier_ln, later_ln = lags.scales(strips_nrt)
        return cls(lags, spectra_nrf[at], earlier_ln[:, at], later_ln[:, at])


def _align(first: _Spectra, second: _Spectra) -> Alignment:
    lags = first.lags
    length = lags.transform_length
    spectrum = np.einsum("prf,prf->pf", np.conj(first.spectra_prf), second.spectra_prf)
    # Twice as many values from the same spectrum: a shift need not be a whole number of columns.
    products = 2 * fft.irfft(spectrum, n=2 * length, axis=1)
    scale = (first.earlier_lp * second.later_lp).T
    nearby = np.asarray([-0.5, 0.0, 0.5])
    around = (2 * (lags.all[:, None] + nearby)).astype(np.int64) % (2 * length)
    correlations = np.clip(products[:, around].max(axis=2) * scale, -1.0, 1.0)
    scores = weigh(correlations, lags.overlaps)
    best = scores.argmax(axis=1)
    rows = np.arange(len(best))
    part = products[rows[:, None], around[best]].argmax(axis=1)
    return Alignment(scores[rows, best], correlations[rows, best], lags.all[best] + nearby[part])
