"""Open every picture of a data set once.

So a broken one is known before anything is trained, and the frame that all pictures share is found
in the same pass. What was found can be kept, by the files' content.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image

from bench.data.frame import FrameFinder
from bench.data.pixel_cache import NO_CACHE, PixelCache
from bench.data.sources import DEMO_MARKER, Listing, dataset_name, list_source
from bench.errors import DataError
from bench.records import Box, BrokenPicture, Dataset, Picture, fingerprint_of, from_json, to_json
from bench.runtime.preprocess import PictureError, open_rgb
from bench.words import counted, some
from bench.workspace import write_atomic

_NO_SUCH_FILE = "no such file"
_CHUNK = 64
# Raised whenever the same files are read as something else.
_VERSION = 1

CropChoice = Literal["auto", "none"] | Box


def parse_crop(text: str) -> CropChoice:
    """Read `auto`, `none` or `LEFT,TOP,RIGHT,BOTTOM` in pixels.

    Raises:
        DataError: anything else, or a box without an inside.
    """
    if text == "auto":
        return "auto"
    if text == "none":
        return "none"
    numbers = text.split(",")
    if len(numbers) == 4 and all(number.strip().isdecimal() for number in numbers):
        left, top, right, bottom = (int(number) for number in numbers)
        if left < right and top < bottom:
            return left, top, right, bottom
    raise DataError(
        f"--crop takes auto, none, or LEFT,TOP,RIGHT,BOTTOM in pixels with left < right and "
        f"top < bottom, not {text!r}"
    )


@dataclass(frozen=True, slots=True)
class _Seen:
    """A picture that could be decoded: `width` and `height` in pixels, `mode` as it is stored."""

    width: int
    height: int
    mode: str


@dataclass(frozen=True, slots=True)
class _Reading:
    """What the files of a listing are, in its order.

    digests: SHA-256 of each, empty where there is no file.
    files: what is in each, or why it is no picture.
    frame_box: what lies inside the frame that all pictures share, if they share one.
    """

    digests: tuple[str, ...]
    files: tuple[_Seen | str, ...]
    frame_box: Box | None


def load_dataset(
    path: str | Path,
    *,
    crop: CropChoice = "auto",
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """List a picture folder, a GTZAN folder or a CSV manifest, and read its pictures.

    Raises:
        DataError: nothing usable is there; the message names the remedy.
    """
    return read_pictures(list_source(path), crop=crop, threads=threads, progress=progress)


def read_pictures(
    listing: Listing,
    *,
    crop: CropChoice = "auto",
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    pixel_cache: PixelCache = NO_CACHE,
    kept: Path | None = None,
) -> Dataset:
    """Open every listed picture once.

    `progress` hears how many pictures are read, and of how many; `pixel_cache` keeps what they
    were decoded to; `kept` is a folder that keeps what was found: files that were all read before
    are only compared with what they were, and not decoded.

    Raises:
        DataError: no picture of a class can be decoded, or `crop` does not fit.
    """
    heard = progress or (lambda _done, _all: None)
    reading = _kept_reading(listing, kept, threads, heard)
    if reading is None:
        reading = _decode_all(listing, threads, heard, pixel_cache)
        _keep(reading, kept)
    return _as_dataset(listing, reading, crop)


def _as_dataset(listing: Listing, reading: _Reading, crop: CropChoice) -> Dataset:
    labels = listing.labels
    label_index = {label: index for index, label in enumerate(labels)}
    pictures: list[Picture] = []
    broken: list[BrokenPicture] = []
    for item, sha256, seen in zip(listing.pictures, reading.digests, reading.files, strict=True):
        if isinstance(seen, str):
            broken.append(BrokenPicture(path=item.path, reason=seen))
            continue
        pictures.append(
            Picture(
                path=item.path,
                label=label_index[item.label],
                sha256=sha256,
                width=seen.width,
                height=seen.height,
                mode=seen.mode,
                group=item.group,
                given_split=item.given_split,
            )
        )
    readable = {picture.label for picture in pictures}
    if len(readable) < len(labels):
        gone = [name for index, name in enumerate(labels) if index not in readable]
        raise DataError(_why_classes_are_gone(listing, gone, broken))
    box = reading.frame_box if crop == "auto" else None if crop == "none" else crop
    if box is not None:
        _check_box(box, pictures)
    return Dataset(
        name=dataset_name(listing.source),
        root=str(listing.root),
        kind=listing.kind,
        classes=labels,
        pictures=tuple(pictures),
        broken=tuple(broken),
        crop=box,
        synthetic=_is_demo(listing.root),
    )


# --- decoding -------------------------------------------------------------------------------


def _decode_all(
    listing: Listing,
    threads: int | None,
    progress: Callable[[int, int], None],
    pixel_cache: PixelCache,
) -> _Reading:
    paths = [listing.root / item.path for item in listing.pictures]
    chunks = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]
    digests: list[str] = []
    files: list[_Seen | str] = []
    frame = FrameFinder()
    with ThreadPoolExecutor(threads) as pool:
        decode = partial(_decode_chunk, pixel_cache=pixel_cache)
        for found, frame_of_chunk in pool.map(decode, chunks):
            for digest, seen in found:
                digests.append(digest)
                files.append(seen)
            frame.merge(frame_of_chunk)
            progress(len(files), len(paths))
    return _Reading(tuple(digests), tuple(files), frame.box())


def _decode_chunk(
    paths: Sequence[Path], *, pixel_cache: PixelCache
) -> tuple[list[tuple[str, _Seen | str]], FrameFinder]:
    found: list[tuple[str, _Seen | str]] = []
    frame = FrameFinder()
    for path in paths:
        digest = ""
        try:
            data = path.read_bytes()
            digest = hashlib.sha256(data).hexdigest()
            mode, pixels = _decode(data)
        except (PictureError, OSError) as error:
            missing = isinstance(error, FileNotFoundError)
            reason = _NO_SUCH_FILE if missing else str(error).removeprefix("these bytes: ")
            found.append((digest, reason))
            continue
        pixel_cache.keep(path, pixels)
        frame.add(pixels)
        found.append((digest, _Seen(pixels.shape[1], pixels.shape[0], mode)))
    return found, frame


def _decode(data: bytes) -> tuple[str, npt.NDArray[np.uint8]]:
    """Return the stored mode and the upright (H, W, 3) uint8 pixels."""
    rgb = open_rgb(data)
    with Image.open(io.BytesIO(data)) as header:
        return header.mode, np.asarray(rgb)


# --- keeping --------------------------------------------------------------------------------


def _keep(reading: _Reading, folder: Path | None) -> None:
    """Keep what was found, unless a file could not even be read."""
    if folder is not None and all(reading.digests):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(_file_of(folder, reading.digests), to_json(reading))


def _kept_reading(
    listing: Listing,
    folder: Path | None,
    threads: int | None,
    progress: Callable[[int, int], None],
) -> _Reading | None:
    """What was found when exactly these files, in this order, were decoded before."""
    if folder is None or not folder.is_dir():
        return None
    digests: list[str] = []
    paths = [listing.root / item.path for item in listing.pictures]
    try:
        with ThreadPoolExecutor(threads) as pool:
            for digest in pool.map(_digest_of, paths):
                digests.append(digest)
                progress(len(digests), len(paths))
        return from_json(_file_of(folder, digests).read_bytes(), _Reading)
    except (OSError, msgspec.DecodeError):
        return None  # decoding tells what is wrong, and makes a damaged record again


def _digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _file_of(folder: Path, digests: Sequence[str]) -> Path:
    # Another Pillow may decode other files, or to other pixels.
    return folder / f"{fingerprint_of((_VERSION, PIL.__version__, digests))}.json"


def _why_classes_are_gone(
    listing: Listing, gone: Sequence[str], broken: Sequence[BrokenPicture]
) -> str:
    """Say of the classes without a readable picture what is wrong with their files."""
    of_class = {picture.path: picture.label for picture in listing.pictures}
    unread = [each for each in broken if of_class[each.path] in gone]
    # Paths that lead nowhere are usually one mistake, which is in the manifest.
    unread.sort(key=lambda each: each.reason != _NO_SUCH_FILE)
    first, others = unread[0], len(unread) - 1
    what, mend = f"{first.path}: {first.reason}", "mend the files or remove the class"
    if listing.kind == "csv":
        if first.reason == _NO_SUCH_FILE:
            what += f" (paths are relative to {listing.root})"
        mend = "mend the paths and files, or take the rows out"
    if others:
        what += f"; nor can {counted(others, 'other file')} be read"
    return f"{listing.source}: no picture of {some(gone)} can be read: {what}; {mend}"


def _check_box(box: Box, pictures: Sequence[Picture]) -> None:
    small = [
        f"{picture.path} ({picture.width}x{picture.height} pixels)"
        for picture in pictures
        if picture.width < box[2] or picture.height < box[3]
    ]
    if small:
        raise DataError(
            f"--crop {','.join(map(str, box))} reaches beyond {some(small)}: give a box that lies "
            "within every picture, or --crop none"
        )


def _is_demo(root: Path) -> bool:
    for folder in (root, root.parent):
        marker = folder / DEMO_MARKER
        if marker.is_file():
            try:
                content = json.loads(marker.read_bytes())
            except ValueError:
                continue  # another program's file
            return isinstance(content, dict) and content.get("synthetic") is True
    return False
