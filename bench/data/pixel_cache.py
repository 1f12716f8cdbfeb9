"""Decoded pixels, kept for the stages before a search that each look at all pictures.

Reading finds the frame that all pictures share; what is inside it is stored resized, and duplicates
are looked for there.
"""

from __future__ import annotations

import math
import mmap
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from bench.runtime.preprocess import open_rgb


class PixelCache:
    """Opens picture files, and keeps the pixels of the first ones, as many as fit.

    All stages go through the pictures in one order, so what was kept last would be gone each time
    before it is asked for again. Several threads may use it.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self._pixels = _memory(capacity_bytes)
        self._filled = 0
        self._places: dict[Path, tuple[int, tuple[int, ...]]] = {}
        self._lock = threading.Lock()

    def keeps(self, path: Path) -> bool:
        """Whether a file's pixels are in memory, as they were when it was read."""
        return path in self._places

    def open(self, path: Path) -> Image.Image:
        """Return a picture as `open_rgb` does; from memory if its pixels are kept.

        Raises:
            PictureError: the file is not there, or is not a picture that can be decoded whole.
        """
        place = self._places.get(path)
        if place is None:
            return open_rgb(path)
        start, shape = place
        return Image.fromarray(self._pixels[start : start + math.prod(shape)].reshape(shape))

    def keep(self, path: Path, pixels_hw3: npt.NDArray[np.uint8]) -> None:
        """Keep what a file was decoded to, if it fits."""
        with self._lock:
            start, end = self._filled, self._filled + pixels_hw3.size
            if end > len(self._pixels):
                return
            self._filled = end
        self._pixels[start:end] = pixels_hw3.ravel()
        self._places[path] = start, pixels_hw3.shape

    def clear(self) -> None:
        """Give the memory back; pictures can still be opened."""
        self._places.clear()
        self._pixels = _memory(0)


def _memory(size_bytes: int) -> npt.NDArray[np.uint8]:
    """Memory of the system's own, which has it back as a whole whatever an allocator keeps.

    It gives a page when that is first written to.
    """
    if size_bytes == 0:
        return np.empty(0, dtype=np.uint8)
    # Private: a child process that is forked meanwhile must not keep it alive.
    memory = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(memory, dtype=np.uint8)


# For a single look at each picture.
NO_CACHE = PixelCache(capacity_bytes=0)
