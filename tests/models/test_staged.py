from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise

import pytest
import timm
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from bench.errors import InputError
from bench.models.backbones import describe_backbone
from bench.models.staged import StagedModel, build_model
from bench.records import PARTS, WeightSource

ModelMaker = Callable[[str], StagedModel]

LARGE = tuple(
    pytest.param(name, marks=pytest.mark.slow)
    for name in ("resnet50", "xception", "efficientnet_lite0")
)
CHAINS = ("test_resnet", "test_efficientnet", "test_convnext", "test_byobnet", "test_mambaout")
GRAPHS = ("test_vit", "test_vit3")
SMALL = (*CHAINS, *GRAPHS)
EVERY = (*LARGE, *SMALL)
WITH_BATCH_NORM = (*LARGE, "test_resnet", "test_efficientnet")
DEPTHS = range(PARTS + 1)


def frozen(model: StagedModel) -> set[str]:
    return {name for name, p in model.network.named_parameters() if not p.requires_grad}


def statistics(model: StagedModel) -> dict[str, torch.Tensor]:
    """Running mean of every batch normalisation, by its module's name."""
    return {
        name: module.running_mean.clone()
        for name, module in model.network.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }


# --- cutting --------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("name", EVERY)
@torch.no_grad()
def test_prefix_and_suffix_are_the_whole_network_to_the_last_bit(
    make_model: ModelMaker, pictures_nchw: torch.Tensor, name: str, depth: int
) -> None:
    model = make_model(name)
    boundary = model.boundary(depth)

    activations = model.prefix(pictures_nchw, boundary)

    whole = model.network(pictures_nchw * model.scale + model.bias)
    assert torch.equal(model.suffix(activations, boundary), whole)
    assert torch.equal(model(pictures_nchw), whole)
    assert whole.isfinite().all()
    assert not torch.equal(whole[0], whole[1])


@pytest.mark.parametrize("name", [*LARGE, *SMALL])
@torch.no_grad()
def test_parts_run_one_by_one_are_the_prefix(
    make_model: ModelMaker, pictures_nchw: torch.Tensor, name: str
) -> None:
    model = make_model(name)

    activations = pictures_nchw
    for start in range(PARTS):
        activations = model.between(activations, start, start + 1)

    assert torch.equal(activations, model.prefix(pictures_nchw, PARTS))


@pytest.mark.parametrize("name", [*LARGE, *SMALL])
def test_a_network_can_be_cut_at_every_depth(make_model: ModelMaker, name: str) -> None:
    model = make_model(name)

    assert [model.boundary(depth) for depth in DEPTHS] == [0, 1, 2, 3, 4, 5]
    assert model.recomputed is None


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("name", [*LARGE, *SMALL])
@torch.no_grad()
def test_a_frozen_prefix_gives_a_picture_the_same_activation_whatever_else_is_in_the_batch(
    make_model: ModelMaker, pictures_nchw: torch.Tensor, name: str, depth: int
) -> None:
    """In batches of one size, as frozen parts are run: for another, libraries round otherwise."""
    model = make_model(name)
    model.freeze(depth, "updating")
    model.train()

    together = model.prefix(pictures_nchw, depth)

    for pictures in ([7, 6, 5, 4, 3, 2, 1, 0], [3, 0, 3, 3, 6, 0, 3, 1], [5] * 8):
        among_others = model.prefix(pictures_nchw[pictures], depth)
        assert torch.equal(among_others, together[pictures])


# --- the five parts -------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("resnet50", ["conv1 bn1", "layer1", "layer2", "layer3", "layer4"]),
        (
            "xception",
            [
                "conv1 bn1 conv2 bn2",
                "block1 block2 block3",
                "block4 block5 block6 block7",
                "block8 block9 block10 block11",
                "block12 conv3 bn3 conv4 bn4",
            ],
        ),
    ],
)
def test_the_parts_of_the_two_first_backbones_are_those_of_their_papers(
    make_model: ModelMaker, name: str, parts: list[str]
) -> None:
    model = make_model(name)

    before: set[str] = set()
    for depth, part in enumerate(parts, start=1):
        model.freeze(depth, "frozen")
        now = {parameter.partition(".")[0] for parameter in frozen(model)}
        assert now - before == set(part.split())
        before = now


@pytest.mark.slow
@torch.no_grad()
def test_the_stem_of_resnet50_ends_behind_its_pooling(
    make_model: ModelMaker, pictures_nchw: torch.Tensor
) -> None:
    shapes = [make_model("resnet50").prefix(pictures_nchw, k).shape[1:] for k in range(1, 6)]

    assert shapes == [(64, 16, 16), (256, 16, 16), (512, 8, 8), (1024, 4, 4), (2048,)]


