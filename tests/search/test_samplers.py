"""Every sampler draws from seeds of its own trial, and stays inside the space."""

from __future__ import annotations

import optuna
import pytest
from optuna.distributions import FloatDistribution

from bench.errors import InputError
from bench.search.options import SAMPLERS
from bench.search.samplers import grid, grid_size, make_sampler
from bench.space import Choices, Range, SearchSpace

SPACE = SearchSpace(
    name="small",
    parameters={
        "backbone": Choices(choices=("resnet50", "xception")),
        "learning_rate": Range(low=1e-5, high=1e-3, log=True),
        "freeze_depth": Range(low=3, high=5, whole=True),
        "mixup": Range(low=0.0, high=0.4),
    },
)


def draw(name: str, seed: int, trial: int) -> float:
    study = optuna.create_study()
    sampler = make_sampler(name, SPACE, seed=seed, trial=trial)
    distribution = FloatDistribution(0.0, 1.0)
    drawn = sampler.sample_independent(study, study.ask()._cached_frozen_trial, "x", distribution)
    assert isinstance(drawn, float)
    return drawn


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "grid"])
def test_draws_depend_on_the_seed_and_the_trials_number_alone(name: str) -> None:
    draws = {(seed, trial): draw(name, seed, trial) for seed in range(3) for trial in range(5)}

    assert len(set(draws.values())) == 15
    assert draws == {place: draw(name, *place) for place in draws}


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_study_of_any_sampler_draws_within_the_space_and_repeats_itself(name: str) -> None:
    def recipes() -> list[dict[str, object]]:
        study = optuna.create_study(direction="maximize")
        drawn = []
        for number in range(14):  # beyond the trials that start a model
            study.sampler = make_sampler(name, SPACE, seed=3, trial=number)
            trial = study.ask(SPACE.distributions())
            SPACE.recipe(trial.params)
            drawn.append(trial.params)
            study.sampler = optuna.samplers.RandomSampler()
            study.tell(trial, -trial.params["learning_rate"])
        return drawn

    first = recipes()
    assert recipes() == first
    for params in first:
        assert all(SPACE.parameters[key].contains(value) for key, value in params.items())


def test_a_grid_combines_choices_whole_numbers_and_three_points_of_each_range() -> None:
    values = grid(SPACE)
    assert values["backbone"] == ["resnet50", "xception"]
    assert values["freeze_depth"] == [3, 4, 5]
    assert values["learning_rate"] == pytest.approx([1e-5, 1e-4, 1e-3])
    assert values["mixup"] == pytest.approx([0.0, 0.2, 0.4])
    assert grid_size(SPACE) == 2 * 3 * 3 * 3


def test_a_sampler_nobody_knows_is_refused_with_those_there_are() -> None:
    with pytest.raises(
        InputError, match=r"--sampler takes tpe, gp, cmaes, random or grid, not 'ttp'"
    ):
        make_sampler("ttp", SPACE, seed=0, trial=0)
