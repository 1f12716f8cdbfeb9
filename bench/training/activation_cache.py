"""Entries of activations within a budget, shared by processes: files, and small ones in memory.

A GPU's memory can hold entries that never were on disk: it computes them again sooner than a disk
gives them back.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from bench.training.activations import Indices
from bench.training.entries import MARK, ROWS, Entry, EntryGatherer, EntryKey, EntryWriter
from bench.training.half import can_halve
from bench.training.recorded import to_device
from bench.workspace import locked, locked_if_free

_MOST_OPEN = 256  # files of entries, well below the usual limit of 1024


class ActivationCache:
    """Entries on disk within `disk_bytes`, and small ones whole on the training device.

    Several processes may share the folder: an entry is computed by one of them while the others
    wait for it, and appears under its name only when it is whole.

    `memory_bytes` bounds what is kept on the training device; what was used least recently goes.
    """

    def __init__(self, folder: Path, *, disk_bytes: int, memory_bytes: int, device: str) -> None:
        self._folder = folder
        self._disk_bytes = disk_bytes
        self.memory_bytes = memory_bytes
        self._device = device
        self._open: dict[EntryKey, Entry] = {}
        self._resident: OrderedDict[EntryKey, torch.Tensor] = OrderedDict()

    def rows(self, key: EntryKey, rows: Indices) -> torch.Tensor:
        """Return rows of an entry that `has` said is there, on the training device."""
        resident = self._resident.get(key)
        if resident is None:
            entry = self._open[key]
            if entry.tensor_bytes > self.memory_bytes // 2:
                return entry.read(rows).to(self._device)
            resident = entry.read_all().to(self._device)
            self.keep(key, resident)
        else:
            self._resident.move_to_end(key)
        return resident[to_device(rows, self._device)]

    def has(self, key: EntryKey) -> bool:
        """Whether an entry is there, whole and sound."""
        if key in self._resident and key not in self._open:
            return True
        if key not in self._open:
            entry = Entry.open(self._folder / key.name)
            if entry is None:
                return False
            self._open[key] = entry
            while len(self._open) > _MOST_OPEN:
                self._open.pop(next(iter(self._open))).close()
        # The time of last use, for eviction; another process may have evicted it meanwhile.
        with contextlib.suppress(FileNotFoundError):
            os.utime(self._folder / key.name / MARK)
        return True

    def is_exact(self, key: EntryKey) -> bool:
        """Whether an entry that `has` said is there gives back exactly what was written."""
        if key in self._open:
            return self._open[key].is_exact
        return key.store == "exact" or not can_halve(self._resident[key])

    @contextmanager
    def gathering(
        self, keys: Sequence[EntryKey], rows: int
    ) -> Iterator[dict[EntryKey, EntryGatherer]]:
        """Yield a gatherer for each key; all entries appear, in memory, when the block succeeds."""
        gatherers = {key: EntryGatherer(key.store, rows) for key in keys}
        yield gatherers
        for key, gatherer in gatherers.items():
            self.keep(key, gatherer.finish())

    @contextmanager
    def writing(self, keys: Sequence[EntryKey]) -> Iterator[dict[EntryKey, EntryWriter]]:
        """Yield a writer for each key; all entries appear, on disk, when the block succeeds."""
        writers = {
            key: EntryWriter(
                self._folder / key.name, self._parts(key.frozen_part) / key.name, key.store
            )
            for key in keys
        }
        try:
            yield writers
            for writer in writers.values():
                writer.finish()
        finally:
            for writer in writers.values():
                writer.discard()
        self._drop_dead_parts()
        self._evict(keep={key.name for key in keys})

    @contextmanager
    def computing(self, frozen_part: str) -> Iterator[None]:
        """Let one process at a time compute entries of a frozen part."""
        with locked(self._lock(frozen_part)):
            # Whoever wrote what lies here has died: its lock is ours.
            shutil.rmtree(self._parts(frozen_part), ignore_errors=True)
            yield

    def _lock(self, frozen_part: str) -> Path:
        return self._folder / "locks" / frozen_part

    def _parts(self, frozen_part: str) -> Path:
        return self._folder / "parts" / frozen_part

    def _drop_dead_parts(self) -> None:
        """Remove what killed processes left half-written of any frozen part: nobody counts it."""
        for part in self._parts("").glob("*"):
            with locked_if_free(self._lock(part.name)) as dead:
                if dead:
                    shutil.rmtree(part, ignore_errors=True)

    def give_up_memory(self) -> bool:
        """Give the training device's memory back for good; False where nothing was kept there."""
        kept = bool(self._resident)
        self._resident.clear()
        self.memory_bytes = 0
        return kept

    def keep(self, key: EntryKey, activations: torch.Tensor) -> None:
        """Keep an entry whole on the training device, and let go what it has no room beside."""
        room = self.memory_bytes - activations.nbytes
        while self._resident and sum(kept.nbytes for kept in self._resident.values()) > room:
            self._resident.popitem(last=False)
        self._resident[key] = activations

    def _evict(self, keep: set[str]) -> None:
        """Remove the entries that were not used for longest until the rest fits the budget."""
        entries = []
        for mark in self._folder.glob(f"*/{MARK}"):  # parts lie deeper
            rows = mark.with_name(ROWS)
            try:
                entries.append((mark.stat().st_mtime_ns, rows.stat().st_size, mark.parent))
            except FileNotFoundError:
                continue  # another process has just removed it
        excess = sum(size for _, size, _ in entries) - self._disk_bytes
        for _, size, folder in sorted(entries):
            if excess <= 0:
                return
            if folder.name not in keep:
                for key in [key for key in self._open if key.name == folder.name]:
                    self._open.pop(key).close()  # an open file would go on taking up the disk
                shutil.rmtree(folder, ignore_errors=True)
                excess -= size
