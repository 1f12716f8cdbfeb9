from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bench.data.augment import augment
from bench.errors import NonFiniteLossError
from bench.models.backbones import describe_backbone
from bench.models.staged import StagedModel, build_model
from bench.records import BatchNormMode, Policy, Recipe, WeightSource
from bench.training.learner import Learner, _RatesInMemory, batches
from bench.training.loop import EpochOutcome, Schedule, class_targets, fit, mixup
from tests.tiny import BACKBONE, PLAIN, coloured_noise

Indices = npt.NDArray[np.int64]

IMAGES, LABELS = coloured_noise(8, side=32)
EVERY = np.arange(len(LABELS))
RECIPE = Recipe(
    backbone=BACKBONE,
    learning_rate=2e-3,
    augmentation="light",
    freeze_depth=0,
    head_lr_factor=1.0,
    batch_norm="updating",
)
SHORT = Schedule(epochs=2, batch_size=8, seed=3)
COSINE_OF_FOUR = [0.5 * (1 + math.cos(math.pi * step / 4)) for step in range(4)]
TEMPLATE = build_model(
    describe_backbone(BACKBONE), WeightSource(kind="random"), classes=3, image_size=32, seed=0
)


class Pixels:
    """Pictures of an array, because no files are needed; remembers what was asked of it."""

    def __init__(self) -> None:
        self.asked: list[tuple[tuple[int, ...], Policy, int]] = []

    def read(self, pictures: Indices, *, policy: Policy, view: int) -> torch.Tensor:
        self.asked.append((tuple(pictures.tolist()), policy, view))
        images_nhwc = torch.from_numpy(IMAGES[pictures])
        return augment(images_nhwc, pictures, family="photo", policy=policy, view=view, seed=0)


def train(
    recipe: Recipe = RECIPE,
    schedule: Schedule = SHORT,
    *,
    on: Indices = EVERY,
    validation: Indices | None = EVERY,
    pixels: Pixels | None = None,
    micro_batches: int = 1,
) -> list[EpochOutcome]:
    model = copy.deepcopy(TEMPLATE)
    model.freeze(recipe.freeze_depth, recipe.batch_norm)
    source = pixels or Pixels()
    learner = Learner(model, 0, PLAIN, micro_batches=micro_batches)
    return list(fit(learner, source, LABELS, on, validation, recipe, schedule))


# --- learning -------------------------------------------------------------------------------


def test_a_tiny_set_is_learnt_by_heart() -> None:
    recipe = replace(RECIPE, augmentation="none", label_smoothing=0.0)

    outcomes = train(recipe, Schedule(epochs=20, batch_size=8, seed=0))

    assert outcomes[-1].train_loss < 0.3 < outcomes[0].train_loss
    assert outcomes[-1].probabilities_nk is not None
    assert (outcomes[-1].probabilities_nk.argmax(axis=1) == LABELS).all()


