"""One boundary of one view of all development pictures, as a frozen part gives it.

On disk it is a plain array of rows that is read row by row, so a large data set does not grow the
process.

Shapes: P development pictures; an entry is (P, ...), one picture's activation a row.
"""

from __future__ import annotations

import math
import shutil
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from bench.data.rows import Bytes, RowFile
from bench.models.body import is_channels_last
from bench.records import Policy, Store, fingerprint_of, from_json, to_json
from bench.training.activations import Indices
from bench.training.arithmetic import DTYPES, LAYOUTS
from bench.training.frozen import FROZEN_BATCH
from bench.training.half import can_halve, from_half, rounded, to_half
from bench.workspace import write_atomic

ROWS = "rows.bin"
MARK = "entry.json"
_FORMAT = 2


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
            mark = from_json((folder / MARK).read_bytes(), _Mark)
            file = RowFile(folder / ROWS, rows=mark.rows, row_bytes=mark.row_bytes)
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


class EntryWriter:
    """Writes an entry batch by batch into a temporary folder; `finish` gives it its name."""

    def __init__(self, folder: Path, part: Path, store: Store) -> None:
        self._folder = folder
        self._part = part
        self._store: Store = store
        self._part.mkdir(parents=True)
        self._file = (self._part / ROWS).open("wb")
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
        write_atomic(self._part / MARK, to_json(mark))
        shutil.rmtree(self._folder, ignore_errors=True)
        self._part.rename(self._folder)

    def discard(self) -> None:
        self._file.close()
        shutil.rmtree(self._part, ignore_errors=True)


class EntryGatherer:
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
