"""Rows of equal size in a file, read where they are wanted.

They are read, not mapped: pages of a mapped file count as this process's own memory, so that
looking once at every picture of a large data set would make the process as large as the data set.
The operating system's page cache keeps what is read often at hand, and can drop it.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]

_BLOCK_BYTES = 1 << 20


class RowFile:
    """`rows` rows of `row_bytes` bytes; open until it is closed, also when it is removed."""

    def __init__(self, path: Path, *, rows: int, row_bytes: int) -> None:
        self._path = path
        self._rows = rows
        self._row_bytes = row_bytes
        self._descriptor = os.open(path, os.O_RDONLY)
        self.close = weakref.finalize(self, os.close, self._descriptor)

    def is_whole(self) -> bool:
        """Whether the file has exactly the bytes of its rows."""
        return os.fstat(self._descriptor).st_size == self._rows * self._row_bytes

    def read(self, rows: Sequence[int] | npt.NDArray[np.int64]) -> Bytes:
        """Return some rows, in their order, as a new array: (len(rows), row_bytes).

        Raises:
            OSError: a row is not there.
        """
        buffer = np.empty((len(rows), self._row_bytes), dtype=np.uint8)
        for target, row in zip(buffer, rows, strict=True):
            offset = int(row) * self._row_bytes
            if os.preadv(self._descriptor, [target.data], offset) != self._row_bytes:
                raise OSError(f"{self._path}: the file ends before row {row}")
        return buffer

    def blocks(self) -> Iterator[Bytes]:
        """Yield all rows in their order, about a megabyte at a time."""
        step = max(1, _BLOCK_BYTES // self._row_bytes)
        for start in range(0, self._rows, step):
            yield self.read(range(start, min(start + step, self._rows)))