def test_an_epoch_yields_its_number_its_loss_and_probabilities_in_the_order_asked_for() -> None:
    validation = np.asarray([5, 1, 9])

    outcomes = train(on=np.arange(12, 24), validation=validation)
    reversed_ = train(on=np.arange(12, 24), validation=validation[::-1].copy())

    assert [outcome.epoch for outcome in outcomes] == [0, 1]
    for outcome, other in zip(outcomes, reversed_, strict=True):
        assert outcome.probabilities_nk is not None
        assert other.probabilities_nk is not None
        assert outcome.probabilities_nk.shape == (3, 3)
        np.testing.assert_allclose(outcome.probabilities_nk.sum(axis=1), 1.0, rtol=1e-5)
        np.testing.assert_allclose(
            outcome.probabilities_nk, other.probabilities_nk[::-1], rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize("unbalanced", [False, True])
def test_a_batch_in_micro_batches_takes_the_steps_of_a_whole_one(unbalanced: bool) -> None:
    # Where normalisation updates, micro-batches have moments of their own.
    recipe = replace(RECIPE, batch_norm="frozen", mixup=0.3)
    on = EVERY[LABELS != 2] if unbalanced else EVERY
    on = np.concatenate([on, EVERY[LABELS == 2][:2]]) if unbalanced else on

    whole = train(recipe, SHORT, on=on)
    for micro_batches in (2, 3):
        cut = train(recipe, SHORT, on=on, micro_batches=micro_batches)
        for one, other in zip(cut, whole, strict=True):
            assert one.train_loss == pytest.approx(other.train_loss, rel=1e-4)
            np.testing.assert_allclose(
                one.probabilities_nk, other.probabilities_nk, rtol=1e-2, atol=1e-4
            )


def test_without_validation_pictures_nothing_is_predicted() -> None:
    assert [outcome.probabilities_nk for outcome in train(validation=None)] == [None, None]


def test_the_same_seed_gives_the_same_numbers_to_the_last_bit() -> None:
    recipe = replace(RECIPE, mixup=0.3)
    torch.manual_seed(1)
    first = train(recipe)
    torch.manual_seed(2)
    second = train(recipe)
    other = train(recipe, replace(SHORT, seed=4))

    assert [o.train_loss for o in first] == [o.train_loss for o in second]
    for one, two in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.probabilities_nk, two.probabilities_nk)
    assert first[0].train_loss != other[0].train_loss


@pytest.mark.parametrize("learning_rate", [1e30, 1e300])
def test_a_loss_that_is_no_number_ends_the_training_and_names_the_learning_rate(
    learning_rate: float,
) -> None:
    with pytest.raises(NonFiniteLossError, match="learning rate") as caught:
        train(replace(RECIPE, learning_rate=learning_rate), replace(SHORT, epochs=4))

    assert f"at learning rate {learning_rate:g}" in str(caught.value)


def test_predictions_that_are_no_numbers_end_the_training_though_its_loss_is_one() -> None:
    # A single step: its loss is that of the weights before it.
    once = replace(SHORT, epochs=1, batch_size=len(LABELS))
    with pytest.raises(NonFiniteLossError, match=r"predictions became nan in epoch 1 .*1e\+300"):
        train(replace(RECIPE, learning_rate=1e300), once)


@pytest.mark.parametrize("depth", [0, 3, 5])
def test_what_is_frozen_does_not_change_and_the_rest_does(depth: int) -> None:
    model = copy.deepcopy(TEMPLATE)
    model.freeze(depth, "frozen")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}

    boundary = model.boundary(depth)
    source = Prefixed(model, boundary)
    learner = Learner(model, boundary, PLAIN)
    list(fit(learner, source, LABELS, EVERY, None, RECIPE, SHORT))

    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert changed == {n for n, p in model.named_parameters() if p.requires_grad}


class Prefixed(Pixels):
    """Activations of `Pixels` at a boundary, computed when they are read."""

    def __init__(self, model: StagedModel, boundary: int) -> None:
        super().__init__()
        self._model = model
        self._boundary = boundary

    @torch.no_grad()
    def read(self, pictures: Indices, *, policy: Policy, view: int) -> torch.Tensor:
        pixels_nchw = super().read(pictures, policy=policy, view=view)
        return self._model.prefix(pixels_nchw, self._boundary)


# --- batches and views ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "batch_size", "sizes"),
    [
        (8, 4, [4, 4]),
        (10, 4, [4, 4, 2]),
        (9, 4, [4, 5]),
        (5, 4, [5]),
        (3, 4, [3]),
        (1, 4, [1]),
        (3, 2, [3]),
        (7, 2, [2, 2, 3]),
        (0, 4, []),
    ],
)
def test_no_batch_holds_a_single_picture_and_none_is_lost(
    count: int, batch_size: int, sizes: list[int]
) -> None:
    pictures = np.arange(count)[::-1].copy()

    parts = batches(pictures, batch_size)

    assert [len(part) for part in parts] == sizes
    assert [picture for part in parts for picture in part] == pictures.tolist()


