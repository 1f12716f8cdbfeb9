"""Training begins with normalisations and a head that fit the pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from bench.models.staged import StagedModel
from bench.records import BatchNormMode, Recipe, TrialJob
from bench.training import trainer as trainer_module
from bench.training.learner import Learner, batches
from bench.training.loop import predict
from bench.training.networks import StudyNetworks
from bench.training.start import Start, find_start
from bench.training.trainer import Trainer
from tests.tiny import BACKBONE, PLAIN, all_events, make_plan, write_pictures

RECIPE = Recipe(backbone=BACKBONE, freeze_depth=2, batch_norm="updating")
BATCH = 8


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> StudyNetworks:
    folder = tmp_path_factory.mktemp("start")
    return StudyNetworks(make_plan(write_pictures(folder / "pictures"), folder / "runs"))


@pytest.fixture
def train(networks: StudyNetworks) -> np.ndarray:
    return np.asarray(networks.plan.split.training_part(0), dtype=np.int64)


def found(networks: StudyNetworks, recipe: Recipe, train: np.ndarray) -> tuple[StagedModel, Start]:
    """A model after the search for its start, and the start."""
    model = networks.model(recipe, seed=1)
    boundary = model.boundary(recipe.freeze_depth)
    activations = networks.activations(recipe.backbone, boundary)
    labels = np.asarray(networks.plan.dataset.labels, dtype=np.int64)
    return model, find_start(model, activations, boundary, labels, train, BATCH, PLAIN)


def accuracy(networks: StudyNetworks, model: StagedModel, pictures: np.ndarray) -> float:
    activations = networks.activations(BACKBONE, 2)
    probabilities_nk = predict(Learner(model, 2, PLAIN), activations, pictures, BATCH)
    labels = np.asarray(networks.plan.dataset.labels)[pictures]
    return float((probabilities_nk.argmax(axis=1) == labels).mean())


def test_updating_normalisations_begin_with_the_mean_of_the_batches_statistics(
    networks: StudyNetworks, train: np.ndarray
) -> None:
    model = networks.model(RECIPE, seed=1)
    activations = networks.activations(BACKBONE, 2)
    seen: list[torch.Tensor] = []
    first = model.updating_norms()[0]
    hook = first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    labels = np.asarray(networks.plan.dataset.labels, dtype=np.int64)

    start = find_start(model, activations, 2, labels, train, BATCH, PLAIN)
    hook.remove()

    assert len(seen) == len(batches(train, BATCH)) > 1
    mean, variance = start.statistics[0]
    assert torch.allclose(mean, torch.stack([x.mean((0, 2, 3)) for x in seen]).mean(0), atol=1e-5)
    assert torch.allclose(variance, torch.stack([x.var((0, 2, 3)) for x in seen]).mean(0))


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_the_start_is_the_same_whether_activations_are_stored_first_there_already_or_never_stored(
    networks: StudyNetworks, train: np.ndarray, tmp_path: Path, depth: int
) -> None:
    recipe = replace(RECIPE, freeze_depth=depth)
    storing = StudyNetworks(replace(networks.plan, workspace=str(tmp_path), cache_bytes=10**9))

    _, never = found(networks, recipe, train)
    _, first = found(storing, recipe, train)
    _, again = found(storing, recipe, train)

    assert list((tmp_path / "cache").rglob("*")), "something was stored"
    for start in (first, again):
        assert np.array_equal(start.probe.weight_kf, never.probe.weight_kf)
        for ours, theirs in zip(start.statistics, never.statistics, strict=True):
            assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(
    ("depth", "batch_norm", "adapted"),
    [(2, "updating", True), (2, "frozen", False), (5, "updating", False)],
)
def test_only_what_training_would_update_is_adapted(
    networks: StudyNetworks, train: np.ndarray, depth: int, batch_norm: BatchNormMode, adapted: bool
) -> None:
    recipe = replace(RECIPE, freeze_depth=depth, batch_norm=batch_norm)
    before = networks.model(recipe, seed=1).state_dict()
    model, start = found(networks, recipe, train)

    changed = {name for name, value in model.state_dict().items() if (value != before[name]).any()}
    assert bool(start.statistics) == bool(changed) == adapted
    assert all(".running_" in name or "num_batches" in name for name in changed)
    names = {id(module): name for name, module in model.named_modules()}
    assert {name.rpartition(".")[0] for name in changed} == {
        names[id(norm)] for norm in model.updating_norms()
    }


def test_normalisations_go_on_with_the_momentum_that_they_had(
    networks: StudyNetworks, train: np.ndarray
) -> None:
    model, _ = found(networks, RECIPE, train)
    assert {norm.momentum for norm in model.updating_norms()} == {0.1}

    unreadable = SimpleNamespace(read=lambda *_, **__: 1 / 0)
    labels = np.asarray(networks.plan.dataset.labels, dtype=np.int64)
    with pytest.raises(ZeroDivisionError):
        find_start(model, cast(Any, unreadable), 2, labels, train, BATCH, PLAIN)
    assert {norm.momentum for norm in model.updating_norms()} == {0.1}, "also after a failure"


def test_a_started_model_knows_its_pictures_before_it_is_trained(
    networks: StudyNetworks, train: np.ndarray
) -> None:
    """A head that was fitted to features of the old statistics does not, once they are new."""
    _, start = found(networks, RECIPE, train)
    model = networks.model(RECIPE, seed=1)
    start.apply(model)
    assert accuracy(networks, model, train) > 0.95

    _, frozen = found(networks, replace(RECIPE, batch_norm="frozen"), train)
    frozen.probe.start(model.classifier)
    assert accuracy(networks, model, train) < 0.9


def test_a_started_model_gives_the_probes_classes_less_surely(
    networks: StudyNetworks, train: np.ndarray
) -> None:
    """A sure head leaves the parts before it nothing to learn."""
    model, start = found(networks, RECIPE, train)

    def probabilities() -> np.ndarray:
        activations = networks.activations(BACKBONE, 2)
        return predict(Learner(model, 2, PLAIN), activations, train, BATCH)

    start.apply(model)
    started = probabilities()
    start.probe.start(model.classifier)
    sure = probabilities()

    assert np.array_equal(started.argmax(axis=1), sure.argmax(axis=1))
    assert (started.max(axis=1) < sure.max(axis=1)).all()


def test_a_start_is_found_once_for_all_trials_that_adapt_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(make_plan(write_pictures(tmp_path / "pictures"), tmp_path / "runs"))
    depths: list[int] = []

    def counting(model: StagedModel, *arguments: Any) -> Start:
        depths.append(len(model.updating_norms()))
        return find_start(model, *arguments)

    monkeypatch.setattr(trainer_module, "find_start", counting)
    changes: list[dict[str, Any]] = [
        {},
        {"learning_rate": 1e-5},
        {"freeze_depth": 3},
        {"batch_norm": "frozen"},
        {"batch_norm": "frozen", "freeze_depth": 3},
        {"freeze_depth": 5},
    ]
    for number, change in enumerate(changes):
        all_events(trainer, TrialJob(number=number, recipe=replace(RECIPE, **change)))

    # Two folds each: depth 2, depth 3, and one start for whatever adapts nothing.
    assert len(depths) == 6
    assert len(set(depths)) == 3
    assert depths.count(0) == 2


def test_networks_without_batch_normalisation_begin_with_a_head_alone(
    networks: StudyNetworks,
) -> None:
    model = networks.model(RECIPE, seed=1)
    for name, module in list(model.network.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            model.network.set_submodule(name, nn.Identity())
    assert model.updating_norms() == []
