"""Networks that are no chain of modules: cut where they narrow to one tensor, or left whole."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from bench.errors import InputError
from bench.models.backbones import describe_backbone
from bench.models.staged import StagedModel, build_model
from bench.records import PARTS, WeightSource

SIZE = 32


class Network(nn.Module):
    """Five convolutions and what timm's networks have around them.

    Its forward pass adds the picture's mean, which no chain of its children does.
    """

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.feature_info = [{"module": f"stage{k}"} for k in range(1, 6)]
        for k in range(1, 6):
            width = 3 if k == 1 else 8
            self.add_module(
                f"stage{k}", nn.Sequential(nn.Conv2d(width, 8, 3, padding=1), nn.GELU())
            )
        self.shared = nn.Parameter(torch.rand(8, 1, 1))
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(8, 3)

    def stage(self, k: int, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.get_submodule(f"stage{k}")(x)
        return y

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stage(1, x + x.mean())
        for k in range(2, 6):
            x = self.stage(k, x)
        y: torch.Tensor = self.norm(x)
        return y

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        pooled = x.mean((2, 3))
        logits: torch.Tensor = pooled if pre_logits else self.fc(pooled)
        return logits

    def get_classifier(self) -> nn.Module:
        return self.fc

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(x))


class WithSizes(Network):
    """Sizes of the picture and of the batch are asked for once and used to the end."""

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        count, _, height, width = x.shape
        x = self.stage(1, x + x.mean()).flatten(2)
        for k in range(2, 6):
            x = self.stage(k, x.view(count, 8, height, width)).flatten(2)
        return x.reshape(count, 8, height, width)


class WithSharedParameter(Network):
    """One parameter serves in front of the third stage and behind the fifth."""

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        scale = self.shared * 2
        x = self.stage(2, self.stage(1, x + x.mean())) * scale
        return self.stage(5, self.stage(4, self.stage(3, x))) * scale


class WithDropout(Network):
    """A module without parameters in the middle, and batch statistics at the end."""

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        x = self.drop(self.stage(2, self.stage(1, x + x.mean())))
        y: torch.Tensor = self.norm(self.stage(5, self.stage(4, self.stage(3, x))))
        return y


class WithTwoStreams(Network):
    """From the third stage to the fifth the second one's output lives on beside."""

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stage(2, self.stage(1, x + x.mean()))
        return self.stage(5, self.stage(4, self.stage(3, x))) + x


class WithDropoutBakedIn(Network):
    """A trace would keep the mode that it was made in."""

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.dropout(self.stage(1, x + x.mean()), 0.5, self.training)
        return self.stage(5, self.stage(4, self.stage(3, self.stage(2, x))))


class WithBranchOnNumbers(Network):
    """What it runs depends on the picture."""

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        x = x + x.mean()
        x = self.stage(1, x if x.max() > 2 else -x)
        return self.stage(5, self.stage(4, self.stage(3, self.stage(2, x))))


class WithTwoStreamsThroughout(Network):
    """The picture itself is added at the very end."""

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        y = self.stage(2, self.stage(1, x + x.mean()))
        return self.stage(5, self.stage(4, self.stage(3, y))) + x.mean(1, keepdim=True)


class WithTensorOfItsOwn(Network):
    """It makes a tensor while it runs, which would stay on the device of the trace."""

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stage(2, self.stage(1, x + x.mean())) + torch.ones(8, 1, 1)
        return self.stage(5, self.stage(4, self.stage(3, x)))


class WithUnseenChoice(Network):
    """It takes another way when it is traced than when it is run."""

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stage(2, self.stage(1, x + x.mean())) * (2.0 if type(x) is torch.Tensor else 1.0)
        return self.stage(5, self.stage(4, self.stage(3, x)))


CUT = (Network, WithSizes, WithSharedParameter, WithDropout)
LEFT_WHOLE: tuple[tuple[type[Network], str], ...] = (
    (WithDropoutBakedIn, "another one in training"),
    (WithBranchOnNumbers, "cannot be traced"),
    (WithTwoStreamsThroughout, "more than one tensor"),
    (WithTensorOfItsOwn, "belong to no module"),
    (WithUnseenChoice, "gives other numbers"),
)


def stage_up(network: nn.Module) -> StagedModel:
    return StagedModel(network, describe_backbone("test_vit"), SIZE).eval()


@pytest.fixture
def pictures() -> torch.Tensor:
    return torch.rand(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2)) * 255


