"""Augmentation in batches, as a pure function of (seed, picture, view number).

The same picture under the same view is the same tensor in every fold, trial and process, however
a batch is put together: that is what allows activations of frozen layers to be stored.

Shapes: N pictures, C = 3 colours, H and W pixels. W is time and H is frequency in a spectrogram.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from bench.records import Family, Policy

Uniforms = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpectrogramStrength:
    """How far a spectrogram may be altered; every number is a share of the picture's side.

    Frequency is never flipped and colour never touched: both carry the signal.
    """

    roll: float  # shift in time, wrapping round
    crop: float  # most that is cut away in time before stretching back
    time_mask: float
    frequency_mask: float
    masks: int  # bands of each kind (SpecAugment: Park et al., 2019)


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoStrength:
    """How far a photograph may be altered."""

    flip: bool
    crop: float  # most of the side that is cut away
    rotation_deg: float
    colour: float  # brightness, contrast and saturation factors lie within 1 +- colour


_SPECTROGRAM: dict[Policy, SpectrogramStrength] = {
    "light": SpectrogramStrength(
        roll=0.25, crop=0.10, time_mask=0.05, frequency_mask=0.05, masks=1
    ),
    "medium": SpectrogramStrength(
        roll=0.50, crop=0.20, time_mask=0.10, frequency_mask=0.10, masks=1
    ),
    "strong": SpectrogramStrength(
        roll=0.50, crop=0.30, time_mask=0.15, frequency_mask=0.15, masks=2
    ),
}

_PHOTO: dict[Policy, PhotoStrength] = {
    "light": PhotoStrength(flip=True, crop=0.10, rotation_deg=0.0, colour=0.1),
    "medium": PhotoStrength(flip=True, crop=0.25, rotation_deg=10.0, colour=0.2),
    "strong": PhotoStrength(flip=True, crop=0.40, rotation_deg=20.0, colour=0.4),
}


def strengths(family: Family) -> str:
    """All numbers that the policies of a family go by, to know when they have changed."""
    return repr(_SPECTROGRAM if family == "spectrogram" else _PHOTO)


def augment(
    images_nhwc: torch.Tensor,
    pictures: npt.NDArray[np.int64],
    *,
    family: Family,
    policy: Policy,
    view: int,
    seed: int,
) -> torch.Tensor:
    """Return pictures as (N, C, H, W) float32 in 0..255, altered as the policy says.

    Args:
        images_nhwc: (N, H, W, C) uint8, on any device; the work is done there.
        pictures: (N,) indices into the data set; they and `view` fix all random numbers.
        family: which operations are meaningful.
        policy: "none" only changes the layout and type.
        view: which of the endless variations of a picture; epoch e uses view e.
        seed: the study's seed.
    """
    if policy == "none":
        return images_nhwc.permute(0, 3, 1, 2).float()
    if family == "spectrogram":
        return _augment_spectrograms(
            images_nhwc, _SPECTROGRAM[policy], uniforms(seed, pictures, view, 11)
        )
    return _augment_photos(images_nhwc, _PHOTO[policy], uniforms(seed, pictures, view, 8))


def uniforms(seed: int, pictures: npt.NDArray[np.int64], view: int, count: int) -> Uniforms:
    """Return (N, count) numbers in [0, 1) that depend on nothing but the arguments.

    A counter-based generator (SplitMix64: Steele, Lea and Flood, 2014), so that no state is
    carried from one picture to the next.
    """
    first = np.asarray(pictures).astype(np.uint64)[:, None] << np.uint64(20)
    counter = first + np.arange(count, dtype=np.uint64)[None, :]
    with np.errstate(over="ignore"):
        key = _mix(_mix(np.asarray(seed, dtype=np.uint64)) + np.uint64(view))
        bits: npt.NDArray[np.uint64] = _mix(_mix(counter) ^ key)
    return (bits >> np.uint64(11)).astype(np.float64) / float(1 << 53)


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


# --- spectrograms ---------------------------------------------------------------------------


def _augment_spectrograms(
    images_nhwc: torch.Tensor, strength: SpectrogramStrength, u: Uniforms
) -> torch.Tensor:
    """Roll and crop in time (one interpolation for both), then mask bands of time and frequency."""
    _, height, width, _ = images_nhwc.shape
    device = images_nhwc.device
    # Summed as integers, so that the mean does not depend on the order of addition.
    means_n = images_nhwc.sum(dim=(1, 2, 3), dtype=torch.int64).double() / (height * width * 3)
    kept = 1.0 - strength.crop * u[:, 0]
    start = (1.0 - kept) * u[:, 1] + strength.roll * (2.0 * u[:, 2] - 1.0)
    positions = start[:, None] * width + kept[:, None] * np.arange(width)
    left = np.floor(positions)
    weight = torch.from_numpy((positions - left).astype(np.float32)).to(device)
    columns = torch.from_numpy(left.astype(np.int64) % width).to(device)
    stretched = _interpolate_columns(images_nhwc.permute(0, 3, 1, 2), columns, weight)

    masked = torch.zeros(len(u), height, width, dtype=torch.bool, device=device)
    for band in range(strength.masks):
        time_place, time_size, pitch_place, pitch_size = u[:, 3 + 4 * band : 7 + 4 * band].T
        time_band = _bands(time_place, time_size, strength.time_mask, width, device)
        pitch_band = _bands(pitch_place, pitch_size, strength.frequency_mask, height, device)
        masked |= time_band[:, None, :] | pitch_band[:, :, None]
    return torch.where(masked[:, None], means_n.float()[:, None, None, None], stretched)


def _interpolate_columns(
    images_nchw: torch.Tensor, columns_nw: torch.Tensor, weight_nw: torch.Tensor
) -> torch.Tensor:
    """Sample columns at fractional positions, wrapping round at the right edge."""
    channels, height, width = images_nchw.shape[1:]

    def take(columns: torch.Tensor) -> torch.Tensor:
        index = columns[:, None, None, :].expand(-1, channels, height, -1)
        return images_nchw.gather(3, index).float()

    return torch.lerp(take(columns_nw), take((columns_nw + 1) % width), weight_nw[:, None, None, :])


def _bands(
    place: Uniforms, size: Uniforms, most: float, length: int, device: torch.device
) -> torch.Tensor:
    """Return (N, length) bool: one band a picture, at most `most` of the length wide."""
    wide = size * most * length
    start = place * (length - wide)
    ticks = np.arange(length)[None, :]
    inside = (ticks >= start[:, None]) & (ticks < (start + wide)[:, None])
    return torch.from_numpy(inside).to(device)


# --- photographs ----------------------------------------------------------------------------


def _augment_photos(
    images_nhwc: torch.Tensor, strength: PhotoStrength, u: Uniforms
) -> torch.Tensor:
    """Flip, rotate and crop (one interpolation for all), then brightness, contrast, saturation."""
    images = images_nhwc.permute(0, 3, 1, 2).float()
    device = images.device
    scale = 1.0 - strength.crop * u[:, 0]
    angle = np.deg2rad(strength.rotation_deg) * (2.0 * u[:, 1] - 1.0)
    flip = np.where((u[:, 2] < 0.5) & strength.flip, -1.0, 1.0)
    shift_x = (1.0 - scale) * (2.0 * u[:, 3] - 1.0)
    shift_y = (1.0 - scale) * (2.0 * u[:, 4] - 1.0)
    rows = [
        np.stack([flip * scale * np.cos(angle), -scale * np.sin(angle), shift_x], axis=1),
        np.stack([flip * scale * np.sin(angle), scale * np.cos(angle), shift_y], axis=1),
    ]
    theta = torch.from_numpy(np.stack(rows, axis=1).astype(np.float32)).to(device)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)

    factors = 1.0 + strength.colour * (2.0 * u[:, 5:8].astype(np.float32) - 1.0)
    brightness, contrast, saturation = (
        torch.from_numpy(factors[:, k].copy()).to(device)[:, None, None, None] for k in range(3)
    )
    bright = moved * brightness
    # Rec. 601 luma, as Pillow's own conversion to grey.
    luma = (bright * bright.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    saturated = torch.lerp(luma.expand_as(bright), bright, saturation)
    mean = _exact_mean(luma)
    return torch.lerp(mean.expand_as(saturated), saturated, contrast).clamp(0.0, 255.0)


def _exact_mean(images_nchw: torch.Tensor) -> torch.Tensor:
    """Return (N, 1, 1, 1) means that do not depend on the order of addition.

    A sum of floats changes in its last bit with the number of threads and the size of the batch;
    a sum of integers (here of 1/4096 of a grey level) does not.
    """
    steps = (images_nchw * 4096.0).round().long().sum(dim=(1, 2, 3), keepdim=True)
    return (steps.double() / (4096.0 * images_nchw[0].numel())).float()
