"""The networks of a study, and what feeds them: decoded pictures, or activations of frozen parts.

Shapes: N pictures, S pixels on either side.
"""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import timm
import torch
from torch import nn

from bench.data.store import DecodedStore
from bench.models.backbones import BackboneSpec, describe_backbone
from bench.models.staged import StagedModel, build_model
from bench.records import Recipe, StudyPlan, fingerprint_of
from bench.runtime.preprocess import Geometry
from bench.space import SearchSpace
from bench.training.activation_cache import ActivationCache
from bench.training.activations import ActivationStore, ComputedActivations, PixelSource
from bench.training.arithmetic import LAYOUTS
from bench.training.conditions import NUMERICS
from bench.training.frozen import FrozenPart
from bench.training.memory import resident_bytes
from bench.training.stored import StoredActivations
from bench.workspace import Workspace

# Of the disk for activations, what the float32 views of a policy that augments may take at a
# boundary that they are kept at only because they pass it. There are three such policies, and with
# the usual spaces two such boundaries a backbone; of more, what was used least recently goes.
_SHARE_ON_THE_WAY = 1 / 8


class StudyNetworks:
    """Builds the networks of one study, once a backbone, and opens what is stored of its pictures.

    With several `workers` on a machine each keeps its share of activations in memory.
    """

    def __init__(self, plan: StudyPlan, *, workers: int = 1) -> None:
        self.plan = plan
        self._workspace = Workspace(Path(plan.workspace))
        self._freeze_depths = SearchSpace.from_dict(plan.space).freeze_depths
        self._templates: dict[str, StagedModel] = {}
        self._images: dict[Geometry, DecodedStore] = {}
        self._frozen_parts: dict[str, FrozenPart] = {}
        self._frozen_identities: dict[str, str] = {}
        self._cache = ActivationCache(
            self._workspace.cache / "activations",
            disk_bytes=plan.cache_bytes,
            memory_bytes=resident_bytes(plan.device) // workers,
            device=plan.device,
        )

    def spec(self, backbone: str) -> BackboneSpec:
        """What is known of a backbone by its name."""
        return describe_backbone(backbone)

    def geometry(self, backbone: str) -> Geometry:
        """How the study's pictures are cut and resized for a backbone."""
        settings = self.plan.settings
        return self.spec(backbone).geometry(
            image_size=settings.image_size, crop=self.plan.dataset.crop, resize=settings.resize
        )

    def images(self, backbone: str) -> DecodedStore:
        """The decoded pictures in a backbone's geometry, opened once for all that share it.

        Raises:
            DataError: they must be decoded again, and one is gone or has changed.
        """
        geometry = self.geometry(backbone)
        if geometry not in self._images:
            self._images[geometry] = DecodedStore.open(
                self.plan.dataset, geometry, self._workspace.cache
            )
        return self._images[geometry]

    def model(self, recipe: Recipe, seed: int) -> StagedModel:
        """A fresh copy of the recipe's network on the training device, frozen as it says."""
        model = copy.deepcopy(self.template(recipe.backbone))
        model.freeze(recipe.freeze_depth, recipe.batch_norm)
        self.draw_head(model, seed)
        return model

    def draw_head(self, model: StagedModel, seed: int) -> None:
        """Set the linear layers of a classifier to the random numbers of a seed."""
        devices = [torch.cuda.current_device()] if self.plan.device == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            for module in model.classifier.modules():
                if isinstance(module, nn.Linear):
                    module.reset_parameters()

    def template(self, backbone: str) -> StagedModel:
        """A backbone as it begins, on the training device; not to be changed."""
        plan = self.plan
        if backbone not in self._templates:
            model = build_model(
                self.spec(backbone),
                plan.weights[backbone],
                classes=len(plan.dataset.classes),
                image_size=self.images(backbone).image_size,
                seed=plan.settings.seed,
            )
            layout = LAYOUTS[plan.arithmetic[backbone].channels_last]
            self._templates[backbone] = model.to(plan.device).to(memory_format=layout)
        return self._templates[backbone]

    def pixels(self, backbone: str) -> PixelSource:
        """The decoded pictures, augmented, on the training device."""
        return PixelSource(
            self.images(backbone),
            family=self.plan.settings.family,
            seed=self.plan.settings.seed,
            arithmetic=self.plan.arithmetic[backbone],
        )

    def frozen_part(self, backbone: str) -> FrozenPart:
        """Runs the parts of a backbone that its recipes freeze."""
        if backbone not in self._frozen_parts:
            self._frozen_parts[backbone] = FrozenPart(
                self.template(backbone), self.plan.arithmetic[backbone]
            )
        return self._frozen_parts[backbone]

    def activations(self, backbone: str, boundary: int) -> ActivationStore:
        """What feeds the part of a backbone behind `boundary`."""
        plan, store = self.plan, self.plan.settings.store
        pixels, frozen = self.pixels(backbone), self.frozen_part(backbone)
        pictures, elements = len(plan.split.development), frozen.elements
        # Of each number at a boundary, what a policy's views of all pictures take on the disk.
        number_bytes = (4 if store == "exact" else 2) * pictures * plan.settings.epochs
        # What one trial alone would push out again is not worth storing.
        on_disk = boundary > 0 and plan.cache_bytes >= number_bytes * elements[boundary]
        # A GPU computes again sooner what is larger than a picture.
        on_the_way = self._frozen_at(backbone, boundary, most=elements[0])
        # In memory nothing is halved, and validation's view is one more.
        kept = elements[boundary] + sum(elements[b] for b in on_the_way)
        in_memory = plan.device == "cuda" and self._cache.memory_bytes >= (
            4 * kept * pictures * (plan.settings.epochs + 1)
        )
        if not in_memory:
            most = int(_SHARE_ON_THE_WAY * plan.cache_bytes) // number_bytes
            on_the_way = self._frozen_at(backbone, boundary, most=most)
        if plan.cache_bytes == 0 or not (in_memory or on_disk):
            return ComputedActivations(pixels, frozen, boundary, store)
        if backbone not in self._frozen_identities:
            self._frozen_identities[backbone] = fingerprint_of(
                (
                    NUMERICS,
                    self.template(backbone).body_fingerprint(),
                    pixels.identity,
                    plan.split.development,
                    plan.device,
                    plan.arithmetic[backbone].dtype,
                    plan.arithmetic[backbone].channels_last,
                    str(torch.__version__),
                    timm.__version__,
                )
            )
        return StoredActivations(
            pixels,
            frozen,
            boundary,
            np.asarray(plan.split.development, dtype=np.int64),
            self._cache,
            self._frozen_identities[backbone],
            store,
            on_the_way=on_the_way,
            in_memory=in_memory,
        )

    def _frozen_at(self, backbone: str, before: int, *, most: int) -> list[int]:
        """The boundaries before one that trials begin at, and that have at most so many numbers."""
        template = self.template(backbone)
        boundaries = {template.boundary(depth) for depth in self._freeze_depths}
        return [b for b in sorted(boundaries) if 0 < b < before and template.elements[b] <= most]

    def give_up_memory(self) -> bool:
        """Give back for good what the training device keeps of activations; False if nothing."""
        return self._cache.give_up_memory()

    def close(self) -> None:
        """Give back what is kept in memory."""
        self._templates.clear()
        self._frozen_parts.clear()
        self._cache.give_up_memory()
