"""Pictures decoded once: a uint8 array on disk, shared by all folds, trials and processes.

Shapes: N pictures, S = `Geometry.image_size` pixels on either side, 3 colours.
"""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.errors import DataError
from bench.records import Dataset, fingerprint_of, from_json, to_json
from bench.runtime.preprocess import Geometry, PictureError, prepare
from bench.workspace import locked, write_atomic

_ARRAY = "images.u8"
_MARK = "store.json"
# Bumped when the pixels that a geometry stands for change.
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class _Mark:
    """Written last: a folder without it is half-made. `checksums` are CRC-32, one a picture."""

    shape: tuple[int, int, int, int]
    checksums: tuple[int, ...]


class DecodedStore:
    """All pictures of a data set in one geometry, read-only, memory-mapped."""

    def __init__(self, images_nhwc: npt.NDArray[np.uint8], key: str) -> None:
        self._images = images_nhwc
        self.key = key

    @classmethod
    def open(cls, dataset: Dataset, geometry: Geometry, cache: Path) -> DecodedStore:
        """Open the stored pictures, decoding them first where they are missing or damaged."""
        key = fingerprint_of((_FORMAT, dataset.fingerprint, asdict(geometry)))
        folder = cache / "decoded" / key
        images = _read(folder)
        if images is None:
            with locked(folder.with_suffix(".lock")):
                images = _read(folder)  # another process may have been first
                if images is None:
                    _build(dataset, geometry, folder)
                    images = _read(folder)
            if images is None:
                raise OSError(f"{folder}: what was just written cannot be read back")
        return cls(images, key)

    def __len__(self) -> int:
        return len(self._images)

    @property
    def image_size(self) -> int:
        return int(self._images.shape[1])

    def read(self, indices: Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Return a copy of some pictures: (len(indices), S, S, 3), uint8."""
        return np.ascontiguousarray(self._images[np.asarray(indices, dtype=np.int64)])


def _read(folder: Path) -> npt.NDArray[np.uint8] | None:
    """Map a finished store; None when it is missing, short or altered."""
    try:
        mark = from_json((folder / _MARK).read_bytes(), _Mark)
        images = np.memmap(folder / _ARRAY, dtype=np.uint8, mode="r", shape=mark.shape)
        sound = all(
            zlib.crc32(image) == checksum
            for image, checksum in zip(images, mark.checksums, strict=True)
        )
    except (OSError, ValueError):
        return None
    return images if sound else None


def _build(dataset: Dataset, geometry: Geometry, folder: Path) -> None:
    """Decode into a sibling folder that takes its name when it is whole.

    Raises:
        DataError: a picture that could be read before can no longer be.
    """
    size = geometry.image_size
    shape = (len(dataset.pictures), size, size, 3)
    part = folder.with_suffix(".part")
    for leftover in (part, folder):
        shutil.rmtree(leftover, ignore_errors=True)
    part.mkdir(parents=True)
    images = np.memmap(part / _ARRAY, dtype=np.uint8, mode="w+", shape=shape)

    def decode(index: int) -> int:
        try:
            image = prepare(dataset.picture_path(index), geometry)
        except PictureError as error:
            raise DataError(f"{error}: put the picture back, or begin a new study") from error
        images[index] = image
        return zlib.crc32(image.data)

    with ThreadPoolExecutor() as pool:
        checksums = tuple(pool.map(decode, range(shape[0])))
    images.flush()
    write_atomic(part / _MARK, to_json(_Mark(shape, checksums)))
    part.rename(folder)
