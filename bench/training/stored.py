"""Activations of the frozen part, computed once and shared by folds, trials and processes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import torch

from bench.records import Policy, Store
from bench.training.activation_cache import ActivationCache
from bench.training.activations import Indices, PixelSource
from bench.training.entries import EntryKey
from bench.training.frozen import FROZEN_BATCH, FrozenPart

_GPU_BATCH = 128  # a smaller one leaves much of a GPU idle


class StoredActivations:
    """The stored path: the frozen part's outputs are computed once and read ever after.

    The numbers are those of `ComputedActivations`, to the last bit on the CPU: frozen parts in
    eval mode, run in batches of one size, give a picture the same output wherever it stands.
    Rounded entries are read, but nothing is computed from them: one rounding is all there is, and
    what an entry holds does not depend on which others were there before.
    """

    def __init__(
        self,
        pixels: PixelSource,
        frozen: FrozenPart,
        boundary: int,
        pictures: Indices,
        cache: ActivationCache,
        identity: str,
        store: Store,
        *,
        on_the_way: Sequence[int],
        in_memory: bool,
    ) -> None:
        """Take what computes the rows of `pictures` at `boundary`.

        `on_the_way` are the boundaries before it, ascending, whose activations are kept as well.
        """
        self._pixels = pixels
        self._frozen = frozen
        self._boundary = boundary
        self._pictures = pictures
        self._row_of = np.full(int(pictures.max()) + 1, -1)
        self._row_of[pictures] = np.arange(len(pictures))
        self._cache = cache
        self._identity = identity
        self._store: Store = store
        self._on_the_way = on_the_way
        self._in_memory = in_memory
        self._batch = _GPU_BATCH if in_memory else FROZEN_BATCH

    def read(self, pictures: Indices, *, policy: Policy, view: int) -> torch.Tensor:
        # Without augmentation all views are the same one.
        key = self._key(policy, 0 if policy == "none" else view, self._boundary)
        if not self._cache.has(key):
            alone = nullcontext() if self._in_memory else self._cache.computing(self._identity)
            with alone:
                if not self._cache.has(key):  # another process may have been first
                    self._compute(key)
        rows = self._row_of[pictures]
        assert (rows >= 0).all(), "only development pictures are stored"
        return self._cache.rows(key, rows)

    def _key(self, policy: Policy, view: int, boundary: int) -> EntryKey:
        return EntryKey(
            frozen_part=self._identity,
            policy=policy,
            view=view,
            boundary=boundary,
            # Pixels are never rounded.
            store=self._store if boundary else "exact",
            batch=self._batch,
        )

    def _compute(self, wanted: EntryKey) -> None:
        """Compute an entry from the deepest shallower one, keeping others on the way."""
        keys = {
            boundary: self._key(wanted.policy, wanted.view, boundary)
            for boundary in range(wanted.boundary + 1)
        }
        # From the deepest one: to look for those before the start would read them whole.
        there: list[int] = []
        start = 0
        for boundary in reversed(range(wanted.boundary)):
            if self._cache.has(keys[boundary]):
                there.append(boundary)
                if self._cache.is_exact(keys[boundary]):
                    start = boundary
                    break
        count, size = len(self._pictures), self._batch
        everything = np.arange(count)
        missing = [b for b in self._on_the_way if b > start and b not in there]
        kept = [*missing, wanted.boundary]
        wanted_keys = [keys[boundary] for boundary in kept]
        with (
            self._cache.gathering(wanted_keys, count)
            if self._in_memory
            else self._cache.writing(wanted_keys)
        ) as writers:
            for batch in np.array_split(everything, range(size, count, size)):
                activations = self._start(keys[start], batch)
                at = start
                for boundary in kept:
                    if boundary > at:
                        activations = self._frozen.run(activations, at, boundary, size)
                    writers[keys[boundary]].append(activations)
                    at = boundary
        if not self._cache.has(wanted):
            raise OSError("an activation entry that was just written cannot be read back")

    def _start(self, key: EntryKey, batch: Indices) -> torch.Tensor:
        if key.boundary or self._cache.has(key):
            return self._cache.rows(key, batch)
        return self._pixels.read(self._pictures[batch], policy=key.policy, view=key.view)
