from __future__ import annotations

import optuna
import pytest

from bench.errors import InputError
from bench.search.options import PRUNERS
from bench.search.pruners import make_pruner, running_mean, step_of
from tests.records import epoch_scores


@pytest.mark.parametrize(
    ("told", "mean"),
    [
        ([(0, 0, 0.4)], 0.4),
        ([(0, 0, 0.4), (0, 1, 0.6)], 0.6),
        ([(0, 0, 0.9), (0, 1, 0.6), (1, 0, 0.2)], 0.4),
        ([(0, 0, 0.9), (0, 1, 0.6), (1, 0, 0.2), (1, 1, 0.8), (2, 0, 0.1)], 0.5),
    ],
)
def test_the_running_mean_is_of_finished_folds_last_epochs_and_the_current_one(
    told: list[tuple[int, int, float]], mean: float
) -> None:
    assert running_mean([epoch_scores(*row) for row in told]) == pytest.approx(mean)


def test_steps_count_on_across_folds_without_gap_or_repetition() -> None:
    steps = [step_of(epoch_scores(fold, epoch, 0.5), 4) for fold in range(3) for epoch in range(4)]

    assert steps == list(range(12))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("median", optuna.pruners.MedianPruner),
        ("hyperband", optuna.pruners.HyperbandPruner),
        ("racing", optuna.pruners.MedianPruner),
        ("none", optuna.pruners.NopPruner),
    ],
)
def test_a_pruner_is_made_by_its_name(name: str, kind: type) -> None:
    assert name in PRUNERS
    assert isinstance(make_pruner(name, folds=3, epochs=4), kind)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("medain", "did you mean `median`?"), ("hyperbnd", "did you mean `hyperband`?"), ("xyz", "")],
)
def test_an_unknown_pruner_is_refused_with_the_names_that_exist(name: str, hint: str) -> None:
    with pytest.raises(InputError) as caught:
        make_pruner(name, folds=3, epochs=4)

    for fragment in ("--pruner takes racing, median, hyperband or none", repr(name), hint):
        assert fragment in str(caught.value)
