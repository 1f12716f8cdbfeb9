"""A probe put into a classifier predicts what scikit-learn's regression predicts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from bench.training import probe as probe_module
from bench.training.probe import _C, fit_probe


@pytest.mark.parametrize(("classes", "each"), [(2, 30), (3, 30), (7, 30), (7, 700)])
def test_a_started_classifier_gives_the_regressions_probabilities(classes: int, each: int) -> None:
    """Also for more pictures than are standardised at once."""
    rng = np.random.default_rng(classes)
    labels = np.tile(np.arange(classes), each)
    features = rng.normal(size=(len(labels), 12)).astype(np.float32) * 5 + 3
    features[:, 0] += 4 * labels
    expected = make_pipeline(
        StandardScaler(), LogisticRegression(C=_C, class_weight="balanced", max_iter=300)
    ).fit(features, labels)

    classifier = nn.Linear(12, classes)
    assert fit_probe(features.copy(), labels).start(classifier)
    with torch.no_grad():
        logits = classifier(torch.from_numpy(features))
    found = torch.softmax(logits, dim=1).numpy()
    assert np.abs(found - expected.predict_proba(features)).max() < 1e-5


@pytest.mark.parametrize("classes", [2, 5])
def test_fewer_pictures_than_features_give_the_same_regression(classes: int) -> None:
    """It is looked for among sums of pictures alone, and stops on another way to the same place."""
    rng = np.random.default_rng(classes)
    labels = np.tile(np.arange(classes), 20)
    features = rng.normal(size=(len(labels), 300)).astype(np.float32)
    features += 0.4 * rng.normal(size=(classes, 300)).astype(np.float32)[labels]
    expected = make_pipeline(
        StandardScaler(), LogisticRegression(C=_C, class_weight="balanced", tol=1e-8)
    ).fit(features, labels)

    probe = fit_probe(features.copy(), labels)
    logits = torch.from_numpy(features @ probe.weight_kf.T + probe.bias_k)
    found = torch.softmax(logits, dim=1).numpy()
    assert np.abs(found - expected.predict_proba(features)).max() < 1e-3


def test_a_probe_that_stops_on_its_way_says_nothing(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr(probe_module, "_MOST_ITERATIONS", 1)
    rng = np.random.default_rng(0)
    fit_probe(rng.normal(size=(30, 40)).astype(np.float32), np.tile(np.arange(3), 10))
    assert not recwarn.list


def test_a_feature_that_hardly_varies_gets_no_great_weight() -> None:
    """Training may wake it, and then it would outvote all others."""
    rng = np.random.default_rng(0)
    labels = np.tile(np.arange(3), 40)
    features = rng.normal(size=(len(labels), 12)).astype(np.float32)
    features[:, 0] = 1e-4 * labels
    largest = np.abs(fit_probe(features.copy(), labels).weight_kf).max(axis=0)
    assert largest[0] < largest[1:].max()


def test_features_without_any_spread_give_each_class_the_same_chance() -> None:
    labels = np.tile(np.arange(3), 10)
    probe = fit_probe(np.ones((30, 4), dtype=np.float32), labels)
    logits = np.ones(4) @ probe.weight_kf.T + probe.bias_k
    assert np.ptp(logits) < 1e-6


def test_a_head_that_is_no_linear_layer_is_left_alone() -> None:
    labels = np.tile(np.arange(3), 10)
    probe = fit_probe(np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32), labels)
    head = nn.Conv2d(4, 3, 1)
    before = head.weight.detach().clone()
    assert not probe.start(head)
    assert torch.equal(head.weight, before)