@pytest.mark.slow
@torch.no_grad()
def test_the_stem_of_xception_ends_behind_its_activation(
    make_model: ModelMaker, pictures_nchw: torch.Tensor
) -> None:
    activations = make_model("xception").prefix(pictures_nchw, 1)

    assert activations.shape[1] == 64
    assert activations.min() == 0.0


@pytest.mark.parametrize("name", EVERY)
def test_each_depth_freezes_more_and_the_last_all_but_the_classifier(
    make_model: ModelMaker, name: str
) -> None:
    model = make_model(name)
    by_depth = []
    for depth in DEPTHS:
        model.freeze(depth, "updating")
        by_depth.append(frozen(model))

    assert by_depth[0] == set()
    for shallower, deeper in pairwise(by_depth):
        assert shallower < deeper
    trainable = {id(p) for p in model.parameters() if p.requires_grad}
    assert trainable == {id(p) for p in model.classifier.parameters()}


@pytest.mark.parametrize("depth", [-1, 6])
def test_a_depth_that_is_none_is_refused(make_model: ModelMaker, depth: int) -> None:
    with pytest.raises(ValueError, match=f"0..5, not {depth}"):
        make_model("test_resnet").freeze(depth, "frozen")


# --- training mode --------------------------------------------------------------------------


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("name", EVERY)
def test_exactly_what_lies_behind_the_boundary_gets_gradients(
    make_model: ModelMaker, pictures_nchw: torch.Tensor, name: str, depth: int
) -> None:
    model = make_model(name)
    model.freeze(depth, "frozen")
    model.train()
    boundary = model.boundary(depth)

    with torch.no_grad():
        activations = model.prefix(pictures_nchw, boundary)
    loss = model.suffix(activations, boundary).square().sum()
    loss.backward()  # type: ignore[no-untyped-call]

    without = {name for name, p in model.network.named_parameters() if p.grad is None}
    assert without == frozen(model)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("name", WITH_BATCH_NORM)
def test_a_training_pass_leaves_the_statistics_of_frozen_parts_alone(
    make_model: ModelMaker, pictures_nchw: torch.Tensor, name: str, depth: int
) -> None:
    model = make_model(name)
    model.freeze(depth, "updating")
    model.train()
    before = statistics(model)

    model(pictures_nchw)

    changed = {
        module
        for module, mean in statistics(model).items()
        if not torch.equal(mean, before[module])
    }
    frozen_norms = {module for module in before if f"{module}.weight" in frozen(model)}
    assert changed == before.keys() - frozen_norms


@pytest.mark.parametrize("name", WITH_BATCH_NORM)
def test_frozen_batch_normalisation_updates_nowhere(
    make_model: ModelMaker, pictures_nchw: torch.Tensor, name: str
) -> None:
    model = make_model(name)
    model.freeze(0, "frozen")
    model.train()
    before = statistics(model)

    model(pictures_nchw)

    assert before
    for module, mean in statistics(model).items():
        assert torch.equal(mean, before[module]), module


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("name", [*LARGE, *SMALL])
def test_every_module_of_a_frozen_part_is_in_eval_mode_and_every_other_in_training(
    make_model: ModelMaker, pictures_nchw: torch.Tensor, name: str, depth: int
) -> None:
    model = make_model(name)
    model.freeze(depth, "updating")
    model.train()
    modes: list[bool] = []
    for module in model.network.modules():
        if not any(module.children()):
            module.register_forward_hook(lambda module, _in, _out: modes.append(module.training))

    with torch.no_grad():
        activations = pictures_nchw
        for start in range(PARTS - 1):  # part 5 ends inside the head, which is never all frozen
            modes.clear()
            activations = model.between(activations, start, start + 1)
            assert set(modes) <= {start >= depth}, f"part {start + 1}"


def test_dropped_paths_of_a_frozen_part_do_not_drop(pictures_nchw: torch.Tensor) -> None:
    torch.manual_seed(0)
    network = timm.create_model("test_efficientnet", num_classes=3, drop_path_rate=0.9)
    model = StagedModel(network, describe_backbone("test_efficientnet"), 64)
    model.freeze(4, "updating")
    model.train()

    with torch.no_grad():
        in_training = model.prefix(pictures_nchw, 4)
        in_eval = model.eval().prefix(pictures_nchw, 4)

    assert torch.equal(in_training, in_eval)


