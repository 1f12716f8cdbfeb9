"""What is known of a backbone before it is built: its network, geometry and normalisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import timm

from bench.errors import InputError, did_you_mean
from bench.models.names import check_backbone_name
from bench.records import Box, ResizeRule
from bench.runtime.preprocess import Geometry


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneSpec:
    """A backbone's facts, from timm's `pretrained_cfg` and never from constants of our own.

    `mean` and `std` normalise pixels scaled to 0..1, one number a colour.
    """

    name: str
    architecture: str
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop_pct: float
    interpolation: Literal["bilinear", "bicubic"]
    license: str | None
    fixed_input_size: bool = False  # built for one size of pictures, such as a ViT

    def geometry(self, *, image_size: int | None, crop: Box | None, resize: ResizeRule) -> Geometry:
        """How pictures are brought to this backbone's input."""
        return Geometry(
            image_size=image_size or self.image_size,
            crop=crop,
            resize=resize,
            crop_pct=self.crop_pct,
            interpolation=self.interpolation,
        )


def describe_backbone(name: str) -> BackboneSpec:
    """Look a backbone up by its short name or its timm name.

    Raises:
        InputError: timm does not know it.
    """
    architecture = check_backbone_name(name)
    try:
        config = timm.get_pretrained_cfg(architecture)
    except RuntimeError as error:
        tags = timm.list_pretrained(f"{architecture.partition('.')[0]}.*")
        raise InputError(
            f"unknown backbone {name!r}{did_you_mean(architecture, tags)}: timm has no such "
            f"weights; known are {', '.join(tags) or 'none'}"
        ) from error
    if config is None:
        raise InputError(f"timm describes no input size for {name!r}: choose another backbone")
    known = config.interpolation in ("bilinear", "bicubic")
    return BackboneSpec(
        name=name,
        architecture=architecture,
        image_size=int(config.input_size[-1]),
        mean=cast(tuple[float, float, float], tuple(config.mean)),
        std=cast(tuple[float, float, float], tuple(config.std)),
        crop_pct=float(config.crop_pct),
        interpolation=config.interpolation if known else "bicubic",
        license=config.license,
        fixed_input_size=bool(config.fixed_input_size),
    )
