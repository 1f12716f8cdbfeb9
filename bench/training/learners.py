"""The learners that a process keeps between trials, as many as its device has room for."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch

from bench.records import BatchNormMode, Recipe
from bench.training.learner import Learner
from bench.training.memory import release_memory
from bench.training.networks import StudyNetworks

# Learners that a GPU keeps: a study needs about a dozen, and each holds four times its network's
# size and what a recorded step works in.
_LEARNERS_ON_CUDA = 6
_FREE_ON_CUDA = 0.25  # of its memory; with less, learners make room for a new one


@dataclass(frozen=True, slots=True)
class _LearnerKind:
    """What recipes that share a learner have in common."""

    backbone: str
    freeze_depth: int
    batch_norm: BatchNormMode
    micro_batches: int

    @classmethod
    def of(cls, recipe: Recipe, micro_batches: int) -> _LearnerKind:
        return cls(recipe.backbone, recipe.freeze_depth, recipe.batch_norm, micro_batches)


class LearnerPool:
    """Makes learners and keeps them for other trials and folds; on a CPU the last one alone."""

    def __init__(self, networks: StudyNetworks) -> None:
        self._networks = networks
        self._device = networks.plan.device
        self._learners: OrderedDict[_LearnerKind, Learner] = OrderedDict()

    def __len__(self) -> int:
        return len(self._learners)

    def get(self, recipe: Recipe, micro_batches: int) -> Learner:
        """What trains the parts that the recipe leaves free, made before for another one or now."""
        kind = _LearnerKind.of(recipe, micro_batches)
        if kind in self._learners:
            self._learners.move_to_end(kind)
            return self._learners[kind]
        while self._learners and not self._has_room_for_a_learner():
            self._learners.popitem(last=False)
            if self._device == "cuda":
                release_memory(self._device)
        model = self._networks.model(recipe, seed=0)
        learner = Learner(
            model,
            model.boundary(recipe.freeze_depth),
            self._networks.plan.arithmetic[recipe.backbone],
            micro_batches=micro_batches,
        )
        self._learners[kind] = learner
        return learner

    def _has_room_for_a_learner(self) -> bool:
        if self._device != "cuda" or len(self._learners) >= _LEARNERS_ON_CUDA:
            return False
        free, total = torch.cuda.mem_get_info()
        free += torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return free >= _FREE_ON_CUDA * total

    def drop_refused(self) -> bool:
        """Drop the learners if one of them could not be recorded; tell whether that was so.

        A refusal replaces the state of the random numbers, which older recordings go on to read.
        """
        refused = any(learner.refused for learner in self._learners.values())
        if refused:
            self._learners.clear()
        return refused

    def has_others(self, recipe: Recipe, micro_batches: int) -> bool:
        """Whether it keeps more than the learner of a recipe."""
        return bool(self._learners.keys() - {_LearnerKind.of(recipe, micro_batches)})

    def clear(self) -> None:
        """Drop all."""
        self._learners.clear()
