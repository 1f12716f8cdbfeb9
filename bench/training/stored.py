"""Activations of the frozen part, computed once and shared by folds, trials and processes.

An entry holds one boundary of one view of all development pictures. On disk it is a plain array
of rows that is read row by row, so a large data set does not grow the process; small entries are
also kept whole on the training device, within a budget. A GPU's memory can hold entries that never
were on disk: it computes them again sooner than a disk gives them back.

Shapes: P development pictures; an entry is (P, ...), one picture's activation a row.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from bench.data.rows import Bytes, RowFile
from bench.models.body import is_channels_last
from bench.records import Policy, Store, fingerprint_of, from_json, to_json
from bench.training.activations import Indices, PixelSource
from bench.training.arithmetic import DTYPES, LAYOUTS
from bench.training.frozen import FROZEN_BATCH, FrozenPart
from bench.training.half import can_halve, from_half, rounded, to_half
from bench.training.recorded import to_device
from bench.workspace import locked, locked_if_free, write_atomic

_ROWS = "rows.bin"
_MARK = "entry.json"
_FORMAT = 2
_GPU_BATCH = 128  # a smaller one leaves much of a GPU idle
_MOST_OPEN = 256  # files of entries, well below the usual limit of 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryKey:
    """What fixes the numbers of an entry; `frozen_part` stands for everything but the rest."""

    frozen_part: str
    policy: Policy
    view: int
    boundary: int
    store: Store
    batch: int = FROZEN_BATCH  # of the frozen part, on which its last bits depend

    @property
    def name(self) -> str:
        return fingerprint_of((_FORMAT, self))


def _is_only_channels_last(activations: torch.Tensor) -> bool:
    """Whether (N, ...) activations lie in that layout, and in no other."""
    return is_channels_last(activations) and not activations.is_contiguous()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """One picture's activation: its logical shape, and how its numbers lie in memory.

    `halved`: a row is float16 numbers and the power of two that they are scaled by.
    """

    shape: tuple[int, ...]
    dtype: str
    channels_last: bool
    halved: bool

    @classmethod
    def of(cls, activations: torch.Tensor, store: Store) -> _Layout:
        return cls(
            shape=tuple(activations.shape[1:]),
            dtype=str(activations.dtype).removeprefix("torch."),
            channels_last=_is_only_channels_last(activations),
            halved=store == "half" and can_halve(activations),
        )

    @property
    def tensor_bytes(self) -> int:
        """Size of one picture's activation as it is given back."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize

    def to_bytes(self, activations: torch.Tensor) -> Bytes:
        """(N, ...) activations -> (N, bytes a row)."""
        if self.channels_last:
            activations = activations.permute(0, 2, 3, 1)
        rows = activations.contiguous().view(len(activations), -1)
        if self.halved:
            halves, shifts = to_half(rows)
            rows = torch.cat([halves.view(torch.int16), shifts[:, None]], dim=1)
        return rows.cpu().view(torch.uint8).numpy()

    def from_bytes(self, rows: Bytes) -> torch.Tensor:
        """(N, bytes a row) -> (N, ...) activations with the strides that they had."""
        if self.halved:
            words = torch.from_numpy(rows).view(torch.int16)
            values = from_half(words[:, :-1].view(torch.float16), words[:, -1])
        else:
            values = torch.from_numpy(rows).view(DTYPES[self.dtype])
        if self.channels_last:
            channels, height, width = self.shape
            return values.view(-1, height, width, channels).permute(0, 3, 1, 2)
        return values.view(-1, *self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mark:
    """Written last, so that a half-written entry is never read."""

    layout: _Layout
    rows: int
    row_bytes: int
    checksum: int  # CRC-32 of the rows


class Entry:
    """Rows of one boundary of one view, on disk; one that is evicted meanwhile stays readable."""

    def __init__(self, mark: _Mark, file: RowFile) -> None:
        self._mark = mark
        self._file = file

    @classmethod
    def open(cls, folder: Path) -> Entry | None:
        """Open a finished entry; None where it is missing, short or altered."""
        try:
            mark = from_json((folder / _MARK).read_bytes(), _Mark)
            file = RowFile(folder / _ROWS, rows=mark.rows, row_bytes=mark.row_bytes)
        except (OSError, ValueError):
            return None
        if not file.is_whole() or _checksum(file) != mark.checksum:
            file.close()
            return None
        return cls(mark, file)

    @property
    def is_exact(self) -> bool:
        """Whether it gives back, to the last bit, what was written."""
        return not self._mark.layout.halved

    @property
    def tensor_bytes(self) -> int:
        """Size of all its activations in memory."""
        return self._mark.rows * self._mark.layout.tensor_bytes

    def read(self, rows: Indices) -> torch.Tensor:
        """Return some rows, in their order, on the CPU."""
        return self._mark.layout.from_bytes(self._file.read(rows))

    def read_all(self) -> torch.Tensor:
        return self.read(np.arange(self._mark.rows))

    def close(self) -> None:
        self._file.close()


def _checksum(file: RowFile) -> int:
    checksum = 0
    for block in file.blocks():
        checksum = zlib.crc32(block.data, checksum)
    return checksum


class _Writer:
    """Writes an entry batch by batch into a temporary folder; `finish` gives it its name."""

    def __init__(self, folder: Path, part: Path, store: Store) -> None:
        self._folder = folder
        self._part = part
        self._store: Store = store
        self._part.mkdir(parents=True)
        self._file = (self._part / _ROWS).open("wb")
        self._layout: _Layout | None = None
        self._rows = 0
        self._row_bytes = 0
        self._checksum = 0

    def append(self, activations: torch.Tensor) -> None:
        self._layout = self._layout or _Layout.of(activations, self._store)
        rows = self._layout.to_bytes(activations)
        self._file.write(rows.data)
        self._checksum = zlib.crc32(rows.data, self._checksum)
        self._rows += len(rows)
        self._row_bytes = rows.shape[1]

    def finish(self) -> None:
        assert self._layout is not None
        self._file.close()
        mark = _Mark(
            layout=self._layout,
            rows=self._rows,
            row_bytes=self._row_bytes,
            checksum=self._checksum,
        )
        write_atomic(self._part / _MARK, to_json(mark))
        shutil.rmtree(self._folder, ignore_errors=True)
        self._part.rename(self._folder)

    def discard(self) -> None:
        self._file.close()
        shutil.rmtree(self._part, ignore_errors=True)


class _Gatherer:
    """Gathers an entry of so many rows, batch by batch, in the training device's memory."""

    def __init__(self, store: Store, rows: int) -> None:
        self._store = store
        self._rows = rows
        self._done = 0
        self._entry: torch.Tensor | None = None

    def append(self, activations: torch.Tensor) -> None:
        if self._entry is None:
            self._entry = torch.empty(
                (self._rows, *activations.shape[1:]),
                dtype=activations.dtype,
                device=activations.device,
                memory_format=LAYOUTS[_is_only_channels_last(activations)],
            )
        end = self._done + len(activations)
        rows = rounded(activations) if self._store == "half" else activations
        self._entry[self._done : end] = rows
        self._done = end

    def finish(self) -> torch.Tensor:
        assert self._entry is not None and self._done == self._rows
        return self._entry


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
            os.utime(self._folder / key.name / _MARK)
        return True

    def is_exact(self, key: EntryKey) -> bool:
        """Whether an entry that `has` said is there gives back exactly what was written."""
        if key in self._open:
            return self._open[key].is_exact
        return key.store == "exact" or not can_halve(self._resident[key])

    @contextmanager
    def gathering(self, keys: Sequence[EntryKey], rows: int) -> Iterator[dict[EntryKey, _Gatherer]]:
        """Yield a gatherer for each key; all entries appear, in memory, when the block succeeds."""
        gatherers = {key: _Gatherer(key.store, rows) for key in keys}
        yield gatherers
        for key, gatherer in gatherers.items():
            self.keep(key, gatherer.finish())

    @contextmanager
    def writing(self, keys: Sequence[EntryKey]) -> Iterator[dict[EntryKey, _Writer]]:
        """Yield a writer for each key; all entries appear, on disk, when the block succeeds."""
        writers = {
            key: _Writer(
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
        for mark in self._folder.glob(f"*/{_MARK}"):  # parts lie deeper
            rows = mark.with_name(_ROWS)
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
