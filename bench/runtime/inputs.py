"""What is fed to a model that is timed: random pixels, or a picture made up for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from bench.errors import ModelFileError
from bench.runtime.preprocess import Geometry

SEED = 20_111
_COLOURS = (1, 3, 4)
_DTYPES: dict[str, npt.DTypeLike] = {
    "tensor(uint8)": np.uint8,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
}


def random_input(
    session: Any, batch_size: int, image_size: int | None = None
) -> dict[str, npt.NDArray[Any]]:
    """Random pixels for the session's only input, the same in every process.

    image_size: height and width where the model leaves them open.

    Raises:
        ModelFileError: there are several inputs, one of another type or shape, or one fixed
            at another size.
    """
    inputs = session.get_inputs()
    if len(inputs) != 1:
        names = ", ".join(item.name for item in inputs)
        raise ModelFileError(f"a picture classifier has one input, this model has {names}")
    (item,) = inputs
    if item.type not in _DTYPES:
        known = ", ".join(_DTYPES)
        raise ModelFileError(f"input `{item.name}` must be one of {known}, not {item.type}")
    shape = concrete_shape(item.name, item.shape, batch_size, image_size)
    return {item.name: random_pixels(shape, _DTYPES[item.type])}


def random_pixels(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """0..255 where `dtype` is uint8, otherwise 0..1; the same at every call."""
    generator = np.random.default_rng(SEED)
    if dtype == np.uint8:
        return generator.integers(0, 256, shape, dtype=np.uint8)
    return generator.random(shape, dtype=np.float32).astype(dtype)


def concrete_shape(
    name: str, shape: Sequence[int | str | None], batch_size: int, image_size: int | None
) -> tuple[int, ...]:
    """The shape of a batch of pictures, (N, C, H, W) or (N, H, W, C), with no dimension open.

    Raises:
        ModelFileError: the input is no batch of pictures, is fixed at another batch or size, or
            leaves open what nobody said.
    """
    colours = _colour_axis(name, shape)
    batch, *rest = shape
    if isinstance(batch, int) and batch != batch_size:
        raise ModelFileError(
            f"input `{name}` is fixed at batch {batch}, so it cannot be measured at "
            f"{batch_size}: ask for {batch}, or export with a dynamic batch"
        )
    sides = [size for axis, size in enumerate(rest, start=1) if axis != colours]
    fixed = [size for size in sides if isinstance(size, int)]
    if len(fixed) < len(sides) and image_size is None:
        raise ModelFileError(
            f"input `{name}` has shape {list(shape)}, which leaves height or width open: say the "
            "side in pixels with --image-size"
        )
    if image_size is not None and any(size != image_size for size in fixed):
        raise ModelFileError(
            f"input `{name}` has shape {list(shape)}, so its pictures cannot be of {image_size} "
            "pixels: leave --image-size out"
        )
    return (batch_size, *(size if isinstance(size, int) else int(image_size or 0) for size in rest))


def _colour_axis(name: str, shape: Sequence[int | str | None]) -> int:
    if len(shape) == 4:
        for axis in (1, 3):
            if shape[axis] in _COLOURS:
                return axis
    raise ModelFileError(
        f"input `{name}` must be a batch of pictures, (N, C, H, W) or (N, H, W, C) with C one of "
        f"{', '.join(map(str, _COLOURS))}; its shape is {list(shape)}"
    )


def made_picture(geometry: Geometry, folder: Path) -> Path:
    """Write a picture as large as the geometry's crop reaches, otherwise as its resizing starts.

    Colour gradients under a little noise, so that decoding costs about what a photograph's or a
    spectrogram's does, and not what pure noise would. PNG for pictures that are squashed
    (spectrograms), JPEG for those that are cut to their centre (photographs).
    """
    if geometry.crop is not None:
        width, height = geometry.crop[2], geometry.crop[3]
    elif geometry.resize == "squash":
        width = height = geometry.image_size
    else:
        width = height = int(geometry.image_size / geometry.crop_pct)
    noise = np.random.default_rng(SEED).integers(0, 24, (height, width, 3))
    ramp_hw = np.add.outer(np.linspace(0, 115, height), np.linspace(0, 115, width))
    pixels = (noise + np.stack([ramp_hw, ramp_hw[::-1], ramp_hw[:, ::-1]], axis=2)).astype(np.uint8)
    file = folder / ("picture.png" if geometry.resize == "squash" else "picture.jpg")
    Image.fromarray(pixels).save(file)
    return file
