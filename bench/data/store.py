"""Pictures cropped and resized once: a uint8 array on disk for all folds, trials and processes.

Shapes: N pictures, S = `Geometry.image_size` pixels on either side, 3 colours.
"""

from __future__ import annotations

import errno
import math
import os
import shutil
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.data.pixel_cache import NO_CACHE, PixelCache
from bench.data.rows import RowFile
from bench.data.unchanged import fault_of
from bench.errors import DataError
from bench.records import Dataset, fingerprint_of, from_json, to_json
from bench.runtime.preprocess import Geometry, PictureError, fit
from bench.steps import SILENT, Steps
from bench.words import counted
from bench.workspace import locked, write_atomic

_ARRAY = "images.u8"
_MARK = "store.json"
# Bumped when the pixels that a geometry stands for change, or what a key is made of.
_FORMAT = 2


@dataclass(frozen=True, slots=True)
class _Mark:
    """Written last: a folder without it is half-made. `checksums` are CRC-32, one a picture."""

    shape: tuple[int, int, int, int]
    checksums: tuple[int, ...]


class DecodedStore:
    """All pictures of a data set in one geometry, read-only, on disk."""

    def __init__(self, file: RowFile, shape: tuple[int, int, int, int], key: str) -> None:
        self._file = file
        self._shape = shape
        self.key = key

    @classmethod
    def open(
        cls,
        dataset: Dataset,
        geometry: Geometry,
        cache: Path,
        pixel_cache: PixelCache = NO_CACHE,
        steps: Steps = SILENT,
    ) -> DecodedStore:
        """Open the stored pictures, decoding them first where they are missing or damaged.

        A store belongs to the content of the picture files, in this order, whatever they are
        called, labelled or grouped.

        Raises:
            DataError: a picture is gone or has changed since it was read.
        """
        content = [picture.sha256 for picture in dataset.pictures]
        key = fingerprint_of((_FORMAT, content, asdict(geometry)))
        folder = cache / "decoded" / key
        store = cls._read(folder, key)
        if store is None:
            with locked(folder.with_suffix(".lock")):
                store = cls._read(folder, key)  # another process may have been first
                if store is None:
                    _build(dataset, geometry, folder, pixel_cache, steps)
                    store = cls._read(folder, key)
            if store is None:
                raise OSError(f"{folder}: what was just written cannot be read back")
        return store

    @property
    def image_size(self) -> int:
        return self._shape[1]

    def read(self, indices: Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Return some pictures as a new array: (len(indices), S, S, 3), uint8."""
        return self._file.read(indices).reshape(-1, *self._shape[1:])

    @classmethod
    def _read(cls, folder: Path, key: str) -> DecodedStore | None:
        """Open a finished store; None when it is missing, short or altered."""
        try:
            mark = from_json((folder / _MARK).read_bytes(), _Mark)
            file = RowFile(folder / _ARRAY, rows=mark.shape[0], row_bytes=math.prod(mark.shape[1:]))
        except (OSError, ValueError):
            return None
        checksums = (zlib.crc32(image) for block in file.blocks() for image in block)
        if not file.is_whole() or tuple(checksums) != mark.checksums:
            file.close()
            return None
        return cls(file, mark.shape, key)


def _build(
    dataset: Dataset, geometry: Geometry, folder: Path, pixel_cache: PixelCache, steps: Steps
) -> None:
    """Write into a sibling folder that takes its name when it is whole.

    Raises:
        DataError: a picture is gone or has changed since it was read.
    """
    part = folder.with_suffix(".part")
    for leftover in (part, folder):
        shutil.rmtree(leftover, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        _write(dataset, geometry, part, pixel_cache, steps)
        part.rename(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)  # a disk that it filled has room again
        raise


def _write(
    dataset: Dataset, geometry: Geometry, folder: Path, pixel_cache: PixelCache, steps: Steps
) -> None:
    size, pictures = geometry.image_size, dataset.pictures
    shape = (len(pictures), size, size, 3)
    row_bytes = math.prod(shape[1:])
    with (folder / _ARRAY).open("wb") as file:

        def decode(index: int) -> int:
            path = dataset.picture_path(index)
            fault = None if pixel_cache.keeps(path) else fault_of(path, pictures[index].sha256)
            if fault is not None:
                # Under its old content's key it would pass for that ever after.
                raise DataError(f"{path} {fault}: put the picture back, or begin a new study")
            try:
                image = fit(pixel_cache.open(path), geometry)
            except PictureError as error:
                raise DataError(f"{error}: put the picture back, or begin a new study") from error
            if os.pwrite(file.fileno(), image.data, index * row_bytes) != row_bytes:
                raise OSError(errno.ENOSPC, "the disk took only a part of a picture", file.name)
            return zlib.crc32(image.data)

        steps.begin(f"storing {counted(shape[0], 'picture')} at {size} x {size} pixels", shape[0])
        checksums = []
        with ThreadPoolExecutor() as pool:
            for checksum in pool.map(decode, range(shape[0])):
                checksums.append(checksum)
                steps.advance()
        os.fsync(file.fileno())
    write_atomic(folder / _MARK, to_json(_Mark(shape, tuple(checksums))))
