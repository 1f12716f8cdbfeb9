"""Candidates for pieces of one recording: all pairs of pictures, at all shifts in time.

The cross-correlations of all pairs are matrix products, one a frequency, so that a linear algebra
library does the work. It is done on pictures of 16 x 64 and gives candidates only.

Shapes: N pictures, R rows, T columns, L lags, F frequencies; I and J, blocks of pictures.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from scipy import fft

from bench.data.audit.detail import Detail, Indices, Lags, weigh
from bench.data.audit.thumbnails import Floats

_REDUCTION = 2  # of the small pictures, in both directions
_BLOCK = 256
# Lags of similar overlap are weighed together, which saves most of the work.
_BANDS = 5
_MOST_PER_PICTURE = 10


class ShiftScreen:
    """Scores of pairs at their best shift, as `detail.weigh` gives them, roughly."""

    def __init__(self, detail: Detail, pictures: Indices) -> None:
        """Prepare the comparison of some `pictures` with one another."""
        strips_nrt = np.concatenate(
            [_reduced(detail.of(pictures[k : k + _BLOCK])) for k in range(0, len(pictures), _BLOCK)]
        )
        self._lags = Lags(strips_nrt.shape[2])
        self._length = self._lags.transform_length
        spectra = fft.rfft(strips_nrt, n=self._length, axis=2).astype(np.complex64)
        self._spectra_fnr = np.ascontiguousarray(spectra.transpose(2, 0, 1))
        self._earlier_ln, self._later_ln = self._lags.scales(strips_nrt)
        self._pictures = pictures
        self._bands = np.array_split(np.argsort(np.abs(self._lags.all), kind="stable"), _BANDS)

    def candidates(self, least: float) -> tuple[Indices, Indices]:
        """Return the pairs (first < second) that score at least `least`, the best ones only."""
        firsts, seconds, scores = [], [], []
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for i, j, score in pool.map(partial(self._above, least=least), self._blocks()):
                firsts.append(i)
                seconds.append(j)
                scores.append(score)
        first, second = np.concatenate(firsts), np.concatenate(seconds)
        most = _MOST_PER_PICTURE * len(self._pictures)
        kept = np.argsort(-np.concatenate(scores), kind="stable")[:most]
        return self._pictures[first[kept]], self._pictures[second[kept]]

    def _blocks(self) -> Iterator[tuple[slice, slice]]:
        starts = range(0, len(self._pictures), _BLOCK)
        for i in starts:
            for j in starts:
                if j >= i:
                    yield slice(i, i + _BLOCK), slice(j, j + _BLOCK)

    def _above(self, block: tuple[slice, slice], least: float) -> tuple[Indices, Indices, Floats]:
        i, j = block
        scores = self._score(i, j)
        if i == j:
            scores[np.tril_indices(len(scores))] = -np.inf
        rows, columns = np.nonzero(scores >= least)
        return rows + i.start, columns + j.start, scores[rows, columns]

    def _score(self, i: slice, j: slice) -> Floats:
        spectra_fij = np.matmul(
            self._spectra_fnr[:, i].conj(), self._spectra_fnr[:, j].transpose(0, 2, 1)
        )
        products_lij = fft.irfft(spectra_fij, n=self._length, axis=0)
        best = np.full(products_lij.shape[1:], -np.inf, dtype=np.float32)
        for band in self._bands:
            highest = np.full_like(best, -1.0)
            for place in band:
                correlation = products_lij[self._lags.all[place] % self._length]
                correlation *= self._earlier_ln[place, i, None]
                correlation *= self._later_ln[place, None, j]
                np.maximum(highest, correlation, out=highest)
            overlap = float(self._lags.overlaps[band].max())
            np.maximum(best, weigh(highest, overlap), out=best)
        return best


def _reduced(detail_nrt: Floats) -> Floats:
    count, rows, columns = detail_nrt.shape
    factor = _REDUCTION
    cells = detail_nrt.reshape(count, rows // factor, factor, columns // factor, factor)
    return np.asarray(cells.mean(axis=(2, 4)))
