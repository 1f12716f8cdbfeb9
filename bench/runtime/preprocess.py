"""From a picture's bytes to the array that the network sees, with Pillow and numpy alone.

Training and prediction both come through here, so they see the same pixels to the last bit.

Shapes: H and W are pixels, C is 3 (red, green, blue), N counts pictures.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

PictureSource = str | Path | bytes | Image.Image | npt.NDArray[np.uint8]

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})

MOST_RESIZED_PIXELS = 100_000_000  # 300 MB; a 4096-pixel input leaves room for sides of 1 to 4

_RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


# What turns a stored picture upright, by its EXIF orientation; 1 is upright already.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class PictureError(ValueError):
    """A picture that cannot be decoded or does not fit the geometry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """How a decoded picture becomes `image_size` x `image_size` pixels.

    crop: (left, top, right, bottom) in source pixels, cut first; None keeps everything.
    resize: "squash" scales both sides to `image_size` and loses nothing (spectrograms);
        "center-crop" scales the short side to `floor(image_size / crop_pct)` and cuts the
        middle, bit-exact with timm's evaluation transform (photographs).
    """

    image_size: int
    crop: tuple[int, int, int, int] | None = None
    resize: Literal["squash", "center-crop"] = "squash"
    crop_pct: float = 0.875
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"


def open_rgb(source: PictureSource) -> Image.Image:
    """Decode a picture as upright 8-bit RGB.

    EXIF orientation is applied, 16-bit grey is scaled to 8 bits (not clipped), palettes are
    resolved, and an alpha channel is dropped. An array is taken as H x W x 3 or H x W, uint8.

    Raises:
        PictureError: the bytes are not a picture that can be decoded whole.
    """
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8:
            raise PictureError(f"an array must hold uint8 pixels, this one holds {source.dtype}")
        if source.ndim not in (2, 3) or (source.ndim == 3 and source.shape[2] != 3):
            raise PictureError(
                f"an array must have shape (H, W) or (H, W, 3), this one has {source.shape}"
            )
        if source.size == 0:
            raise PictureError(f"an array must hold a pixel at least, this one has {source.shape}")
        return Image.fromarray(source).convert("RGB")
    try:
        if isinstance(source, Image.Image):  # which may be decoded here for the first time
            return _upright_rgb(source)
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            return _upright_rgb(image)
    except FileNotFoundError as error:
        raise PictureError(f"no such file: {source!s}") from error
    except MemoryError:  # says nothing of the picture
        raise
    except Exception as error:  # the errors of Pillow's decoders share no base but Exception
        name = _name_of(source)
        # Pillow's own text names an object in memory when the source is bytes.
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "of no known format" if unknown else str(error)
        raise PictureError(f"{name}: not a picture that can be decoded ({reason})") from error


def _name_of(source: str | Path | bytes | Image.Image) -> str:
    if isinstance(source, bytes):
        return "these bytes"
    return "this image" if isinstance(source, Image.Image) else str(source)


def _upright_rgb(image: Image.Image) -> Image.Image:
    image.load()
    # Not `ImageOps.exif_transpose`: it writes all tags anew, and fails at an odd one.
    turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    upright = image.copy() if turn is None else image.transpose(turn)
    if upright.mode == "F":
        raise PictureError("floating-point pixels have no fixed range: save as 8 or 16 bits")
    if upright.mode == "I" or upright.mode.startswith("I;16"):
        # Pillow's own conversion clips at 255, which turns nearly every 16-bit picture white.
        wide = np.asarray(upright, dtype=np.int64)
        is_16_bit = upright.mode != "I" or wide.max(initial=0) > 255
        scaled = wide >> 8 if is_16_bit else wide
        upright = Image.fromarray(np.clip(scaled, 0, 255).astype(np.uint8))
    if upright.mode == "P" and isinstance(upright.info.get("transparency"), bytes):
        # Pillow warns when it drops a palette's alpha in one step; the colours are the same.
        upright = upright.convert("RGBA")
    return upright if upright.mode == "RGB" else upright.convert("RGB")


def fit(image: Image.Image, geometry: Geometry) -> npt.NDArray[np.uint8]:
    """Crop and resize an RGB picture to a (image_size, image_size, 3) uint8 array.

    Raises:
        PictureError: the crop box reaches beyond the picture, or the picture is so narrow that
            its long side, scaled with the short one, would not fit in memory.
    """
    if geometry.crop is not None:
        left, top, right, bottom = geometry.crop
        if right > image.width or bottom > image.height:
            raise PictureError(
                f"the crop box {geometry.crop} reaches beyond a picture of "
                f"{image.width}x{image.height} pixels: the model was trained on pictures with that "
                f"frame, of at least {right}x{bottom} pixels; give pictures made in the same way"
            )
        image = image.crop((left, top, right, bottom))
    size = geometry.image_size
    resample = _RESAMPLING[geometry.interpolation]
    if geometry.resize == "squash":
        return np.asarray(image.resize((size, size), resample))
    short = int(size / geometry.crop_pct)
    scale_long = int(short * max(image.size) / min(image.size))
    if short * scale_long > MOST_RESIZED_PIXELS:
        raise PictureError(
            f"a picture of {image.width}x{image.height} pixels is too narrow to be scaled to a "
            f"short side of {short}"
        )
    wide = image.width >= image.height
    resized = image.resize((scale_long, short) if wide else (short, scale_long), resample)
    left = round((resized.width - size) / 2)
    top = round((resized.height - size) / 2)
    return np.asarray(resized.crop((left, top, left + size, top + size)))


def prepare(source: PictureSource, geometry: Geometry) -> npt.NDArray[np.uint8]:
    """Decode, crop and resize one picture: (image_size, image_size, 3), uint8.

    Raises:
        PictureError: the picture cannot be decoded or does not fit the geometry.
    """
    return fit(open_rgb(source), geometry)
