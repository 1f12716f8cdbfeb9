"""Frozen parts give a picture the same activations, whatever they are asked for."""

from __future__ import annotations

import copy
from typing import Literal

import pytest
import torch
from torch.fx import GraphModule

from bench.models.backbones import describe_backbone
from bench.models.staged import StagedModel, build_model
from bench.records import Arithmetic, WeightSource
from bench.training.arithmetic import has_bfloat16
from bench.training.frozen import FrozenPart
from bench.training.fusion import CAN_FUSE

pytestmark = pytest.mark.skipif(not CAN_FUSE, reason="this build of torch has no oneDNN")

IMAGES = 255 * torch.rand(11, 3, 64, 64, generator=torch.Generator().manual_seed(0)).to(
    memory_format=torch.channels_last
)


def arithmetic(dtype: Literal["float32", "bfloat16"], *, channels_last: bool = True) -> Arithmetic:
    return Arithmetic(device="cpu", dtype=dtype, channels_last=channels_last, reason="")


@pytest.fixture(scope="module")
def model() -> StagedModel:
    """A network with statistics that are none of a fresh one."""
    model = build_model(
        describe_backbone("test_resnet"),
        WeightSource(kind="random"),
        classes=3,
        image_size=64,
        seed=0,
    )
    for norm in model.updating_norms():
        torch.nn.init.uniform_(norm.running_var, 0.5, 2.0)
    return model.to(memory_format=torch.channels_last)


def parts_fused(frozen: FrozenPart) -> int:
    return sum(isinstance(part, GraphModule) for part in frozen._fused.values())


def usual(model: StagedModel, boundary: int) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return model.prefix(IMAGES, boundary)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        ("float32", 1e-4),
        pytest.param(
            "bfloat16",
            0.03,
            marks=pytest.mark.skipif(
                not has_bfloat16(), reason="oneDNN has no bfloat16 on this processor"
            ),
        ),
    ],
)
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("boundary", [1, 2, 3, 4, 5])
def test_activations_are_those_of_the_network(
    model: StagedModel,
    dtype: Literal["float32", "bfloat16"],
    tolerance: float,
    channels_last: bool,
    boundary: int,
) -> None:
    frozen = FrozenPart(model, arithmetic(dtype, channels_last=channels_last))
    expected, output = usual(model, boundary), frozen.run(IMAGES, 0, boundary, 4)
    assert parts_fused(frozen) == (boundary if channels_last else 0), "each part is, by itself"
    assert output.shape == expected.shape
    assert (output.float() - expected).norm() <= tolerance * expected.norm()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_they_depend_neither_on_where_the_computation_began_nor_on_the_batch(
    model: StagedModel, dtype: Literal["float32", "bfloat16"]
) -> None:
    whole = FrozenPart(model, arithmetic(dtype)).run(IMAGES, 0, 5, 4)
    in_steps, again = FrozenPart(model, arithmetic(dtype)), IMAGES.flip(0)
    for boundary in range(5):
        again = in_steps.run(again, boundary, boundary + 1, 4)
    assert torch.equal(again.flip(0), whole)


def test_neither_its_input_nor_the_weights_are_changed(model: StagedModel) -> None:
    class Changing(StagedModel):
        """Its parts begin in place, as those of networks do that activate before they convolve."""

        def between(self, activations: torch.Tensor, start: int, stop: int) -> torch.Tensor:
            return super().between(activations.mul_(0.5).relu_(), start, stop)

    changing = copy.deepcopy(model)
    changing.__class__ = Changing
    before, pixels = changing.body_fingerprint(), IMAGES.clone()
    frozen = FrozenPart(changing, arithmetic("float32"))
    first, again = frozen.run(pixels, 0, 2), frozen.run(pixels, 0, 2)
    assert torch.equal(pixels, IMAGES)
    assert changing.body_fingerprint() == before
    torch.testing.assert_close(first, again)
    assert parts_fused(frozen) == 2
