"""A probe put into a classifier predicts what scikit-learn's regression predicts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

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


def test_a_head_that_is_no_linear_layer_is_left_alone() -> None:
    labels = np.tile(np.arange(3), 10)
    probe = fit_probe(np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32), labels)
    head = nn.Conv2d(4, 3, 1)
    before = head.weight.detach().clone()
    assert not probe.start(head)
    assert torch.equal(head.weight, before)
