"""Networks, built once, with numbers that hide nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from bench.models.backbones import describe_backbone
from bench.models.staged import StagedModel, build_model
from bench.records import WeightSource
from tests.exported import exported, other_model, pictures_nhwc

__all__ = ["exported", "other_model", "pictures_nhwc"]

ModelMaker = Callable[[str], StagedModel]


@cache
def _built(name: str) -> StagedModel:
    spec = describe_backbone(name)
    model = build_model(spec, WeightSource(kind="random"), classes=3, image_size=64, seed=0)
    _stir(model.network)
    return model


@torch.no_grad()
def _stir(network: nn.Module) -> None:
    """Take networks out of their initial state, in which whole blocks change nothing yet."""
    generator = torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        if parameter.ndim <= 1:
            parameter.copy_(0.5 + torch.rand(parameter.shape, generator=generator))
    for module in network.modules():
        if isinstance(module, _BatchNorm) and module.running_mean is not None:
            assert module.running_var is not None
            noise = torch.rand(2, len(module.running_mean), generator=generator)
            module.running_mean.copy_(noise[0] - 0.5)
            module.running_var.copy_(0.5 + noise[1])


@pytest.fixture(scope="session")
def make_model() -> ModelMaker:
    """Give a fresh copy of a three-class network for pictures of 64 pixels, in eval mode."""
    return lambda name: copy.deepcopy(_built(name)).eval()


@pytest.fixture(scope="session")
def pictures_nchw() -> torch.Tensor:
    """(8, 3, 64, 64) random pixels in 0..255."""
    return torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(2)) * 255
