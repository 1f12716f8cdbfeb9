"""Small sets of invented spectrogram pictures whose duplicates are known, because they are planted.

A style fixes tempo, drums and scale; a recording of it has its own melody. So clean pictures of
one style resemble one another as those of real music do.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from bench.data.spectrograms import SPECTROGRAM_BOX, render_gtzan_picture

Spectrogram = npt.NDArray[np.float64]

BANDS, FRAMES = 128, 600
STYLES = ("march", "reel", "waltz")
_BEATS = (23, 29, 37)  # frames


def recording(style: int, seed: int, frames: int = 2 * FRAMES) -> Spectrogram:
    """Invent a recording of a style, in decibels: (128, frames) in [-80, 0]."""
    common, own = np.random.default_rng(style), np.random.default_rng([style, seed])
    beat = _BEATS[style % len(_BEATS)]
    power = 10 ** ((own.normal(-68, 3, (BANDS, frames)) - np.arange(BANDS)[:, None] * 0.05) / 10)
    drums = common.random((4, 3)) < 0.6
    scale = np.sort(common.choice(np.arange(8, 50), 9, replace=False))
    for start in range(int(own.integers(0, beat)), frames, beat):
        length = min(beat, frames - start)
        here, at = slice(start, start + length), np.arange(length)
        for drum in np.flatnonzero(drums[start // beat % 4]):
            bands = slice(45 * drum, 45 * drum + 8)
            power[bands, here] += 10 ** own.uniform(-4.0, -3.0) * np.exp(-at / 3)
        for note in own.choice(scale, 2):
            late = int(own.integers(0, 6))
            held = np.where(at < late, 0, np.exp(-(at - late) / own.uniform(6, 40)))
            loudness = 10 ** own.uniform(-2.2, -0.6)
            for harmonic in (1, 2, 3, 4):
                band = int(note * (1 + 0.55 * np.log2(harmonic)))
                power[band : band + 2, here] += loudness / harmonic**2 * held
    decibels = 10 * np.log10(power / power.max())
    return np.asarray(np.clip(decibels, -80, 0))


def draw(spectrogram: Spectrogram, start: int = 0) -> Image.Image:
    """Draw `FRAMES` frames without the white frame: 336 x 218 pixels."""
    return render_gtzan_picture(spectrogram[:, start : start + FRAMES]).crop(SPECTROGRAM_BOX)


# --- what is planted ------------------------------------------------------------------------


def png(picture: Image.Image) -> bytes:
    return _saved(picture, "PNG", compress_level=1)


def jpeg(picture: Image.Image) -> bytes:
    return _saved(picture, "JPEG", quality=60)


def _saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def brightened(picture: Image.Image) -> Image.Image:
    return picture.point(lambda value: min(255, round(1.08 * value + 6)))


def cropped(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Cut 3 to 8 % off each side and stretch the rest over the same pixels."""
    left, top, right, bottom = rng.uniform(0.03, 0.08, 4)
    width, height = picture.size
    box = (left * width, top * height, (1 - right) * width, (1 - bottom) * height)
    return picture.resize(picture.size, Image.Resampling.BICUBIC, box)


Plant = Callable[[Spectrogram, np.random.Generator], tuple[bytes, str]]

PLANTS: dict[str, Plant] = {
    "identical": lambda sound, rng: (png(draw(sound)), ".png"),
    "re-encoded": lambda sound, rng: (jpeg(draw(sound)), ".jpg"),
    "brightened": lambda sound, rng: (png(brightened(draw(sound))), ".png"),
    "cropped": lambda sound, rng: (png(cropped(draw(sound), rng)), ".png"),
    "shifted": lambda sound, rng: (
        png(draw(sound, int(rng.uniform(0.1, 0.5) * FRAMES))),
        ".png",
    ),
}


@dataclass
class PlantedSet:
    """A folder of pictures; `pairs` maps each planted pair of paths to what was done."""

    folder: Path
    pairs: dict[frozenset[str], str] = field(default_factory=dict)


def plant(
    folder: Path, *, recordings: int, each: int, styles: int = len(STYLES), seed: int = 0
) -> PlantedSet:
    """Write `recordings` pictures of every style, and `each` duplicates of every kind."""
    rng = np.random.default_rng(seed)
    made = PlantedSet(folder)
    names = [STYLES[k] if k < len(STYLES) else f"style{k}" for k in range(styles)]
    sources = [(style, number) for style in range(styles) for number in range(recordings)]
    for style, number in sources:
        _write(folder / names[style] / f"{number:05d}.png", png(draw(_sound(style, number, seed))))
    chosen = iter(rng.permutation(len(sources)))
    for kind, make in PLANTS.items():
        for copy in range(each):
            style, number = sources[int(next(chosen))]
            data, suffix = make(_sound(style, number, seed), rng)
            path = f"{names[style]}/{kind}{copy:05d}{suffix}"
            _write(folder / path, data)
            made.pairs[frozenset((f"{names[style]}/{number:05d}.png", path))] = kind
    return made


def _sound(style: int, number: int, seed: int) -> Spectrogram:
    return recording(style, number + 100_000 * seed)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