def frozen(model: StagedModel) -> set[str]:
    return {name for name, p in model.network.named_parameters() if not p.requires_grad}


def assert_cut_is_the_whole(model: StagedModel, pictures: torch.Tensor) -> None:
    """At each boundary, in both modes, in value and in gradients, to the last bit."""
    model.freeze(0, "updating")
    for is_training in (False, True):
        outcomes = []
        for run in (
            lambda own, x: own.network(x * own.scale + own.bias),
            *(
                lambda own, x, k=boundary: own.suffix(own.prefix(x, k), k)
                for boundary in model.boundaries
            ),
        ):
            own = copy.deepcopy(model).train(is_training)
            torch.manual_seed(5)
            logits = run(own, pictures)
            logits.square().sum().backward()
            outcomes.append([logits, *(p.grad for p in own.parameters()), *own.buffers()])
        for outcome in outcomes[1:]:
            for ours, expected in zip(outcome, outcomes[0], strict=True):
                assert (ours is None) == (expected is None)
                assert ours is None or torch.equal(ours, expected)


def assert_freezing_agrees_with_the_cut(model: StagedModel, pictures: torch.Tensor) -> None:
    """Nothing that a stored activation depends on is trained or random; all the rest is trained."""
    before: set[str] = set()
    for depth in range(PARTS + 1):
        model.zero_grad()
        model.freeze(depth, "updating")
        model.train()
        boundary = model.boundary(depth)
        activations = model.prefix(pictures, boundary)
        assert not activations.requires_grad
        assert torch.equal(activations, copy.deepcopy(model).eval().prefix(pictures, boundary))
        model.suffix(activations, boundary).square().sum().backward()  # type: ignore[no-untyped-call]
        used = {name for name, p in model.network.named_parameters() if p.grad is not None}
        assert used.isdisjoint(frozen(model))
        assert before <= frozen(model)
        before = frozen(model)


# --- small networks -------------------------------------------------------------------------


@pytest.mark.parametrize("network", CUT)
def test_a_network_that_narrows_behind_each_stage_is_cut_there(
    network: type[Network], pictures: torch.Tensor
) -> None:
    model = stage_up(network())

    assert model.boundaries == (0, 1, 2, 3, 4, 5)
    assert model.recomputed is None
    for depth in range(1, PARTS):
        model.freeze(depth, "updating")
        stages = {name.partition(".")[0] for name in frozen(model)} - {"shared"}
        assert stages == {f"stage{k}" for k in range(1, depth + 1)}
    assert_cut_is_the_whole(model, pictures)
    assert_freezing_agrees_with_the_cut(model, pictures)


def test_a_parameter_that_is_used_on_both_sides_is_frozen_with_the_first() -> None:
    model = stage_up(WithSharedParameter())
    is_frozen = []
    for depth in range(PARTS + 1):
        model.freeze(depth, "updating")
        is_frozen.append("shared" in frozen(model))
    assert is_frozen == [False, False, False, True, True, True]


def test_where_two_tensors_are_alive_a_network_is_frozen_but_not_cut(
    pictures: torch.Tensor,
) -> None:
    model = stage_up(WithTwoStreams())

    assert model.boundaries == (0, 1, 2, 5)
    assert [model.boundary(depth) for depth in range(6)] == [0, 1, 2, 2, 2, 5]
    assert model.cuttable
    assert model.recomputed is not None
    assert "behind part 3 and 4" in model.recomputed
    assert model.elements[3] > 10**15
    with pytest.raises(ValueError, match="cannot be cut"):
        model.prefix(pictures, 3)
    model.freeze(3, "updating")
    assert {name.partition(".")[0] for name in frozen(model)} == {"stage1", "stage2", "stage3"}
    assert_cut_is_the_whole(model, pictures)
    assert_freezing_agrees_with_the_cut(model, pictures)


@pytest.mark.parametrize(("network", "reason"), LEFT_WHOLE)
def test_a_network_whose_graph_cannot_be_trusted_is_left_whole(
    network: type[Network], reason: str, pictures: torch.Tensor
) -> None:
    model = stage_up(network())

    assert not model.cuttable
    assert [model.boundary(depth) for depth in range(6)] == [0, 0, 0, 0, 0, 5]
    assert model.recomputed is not None
    assert reason in model.recomputed
    assert model(pictures).shape == (4, 3)
    for boundary in range(1, PARTS):
        with pytest.raises(ValueError, match="cannot be cut"):
            model.prefix(pictures, boundary)


