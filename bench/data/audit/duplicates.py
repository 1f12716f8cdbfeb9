"""Pictures that show the same thing twice: copies, parts, and the same recording later on.

Candidates come from cheap comparisons of all pairs (`shifts`, `crops`), and each is confirmed by
the correlation of its detail once it is aligned (`detail`). How much correlation is enough depends
on the set: pairs of one class, drawn at random, say how much unrelated pictures agree in it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import norm
from threadpoolctl import threadpool_limits

from bench.data.audit.crops import Match, find_crops
from bench.data.audit.detail import MOST_SHIFT, Alignment, Detail, Indices, align, weigh
from bench.data.audit.shifts import ShiftScreen
from bench.data.audit.thumbnails import COLUMNS, Thumbnails, make_thumbnails
from bench.data.groups import Tie
from bench.data.pixel_cache import NO_CACHE, PixelCache
from bench.records import Dataset, Pair, PairKind
from bench.steps import SILENT, Steps

# Weighed scores (Fisher's z times the root of the overlap) from which a pair is one, at the
# least: a correlation of 0.64 in full overlap, of 0.73 in two thirds. Among 1,000 real clips of
# 285 recordings, 347 of the 351 pairs above it were of one recording, and the other four were
# versions of one piece; at 0.6 there were pairs that had only the style in common.
_LEAST_SCORE = 0.75
# A screened pair may score so much less than it does in detail.
_SCREENED = 0.6
_SAMPLES = 4000
_SAMPLES_A_CLASS = (100, 1000)
# In a class of fewer pictures one duplicate pair would be a large part of all pairs.
_LEAST_PICTURES = 10
# Unrelated pairs expected to pass in the whole set, were their scores normally distributed.
_EXPECTED_FALSE = 0.01
# Lags up to so many columns are a copy's: rounding, or a line more or less of the frame.
_COPY_LAG = 1
# No crop explains better a pair that correlates so well as it is.
_CERTAIN = 0.95
# A window that keeps this share of both sides is the whole picture.
_WHOLE_SIDE = 0.985


# What each kind of pair is called as a rule that ties pictures.
TIED_BY: Mapping[PairKind, str] = {
    "copy": "copies found by the audit",
    "cropped": "crops found by the audit",
    "shifted": "shifts in time found by the audit",
}

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Search:
    """The pairs that were found; `thresholds` are the scores asked of whole pictures, by class."""

    pairs: tuple[Pair, ...]
    blank: tuple[int, ...]
    thresholds: tuple[float, ...]


def find_duplicates(dataset: Dataset, pixel_cache: PixelCache = NO_CACHE) -> tuple[Pair, ...]:
    """Find pairs of pictures that must not stand on both sides of a split.

    `pixel_cache` is cleared before the pairs are compared, which takes memory of its own. Each pair
    is two indices into `dataset.pictures`, `first < second`. Of several identical files
    only the first is compared with other pictures, so the pairs tie them all when they are joined.

    Raises:
        DataError: a picture that could be read before can no longer be.
    """
    thumbnails = make_thumbnails(dataset, pixel_cache=pixel_cache)
    pixel_cache.clear()
    return search_duplicates(dataset, thumbnails).pairs


def search_duplicates(dataset: Dataset, thumbnails: Thumbnails, steps: Steps = SILENT) -> Search:
    """Find duplicates among thumbnails that are there already; see `find_duplicates`."""
    # The search has a thread a core of its own: more of them inside its products would only wait.
    with threadpool_limits(1, "blas"):
        return _search(dataset, thumbnails, steps)


def _search(dataset: Dataset, thumbnails: Thumbnails, steps: Steps) -> Search:
    rng = np.random.default_rng(0)
    identical, unique = _identical(dataset)
    detail = Detail(thumbnails.grey_nhw)
    comparable = unique[~detail.blank_n[unique]]
    blank = tuple(np.flatnonzero(detail.blank_n).tolist())
    if len(comparable) < 2:
        return Search(identical, blank, (_LEAST_SCORE,) * len(dataset.classes))
    chance = _Chance.of(dataset, detail, comparable, rng)
    labels = np.asarray(dataset.labels)
    least = chance.thresholds(1 - MOST_SHIFT).min()
    screen = ShiftScreen(detail, comparable)
    first, second = screen.candidates(_SCREENED * float(least), steps)
    alignment = align(detail, first, second, steps)
    found = {
        (pair.first, pair.second): pair
        for pair in _confirmed(first, second, alignment, chance, labels)
    }
    whole_k = chance.thresholds(1.0)
    certain = {places for places, pair in found.items() if pair.correlation >= _CERTAIN}
    for match in find_crops(thumbnails.grey_nhw, comparable, rng, certain, steps):
        pair = _as_pair(match)
        asked = whole_k[labels[[pair.first, pair.second]]].max()
        known = found.get((pair.first, pair.second))
        if float(weigh(np.asarray(pair.correlation, np.float32), 1.0)) >= asked and (
            known is None or known.correlation < pair.correlation
        ):
            found[pair.first, pair.second] = pair
    ordered = sorted((*identical, *found.values()), key=lambda pair: (pair.first, pair.second))
    return Search(tuple(ordered), blank, tuple(whole_k.tolist()))


def _identical(dataset: Dataset) -> tuple[tuple[Pair, ...], Indices]:
    """Return pairs of equal files, each copy with the first, and the indices of the firsts."""
    copies: dict[str, list[int]] = defaultdict(list)
    for index, picture in enumerate(dataset.pictures):
        copies[picture.sha256].append(index)
    pairs = [
        Pair(first=first, second=copy, kind="identical", correlation=1.0)
        for first, *rest in copies.values()
        for copy in rest
    ]
    return tuple(pairs), np.asarray([first for first, *_ in copies.values()], dtype=np.int64)


@dataclass(frozen=True, slots=True)
class _Chance:
    """How much unrelated pictures of each of K classes agree: middle of their scores, and reach.

    `reach_k` is how far above the middle none of them is expected.
    """

    middle_k: Scores
    reach_k: Scores

    @classmethod
    def of(
        cls, dataset: Dataset, detail: Detail, pictures: Indices, rng: np.random.Generator
    ) -> _Chance:
        """Measure it on random pairs of a class, but not of a group: those are not unrelated.

        The middle and the upper tenth of the scores give a normal distribution: duplicates among
        the pairs, if they are fewer than that, hardly move it.
        """
        labels = np.asarray(dataset.labels)[pictures]
        groups = np.asarray([dataset.pictures[index].group or f"/{index}" for index in pictures])
        samples = int(np.clip(_SAMPLES // len(dataset.classes), *_SAMPLES_A_CLASS))
        middle_k, reach_k = np.zeros((2, len(dataset.classes)))
        for label in range(len(dataset.classes)):
            of_class = np.flatnonzero(labels == label)
            if len(of_class) < _LEAST_PICTURES:
                continue
            drawn = np.sort(rng.integers(0, len(of_class), (2, samples)), axis=0)
            first, second = of_class[np.unique(drawn, axis=1)]
            apart = groups[first] != groups[second]
            if not apart.any():
                continue
            scores = align(detail, pictures[first[apart]], pictures[second[apart]]).scores_p
            middle_k[label], high = np.quantile(scores, (0.5, 0.9))
            pairs = len(of_class) * (len(of_class) - 1) / 2
            deviations = norm.isf(min(_EXPECTED_FALSE / pairs, 0.01))
            reach_k[label] = deviations * (high - middle_k[label]) / norm.isf(0.1)
        return cls(middle_k, reach_k)

    def thresholds(self, overlap: float) -> Scores:
        """Return the score that a pair of each class has to reach in this overlap: (K,).

        Pictures of a style agree no better in a part than in the whole, only less surely.
        """
        expected_k: Scores = self.middle_k * np.sqrt(overlap) + self.reach_k
        return np.maximum(_LEAST_SCORE, expected_k)


def _confirmed(
    first_p: Indices,
    second_p: Indices,
    alignment: Alignment,
    chance: _Chance,
    labels: Indices,
) -> list[Pair]:
    pairs = []
    for p in range(len(first_p)):
        lag = float(alignment.lags_p[p])
        asked_k = chance.thresholds(1 - abs(lag) / COLUMNS)
        if alignment.scores_p[p] < asked_k[labels[[first_p[p], second_p[p]]]].max():
            continue
        is_copy = abs(lag) <= _COPY_LAG
        pairs.append(
            Pair(
                first=int(first_p[p]),
                second=int(second_p[p]),
                kind="copy" if is_copy else "shifted",
                correlation=float(alignment.correlations_p[p]),
                shift=0.0 if is_copy else lag / COLUMNS,
            )
        )
    return pairs


def _as_pair(match: Match) -> Pair:
    left, top, right, bottom = match.window
    is_whole = min(right - left, bottom - top) >= _WHOLE_SIDE
    return Pair(
        first=min(match.whole, match.part),
        second=max(match.whole, match.part),
        kind="copy" if is_whole else "cropped",
        correlation=match.correlation,
    )


def ties_of_pairs(pairs: Iterable[Pair]) -> tuple[Tie, ...]:
    """Tie what was found; identical files are tied by a rule of their own (`groups.join`)."""
    return tuple(
        Tie(TIED_BY[pair.kind], pair.first, pair.second) for pair in pairs if pair.kind in TIED_BY
    )