def test_each_epoch_trains_on_every_picture_once_in_a_new_order_under_a_new_view() -> None:
    pixels = Pixels()
    train(pixels=pixels, validation=None)

    orders = []
    for epoch in (0, 1):
        read = [(batch, policy) for batch, policy, view in pixels.asked if view == epoch]
        assert {policy for _, policy in read} == {"light"}
        orders.append([picture for batch, _ in read for picture in batch])
        assert sorted(orders[-1]) == EVERY.tolist()
    assert orders[0] != orders[1]


def test_validation_pictures_are_never_augmented_and_never_trained_on() -> None:
    pixels, validation = Pixels(), np.arange(6)
    train(pixels=pixels, on=np.arange(6, 24), validation=validation)

    plain = [(batch, view) for batch, policy, view in pixels.asked if policy == "none"]
    assert plain == [((0, 1, 2, 3, 4, 5), 0)] * 2
    for batch, policy, _ in pixels.asked:
        assert (min(batch) >= 6) == (policy == "light")


# --- loss, mixup, schedule ------------------------------------------------------------------


@pytest.mark.parametrize("counts", [(10, 10, 10), (10, 14, 12), (10, 15), (30, 10, 20)])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.15])
def test_a_loss_is_that_of_torch_with_classes_weighted_where_one_is_half_again_another(
    counts: tuple[int, ...], label_smoothing: float
) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    weights = {(10, 15): [25 / 20, 25 / 30], (30, 10, 20): [60 / 90, 60 / 30, 60 / 60]}
    logits_nk = torch.rand(7, len(counts), generator=torch.Generator().manual_seed(0))
    own = np.resize(np.unique(labels), 7)

    targets_kk, weights_k = class_targets(
        labels, classes=len(counts), label_smoothing=label_smoothing
    )

    loss = F.cross_entropy(
        logits_nk.double(), torch.from_numpy(targets_kk[own]), reduction="sum"
    ) / float(weights_k[own].sum())
    weight = torch.tensor(weights.get(counts, [1.0] * len(counts)), dtype=torch.float64)
    expected = F.cross_entropy(
        logits_nk.double(), torch.from_numpy(own), weight=weight, label_smoothing=label_smoothing
    )
    torch.testing.assert_close(loss, expected)


def test_no_mixup_leaves_a_batch_alone_and_draws_nothing() -> None:
    inputs, targets, rng = torch.rand(5, 3), np.eye(5), np.random.default_rng(0)

    mixed, blended = mixup(inputs, targets, 0.0, rng)

    assert mixed is inputs
    assert blended is targets
    assert rng.random() == np.random.default_rng(0).random()


def test_mixup_blends_each_input_and_its_target_with_those_of_its_partner() -> None:
    inputs = torch.rand(6, 3, generator=torch.Generator().manual_seed(0))

    mixed, blended = mixup(inputs, np.eye(6), 0.4, np.random.default_rng(0))

    assert sorted(blended.sum(axis=0)) == pytest.approx([1.0] * 6), "each is a partner once"
    np.testing.assert_allclose(mixed, blended @ inputs.numpy(), rtol=1e-5)
    shares = np.unique(blended[(blended > 0) & (blended < 1)].round(9))
    assert len(shares) == 2 and shares.sum() == 1, "all are blended in one proportion"


# --- beginning anew -------------------------------------------------------------------------


@pytest.mark.parametrize("batch_norm", ["frozen", "updating"])
def test_a_learner_that_begins_anew_trains_as_a_new_one(batch_norm: BatchNormMode) -> None:
    recipe = replace(RECIPE, batch_norm=batch_norm, mixup=0.3)
    other = replace(recipe, learning_rate=1e-2, weight_decay=0.3, label_smoothing=0.1)
    model = copy.deepcopy(TEMPLATE)
    model.freeze(recipe.freeze_depth, recipe.batch_norm)
    learner = Learner(model, 0, PLAIN)

    list(fit(learner, Pixels(), LABELS, EVERY, EVERY, other, SHORT))
    model.copy_weights(TEMPLATE)
    again = list(fit(learner, Pixels(), LABELS, EVERY, EVERY, recipe, SHORT))

    for one, new in zip(again, train(recipe), strict=True):
        assert one.train_loss == new.train_loss
        np.testing.assert_array_equal(one.probabilities_nk, new.probabilities_nk)


