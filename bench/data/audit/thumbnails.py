"""Every picture once, small and grey, with what else is asked of it measured on the way.

Shapes: N pictures, H = 32 rows, W = 128 columns; columns are time in a spectrogram.
S pixels on either side of a picture of which features are made, F features.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops

from bench.data.pixel_cache import NO_CACHE, PixelCache
from bench.errors import DataError
from bench.records import Dataset
from bench.runtime.preprocess import Geometry, PictureError, fit
from bench.steps import SILENT, Steps
from bench.words import counted
from bench.workspace import usable_cores

ROWS, COLUMNS = 32, 128

Floats = npt.NDArray[np.float32]
Greys = npt.NDArray[np.uint8]
Colours = npt.NDArray[np.uint8]

# Grey levels within which the pixels of a frame may differ: JPEG smears its edges.
_FRAME_TOLERANCE = 8
_IS_OFF = [255 * (level > _FRAME_TOLERANCE) for level in range(256)] * 3

# Pictures that a thread makes small, and features of, at a time.
_BLOCK = 32


@dataclass(frozen=True, slots=True)
class Features:
    """Numbers that describe pictures; `name` says what they are.

    `compute` makes (N, F) of (N, S, S, 3) uint8 pictures that were cut by the data set's crop and
    then fitted to `geometry`. Several threads call it at the same time, a thread a core, so a call
    should take no more than its own.
    """

    name: str
    geometry: Geometry
    compute: Callable[[Colours], Floats]


@dataclass(frozen=True, slots=True)
class Thumbnails:
    """`frames_nf`: width of the plain border left, top, right, bottom (px), then its colour.

    `features_nf` are those that were asked for.
    """

    grey_nhw: Greys
    frames_nf: Floats
    features_nf: Floats | None = None

    def flat_nf(self) -> Floats:
        """The grey levels of each picture in one row, in [0, 1]."""
        flat: Floats = self.grey_nhw.reshape(len(self.grey_nhw), -1).astype(np.float32)
        return flat / np.float32(255)


def make_thumbnails(
    dataset: Dataset,
    features: Features | None = None,
    steps: Steps = SILENT,
    pixel_cache: PixelCache = NO_CACHE,
) -> Thumbnails:
    """Open all pictures; what the data set's crop cuts off is not in the small ones.

    Raises:
        DataError: a picture that could be read before can no longer be.
    """
    count = len(dataset.pictures)
    grey_nhw = np.empty((count, ROWS, COLUMNS), dtype=np.uint8)
    frames_nf = np.empty((count, 7), dtype=np.float32)

    def reduce(index: int) -> Colours | None:
        try:
            image = pixel_cache.open(dataset.picture_path(index))
            inside = image.crop(dataset.crop) if dataset.crop else image
            colours = fit(inside, features.geometry) if features else None
        except PictureError as error:
            raise DataError(f"{error}: put the picture back and check again") from error
        frames_nf[index] = _plain_frame(image)
        grey = inside.convert("L").resize((COLUMNS, ROWS), Image.Resampling.BOX)
        grey_nhw[index] = np.asarray(grey)
        return colours

    def reduce_all(block: npt.NDArray[np.int64]) -> Floats | None:
        reduced = [reduce(index) for index in block.tolist()]
        colours = [picture for picture in reduced if picture is not None]
        return features.compute(np.stack(colours)) if features else None

    # Of one size, but for a picture: libraries compute a lone one in another way.
    blocks = np.array_split(np.arange(count), math.ceil(count / _BLOCK))
    steps.begin(f"making {counted(count, 'picture')} small", len(blocks))
    computed = []
    with ThreadPoolExecutor(usable_cores()) as pool:
        for features_nf in pool.map(reduce_all, blocks):
            if features_nf is not None:
                computed.append(features_nf)
            steps.advance()
    return Thumbnails(grey_nhw, frames_nf, np.concatenate(computed) if features else None)


def _plain_frame(picture: Image.Image) -> Floats:
    """Measure how far the colour of the corner reaches in from each side."""
    corner = np.asarray(picture.crop((0, 0, 1, 1)))[0, 0]
    plain = Image.new("RGB", picture.size, tuple(corner.tolist()))
    # Pillow's own loops: ten times faster than arrays of wider integers.
    off = ImageChops.difference(picture, plain).point(_IS_OFF)
    box = off.getbbox()
    if box is None:
        return np.asarray([0, 0, 0, 0, *corner], dtype=np.float32)
    left, top, right, bottom = box
    sides = (left, top, picture.width - right, picture.height - bottom)
    # Without a border there is no colour of one: the corner's is the picture's own.
    colour = corner if any(sides) else (-1, -1, -1)
    return np.asarray([*sides, *colour], dtype=np.float32)