def test_going_back_to_training_keeps_frozen_parts_in_eval(make_model: ModelMaker) -> None:
    model = make_model("test_resnet")
    model.freeze(3, "updating")

    model.eval()
    model.train()

    modes = {
        module.training
        for name, module in model.network.named_modules()
        if isinstance(module, _BatchNorm) and f"{name}.weight" in frozen(model)
    }
    assert modes == {False}
    assert model.classifier.training


def test_a_module_hears_of_the_mode_though_some_of_it_is_frozen(make_model: ModelMaker) -> None:
    """Some attention keeps for predictions what its own `train` makes it forget."""
    model = make_model("test_resnet")
    block = model.network.layer4[0]
    heard: list[bool] = []

    class Hearing(type(block)):  # type: ignore[misc]  # whatever class of block it is
        def train(self, mode: bool = True) -> nn.Module:
            heard.append(mode)
            return super().train(mode)

    block.__class__ = Hearing
    model.freeze(3, "frozen")
    heard.clear()

    model.train()
    model.eval()
    model.train()

    assert heard == [True, False, True]
    leaves = [module for module in block.modules() if not any(module.children())]
    modes = {(isinstance(module, _BatchNorm), module.training) for module in leaves}
    assert modes == {(True, False), (False, True)}


def test_what_is_frozen_hears_of_no_mode(make_model: ModelMaker) -> None:
    """Setting each module of a network takes longer than an epoch of its classifier."""
    model = make_model("test_resnet")
    model.freeze(5, "updating")
    changed: set[nn.Module] = set()

    class Watched(type(model.network.layer1)):  # type: ignore[misc]  # whatever class it is
        def __setattr__(self, name: str, value: object) -> None:
            changed.add(self)
            super().__setattr__(name, value)

    model.network.layer1.__class__ = Watched

    model.eval()
    model.train()

    assert changed == set()
    assert model.classifier.training


def test_a_module_of_a_frozen_and_of_a_free_one_stays_in_eval(make_model: ModelMaker) -> None:
    model = make_model("test_resnet")
    shared = nn.Dropout(0.5)
    model.network.layer1[0].dropped = model.network.layer4[0].dropped = shared
    model.freeze(3, "updating")

    model.eval()
    model.train()

    assert not shared.training


def test_freezing_again_sets_the_modes_of_the_new_depth(make_model: ModelMaker) -> None:
    model = make_model("test_resnet")
    model.train()
    modes = []
    for depth in (5, 1, 4):
        model.freeze(depth, "updating")
        modes.append((model.network.layer1.training, model.network.layer4[0].bn1.training))

    assert modes == [(False, False), (True, True), (False, True)]


def test_a_copy_of_a_frozen_model_switches_its_own_modules(make_model: ModelMaker) -> None:
    model = make_model("test_resnet")
    model.freeze(3, "updating")
    model.eval()

    again = copy.deepcopy(model).train()

    assert again.classifier.training
    assert not model.classifier.training


# --- optimiser groups and building ----------------------------------------------------------


@pytest.mark.parametrize("depth", [0, 3, 5])
def test_every_trainable_parameter_is_in_one_group_with_its_like(
    make_model: ModelMaker, depth: int
) -> None:
    model = make_model("test_resnet")
    model.freeze(depth, "frozen")

    head = {id(p) for p in model.classifier.parameters()}
    seen: list[int] = []
    for group in model.parameter_groups():
        for parameter in group.parameters:
            seen.append(id(parameter))
            assert group.in_head == (id(parameter) in head)
            assert group.decays == (parameter.ndim > 1)
    assert sorted(seen) == sorted(id(p) for p in model.parameters() if p.requires_grad)


def test_building_depends_on_the_seed_alone_and_leaves_the_global_one_alone() -> None:
    spec = describe_backbone("test_resnet")

    def head_weight(seed: int) -> torch.Tensor:
        model = build_model(spec, WeightSource(kind="random"), classes=3, image_size=32, seed=seed)
        head = model.classifier
        assert isinstance(head, nn.Linear)
        return head.weight

    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = head_weight(7)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(head_weight(7), first)
    assert not torch.equal(head_weight(8), first)


def test_a_size_that_a_network_cannot_take_is_refused_with_the_one_that_it_can() -> None:
    with pytest.raises(InputError, match=r"cannot take pictures of 33 pixels.*--image-size 160"):
        build_model(
            describe_backbone("test_vit"),
            WeightSource(kind="random"),
            classes=2,
            image_size=33,
            seed=0,
        )


def test_a_network_of_a_fixed_size_is_built_for_the_size_that_is_asked_for() -> None:
    model = build_model(
        describe_backbone("test_vit"),
        WeightSource(kind="random"),
        classes=2,
        image_size=64,
        seed=0,
    )
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 2)