@pytest.mark.parametrize("rates", ["as numbers", "in memory"])  # as on a CPU, as on CUDA
@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_steps_are_those_of_adamw(
    memory_format: torch.memory_format, micro_batches: int, rates: str
) -> None:
    """Decay is decoupled; vectors do not decay, nor does what is frozen. Gradients are clipped."""
    recipe = replace(RECIPE, weight_decay=0.2, head_lr_factor=5.0, augmentation="none")
    ours, theirs = copy.deepcopy(TEMPLATE), copy.deepcopy(TEMPLATE)
    for model in (ours, theirs):
        model.to(memory_format=memory_format).freeze(3, "frozen")
        model.train()
        model.network.unused = nn.Parameter(torch.ones(2, 3))  # as some networks have
    learner = Learner(ours, 0, PLAIN, micro_batches=micro_batches)
    if rates == "in memory":
        groups = ours.parameter_groups()
        learner._rates = _RatesInMemory(groups, learner._optimizer, "cpu")
    learner.begin(recipe, 5)
    optimizer = torch.optim.AdamW(
        [
            {
                "params": group.parameters,
                "lr": recipe.learning_rate * (5.0 if group.in_head else 1.0),
                "weight_decay": 0.2 if group.decays else 0.0,
            }
            for group in theirs.parameter_groups()
        ]
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, [1.0, *COSINE_OF_FOUR].__getitem__)
    targets = torch.from_numpy(np.eye(3)[LABELS[:8]]).float() / 8
    images = Pixels().read(EVERY[:8], policy="none", view=0)
    norms = []
    for weight in (1, 4, 1, 8):
        learner.step(images, weight * targets)
        optimizer.zero_grad()
        F.cross_entropy(theirs(images), weight * targets, reduction="sum").backward()
        norms.append(float(nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)))
        optimizer.step()
        schedule.step()
    # Steps do not depend on a factor that all gradients have in common: some are clipped.
    assert min(norms) < 1 < max(norms)
    for (name, mine), reference in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, reference, msg=name)


def test_weights_that_nothing_uses_stay_as_they_are() -> None:
    model = copy.deepcopy(TEMPLATE)
    model.freeze(5, "frozen")
    model.network.unused = nn.Parameter(torch.ones(2, 3))  # a group of its own
    learner = Learner(model, 0, PLAIN)
    learner.begin(replace(RECIPE, freeze_depth=5, weight_decay=0.2), 1)
    targets = torch.from_numpy(np.eye(3)[LABELS[:8]]).float() / 8
    learner.step(Pixels().read(EVERY[:8], policy="none", view=0), targets)
    assert torch.equal(model.network.unused, torch.ones(2, 3))
    assert not torch.equal(model.classifier.weight, TEMPLATE.classifier.weight)


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[float]]:
    """The first group's learning rate at every step of the optimiser."""
    seen: list[float] = []

    class Recording(torch.optim.AdamW):
        def step(self, *args: Any, **kwargs: Any) -> Any:
            seen.append(self.param_groups[0]["lr"])
            return super().step(*args, **kwargs)

    monkeypatch.setattr(torch.optim, "AdamW", Recording)
    return lambda: seen


def test_the_learning_rate_rises_in_a_tenth_of_the_steps_and_falls_as_a_cosine(
    rates: Callable[[], list[float]],
) -> None:
    train(replace(RECIPE, freeze_depth=5), Schedule(epochs=10, batch_size=6, seed=0))

    shares = [rate / RECIPE.learning_rate for rate in rates()]
    assert len(shares) == 40
    assert shares[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    cosine = [0.5 * (1 + math.cos(math.pi * step / 36)) for step in range(36)]
    assert shares[4:] == pytest.approx(cosine)


def test_even_a_single_step_has_a_learning_rate(rates: Callable[[], list[float]]) -> None:
    train(schedule=Schedule(epochs=1, batch_size=32, seed=0), validation=None)

    assert rates() == [RECIPE.learning_rate]
