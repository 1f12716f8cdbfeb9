"""Pictures as decoded, for the stages before a search that each look at all of them once.

Reading finds the frame that all share, duplicates are looked for inside it, and the store holds
what is inside it resized: each needs what the one before has found out of all pictures.
"""

from __future__ import annotations

import math
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from bench.runtime.preprocess import open_rgb


class DecodedPictures:
    """Decodes picture files, and keeps the pixels of the first ones, as many as fit.

    All stages go through the pictures in one order, so what was kept last would be gone each time
    before it is asked for again. Several threads may use it.
    """

    def __init__(self, most_bytes: int) -> None:
        # One piece of memory, which the system has back as a whole; it gives a page when that is
        # first written to.
        self._kept = np.empty(most_bytes, dtype=np.uint8)
        self._filled = 0
        self._places: dict[Path, tuple[int, tuple[int, ...]]] = {}
        self._lock = threading.Lock()

    def open(self, path: Path) -> Image.Image:
        """Return a picture as `open_rgb` does; from memory if it is kept.

        Raises:
            PictureError: the file is not there, or is not a picture that can be decoded whole.
        """
        place = self._places.get(path)
        if place is None:
            return open_rgb(path)
        start, shape = place
        return Image.fromarray(self._kept[start : start + math.prod(shape)].reshape(shape))

    def keep(self, path: Path, pixels_hw3: npt.NDArray[np.uint8]) -> None:
        """Keep what a file was decoded to, if it fits."""
        with self._lock:
            start, end = self._filled, self._filled + pixels_hw3.size
            if end > len(self._kept):
                return
            self._filled = end
        self._kept[start:end] = pixels_hw3.ravel()
        self._places[path] = start, pixels_hw3.shape

    def forget(self) -> None:
        """Give the memory back; pictures can still be opened."""
        self._places.clear()
        self._kept = np.empty(0, dtype=np.uint8)


# For a single look at each picture.
KEEP_NONE = DecodedPictures(most_bytes=0)