def test_building_leaves_the_network_as_it_was() -> None:
    network = WithDropout()
    state = copy.deepcopy(network.state_dict())
    parameters = {name: id(p) for name, p in network.named_parameters()}
    torch.manual_seed(3)
    random = torch.get_rng_state()

    model = StagedModel(network, describe_backbone("test_vit"), SIZE)

    assert model.network is network
    assert network.training
    assert {name: id(p) for name, p in network.named_parameters()} == parameters
    assert network.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


def test_a_copy_runs_on_its_own_parameters(pictures: torch.Tensor) -> None:
    model = stage_up(WithSharedParameter())
    copied = copy.deepcopy(model)
    before = model.prefix(pictures, 3)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()

    assert torch.equal(model.prefix(pictures, 3), before)
    assert not copied.prefix(pictures, 3).any()
    assert copied.boundaries == model.boundaries


def test_another_layout_in_memory_changes_nothing_but_the_layout(pictures: torch.Tensor) -> None:
    model = stage_up(WithDropout()).to(memory_format=torch.channels_last)
    images = pictures.contiguous(memory_format=torch.channels_last)

    activations = model.prefix(images, 2)

    assert activations.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(
        model.suffix(activations, 2), model.network(images * model.scale + model.bias)
    )


def test_the_identity_of_a_body_is_that_of_its_graph_and_its_weights() -> None:
    identities = [stage_up(kind()).body_fingerprint() for kind in (Network, Network, WithDropout)]
    assert identities[0] == identities[1] != identities[2]


def test_a_chain_is_never_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a chain was traced")

    monkeypatch.setattr("bench.models.staged.cut_graph", refuse)
    assert built("test_resnet", 64).cuttable


# --- real networks --------------------------------------------------------------------------

Built = Callable[[str, int], StagedModel]


def built(name: str, size: int) -> StagedModel:
    spec = describe_backbone(name)
    return build_model(spec, WeightSource(kind="random"), classes=3, image_size=size, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "boundaries"),
    [
        ("vit_tiny_patch16_224", 64, (0, 1, 2, 3, 4, 5)),
        ("deit_tiny_patch16_224", 64, (0, 1, 2, 3, 4, 5)),
        ("eva02_tiny_patch14_224", 56, (0, 1, 2, 3, 4, 5)),
        ("cait_xxs24_224", 64, (0, 1, 2, 3, 4, 5)),
        ("xcit_nano_12_p16_224", 64, (0, 1, 2, 3, 4, 5)),
        ("pit_ti_224", 64, (0, 1, 2, 3, 4, 5)),
        ("coat_lite_tiny", 64, (0, 1, 2, 3, 4, 5)),
        ("coat_tiny", 64, (0, 1, 5)),
        ("twins_pcpvt_small", 64, (0, 1, 2, 3, 4, 5)),
        ("hrnet_w18_small", 64, (0, 1, 5)),
        ("swin_tiny_patch4_window7_224", 224, (0, 1, 2, 3, 4, 5)),
        ("densenet121", 64, (0, 1, 2, 3, 4, 5)),
        ("mobilevit_s", 64, (0, 1, 2, 3, 4, 5)),
        ("mixer_s16_224", 224, (0, 1, 2, 3, 4, 5)),
        ("convnext_tiny", 64, (0, 1, 2, 3, 4, 5)),
    ],
)
def test_architectures_of_all_kinds_are_cut_without_changing_a_bit(
    name: str, size: int, boundaries: tuple[int, ...]
) -> None:
    model = built(name, size)
    pictures = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(2)) * 255

    assert model.boundaries == boundaries
    assert_cut_is_the_whole(model, pictures)
    assert_freezing_agrees_with_the_cut(model, pictures)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dla34", "resnetv2_50"])
def test_a_1x1_convolution_at_the_end_becomes_a_dense_classifier(name: str) -> None:
    model = built(name, 64)
    pictures = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(2)) * 255

    assert isinstance(model.classifier, torch.nn.Linear)
    assert model.boundaries == (0, 1, 2, 3, 4, 5)
    assert_cut_is_the_whole(model, pictures)
    assert_freezing_agrees_with_the_cut(model, pictures)


@pytest.mark.slow
def test_a_network_with_several_classifiers_is_refused() -> None:
    with pytest.raises(InputError, match="levit_128s ends in several classifiers"):
        built("levit_128s", 224)
