"""Candidates for pieces of one recording: all pairs of pictures, at all shifts in time.

At each lag two pictures have a window in common. What the windows of all pictures show is written
in a few numbers, its principal components, so that one matrix product a lag gives the correlations
of all pairs. It is done on pictures of 16 x 64 and gives candidates only.

Shapes: N pictures, R rows, T columns, W columns of a window, C components; I and J, tiles of
pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
from scipy import fft

from bench.data.audit.detail import Detail, Indices, Lags, least_energy
from bench.data.audit.thumbnails import Floats
from bench.steps import SILENT, Steps
from bench.workspace import usable_cores

Halves = npt.NDArray[np.float16]

_REDUCTION = 2  # of the small pictures, in both directions
_BLOCK = 256
# Pictures on either side that are compared at a time: their products stay in the cache.
_TILE = 256
_COMPONENTS = 96
# Pictures whose windows say what the components are.
_SAMPLE = 512
_MOST_PER_PICTURE = 10


class ShiftScreen:
    """The windows of pictures at all lags, as components whose products are correlations."""

    def __init__(self, detail: Detail, pictures: Indices) -> None:
        """Prepare the comparison of some `pictures` with one another."""
        strips_nrt = np.concatenate(
            [_reduced(detail.of(pictures[k : k + _BLOCK])) for k in range(0, len(pictures), _BLOCK)]
        )
        self._pictures = pictures
        lags, self._overlaps = zip(*Lags(strips_nrt.shape[2]).later, strict=True)
        with ThreadPoolExecutor(usable_cores()) as pool:
            at = partial(_Windows.at, strips_nrt)
            self._windows = list(pool.map(at, lags, self._overlaps))

    def candidates(self, least: float, steps: Steps = SILENT) -> tuple[Indices, Indices]:
        """Return the pairs (first < second) that score at least `least`, the best ones only.

        A score is `detail.weigh`'s at the best lag, roughly. The pairs stand in order.
        """
        tiles = self._tiles()
        steps.begin("comparing all pairs at all shifts", len(tiles))
        # What Fisher's z times the root of the overlap asks of a plain correlation.
        asked = [float(np.tanh(least / np.sqrt(overlap))) for overlap in self._overlaps]
        firsts, seconds, ratios = [], [], []
        with ThreadPoolExecutor(usable_cores()) as pool:
            for i, j, ratio in pool.map(partial(self._above, asked=asked), tiles):
                firsts.append(i)
                seconds.append(j)
                ratios.append(ratio)
                steps.advance()
        first, second = np.concatenate(firsts), np.concatenate(seconds)
        most = _MOST_PER_PICTURE * len(self._pictures)
        kept = np.argsort(-np.concatenate(ratios), kind="stable")[:most]
        kept = kept[np.lexsort((second[kept], first[kept]))]
        return self._pictures[first[kept]], self._pictures[second[kept]]

    def _tiles(self) -> list[tuple[slice, slice]]:
        starts = range(0, len(self._pictures), _TILE)
        return [
            (slice(i, i + _TILE), slice(j, j + _TILE)) for i in starts for j in starts if j >= i
        ]

    def _above(
        self, tile: tuple[slice, slice], asked: Sequence[float]
    ) -> tuple[Indices, Indices, Floats]:
        i, j = tile
        ratios = self._best(i, j, asked)
        if i == j:
            ratios[np.tril_indices(len(ratios))] = -1.0
        rows, columns = np.nonzero(ratios >= 1.0)
        return rows + i.start, columns + j.start, ratios[rows, columns]

    def _best(self, i: slice, j: slice, asked: Sequence[float]) -> Floats:
        """Return the correlation in terms of what is asked of it, at the best lag: (I, J)."""
        count = len(self._pictures)
        best_ij = np.full((len(range(count)[i]), len(range(count)[j])), -1.0, dtype=np.float32)
        products_ij = np.empty_like(best_ij)
        for windows, correlation in zip(self._windows, asked, strict=True):
            left_ic = windows.left_nc[i].astype(np.float32) / np.float32(correlation)
            right_ic = windows.right_nc[i].astype(np.float32) / np.float32(correlation)
            np.matmul(left_ic, windows.right_nc[j].T.astype(np.float32), out=products_ij)
            np.maximum(best_ij, products_ij, out=best_ij)
            np.matmul(right_ic, windows.left_nc[j].T.astype(np.float32), out=products_ij)
            np.maximum(best_ij, products_ij, out=best_ij)
        return best_ij


@dataclass(frozen=True, slots=True)
class _Windows:
    """The left and the right window of every picture at one lag, in components of length one.

    What the left one of a picture shows, the right one of another shows when it is so much later.
    They are kept in 16 bits, whose error is far below what a screen leaves open: of 20,000 pictures
    all lags take 0.33 GB so.
    """

    left_nc: Halves
    right_nc: Halves

    @classmethod
    def at(cls, strips_nrt: Floats, lag: int, overlap: float) -> _Windows:
        width = strips_nrt.shape[2] - lag
        left_nrw, right_nrw = strips_nrt[:, :, :width], strips_nrt[:, :, lag:]
        chosen = np.linspace(0, len(strips_nrt) - 1, min(len(strips_nrt), _SAMPLE)).astype(int)
        basis, share = _components(np.concatenate([left_nrw[chosen], right_nrw[chosen]]))
        total_n = np.einsum("nrt,nrt->n", strips_nrt, strips_nrt)
        least_n = least_energy(share * total_n, overlap)
        return cls(_projected(left_nrw, basis, least_n), _projected(right_nrw, basis, least_n))


def _components(windows_nrw: Floats) -> tuple[Floats, float]:
    """Return the directions in which windows differ most, (R * W, C), and their share of all.

    Frequencies along a row hardly depend on one another, because any picture may begin a little
    later: each has its principal components over the rows, and the strongest of all are taken.
    """
    _, rows, columns = windows_nrw.shape
    waves_qw = fft.dct(np.eye(columns, dtype=np.float32), axis=0, norm="ortho")
    spectra_qnr = np.moveaxis(windows_nrw @ waves_qw.T, 2, 0)
    energies_qr, vectors_qrk = np.linalg.eigh(spectra_qnr.transpose(0, 2, 1) @ spectra_qnr)
    strongest = np.argsort(-energies_qr, axis=None)[:_COMPONENTS]
    frequency, which = np.unravel_index(strongest, energies_qr.shape)
    basis_crw = vectors_qrk[frequency, :, which][:, :, None] * waves_qw[frequency][:, None]
    share = float(energies_qr[frequency, which].sum() / max(energies_qr.sum(), 1e-6))
    return np.ascontiguousarray(basis_crw.reshape(-1, rows * columns).T), share


def _projected(windows_nrw: Floats, basis: Floats, least_n: Floats) -> Halves:
    blocks = [
        windows_nrw[start : start + _BLOCK].reshape(-1, len(basis)) @ basis
        for start in range(0, len(windows_nrw), _BLOCK)
    ]
    values_nc = np.concatenate(blocks)
    energy_n = np.einsum("nc,nc->n", values_nc, values_nc)
    values_nc /= np.sqrt(np.maximum(energy_n, np.maximum(least_n, 1e-6)))[:, None]
    return values_nc.astype(np.float16)


def _reduced(detail_nrt: Floats) -> Floats:
    count, rows, columns = detail_nrt.shape
    factor = _REDUCTION
    cells = detail_nrt.reshape(count, rows // factor, factor, columns // factor, factor)
    return np.asarray(cells.mean(axis=(2, 4)))
