from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import optuna
import pytest

from bench.database import Database
from bench.errors import InputError, StudyMismatchError
from bench.records import StudyPlan, WeightSource
from bench.search.study import DEFAULT_RECIPE, Tally, load_study, open_study, refuse_changes

Change = Callable[[StudyPlan], StudyPlan]


def tuned(name: str, spec: dict[str, Any]) -> Change:
    def change(plan: StudyPlan) -> StudyPlan:
        parameters = {**plan.space["parameters"], name: spec}
        return replace(plan, space={**plan.space, "parameters": parameters})

    return change


def setting(**values: Any) -> Change:
    return lambda plan: replace(plan, settings=replace(plan.settings, **values))


def altered_picture(plan: StudyPlan) -> StudyPlan:
    first, *rest = plan.dataset.pictures
    pictures = (replace(first, sha256="other"), *rest)
    return replace(plan, dataset=replace(plan.dataset, pictures=pictures))


def one_picture_less(plan: StudyPlan) -> StudyPlan:
    return replace(plan, dataset=replace(plan.dataset, pictures=plan.dataset.pictures[:-1]))


def cropped(plan: StudyPlan) -> StudyPlan:
    return replace(plan, dataset=replace(plan.dataset, crop=(1, 1, 7, 7)))


def other_test_set(plan: StudyPlan) -> StudyPlan:
    split = replace(plan.split, test=(2, 3), folds=((0, 1, 4, 5, 6), plan.split.folds[1]))
    return replace(plan, split=split)


def one_fold_more(plan: StudyPlan) -> StudyPlan:
    return replace(plan, split=replace(plan.split, folds=((2, 3, 4, 5, 6), (7, 8), (9, 10, 11))))


def other_weights(plan: StudyPlan) -> StudyPlan:
    source = WeightSource(kind="file", detail="w.pth", digest="abcd")
    return replace(plan, weights={**plan.weights, "small": source})


@pytest.mark.parametrize(
    ("change", "fragments"),
    [
        (
            tuned("learning_rate", {"low": 1e-4, "high": 1e-2, "log": True}),
            ["parameter `learning_rate`", "1e-05", "0.0001"],
        ),
        (
            tuned("backbone", {"choices": ["small", "huge"]}),
            ["parameter `backbone`", "small, large", "small, huge"],
        ),
        (
            tuned("mixup", {"low": 0.0, "high": 0.4, "log": False}),
            ["parameter `mixup` was added"],
        ),
        (altered_picture, ["data set: 1 picture is new or altered and 1 is gone or altered"]),
        (one_picture_less, ["data set: 0 pictures are new or altered and 1 is gone or altered"]),
        (cropped, ["crop: None -> (1, 1, 7, 7)"]),
        (other_test_set, ["split:", "2 folds and 2 test pictures"]),
        (one_fold_more, ["split: 2 folds", "-> 3 folds"]),
        (setting(epochs=7), ["setting epochs: 3 -> 7"]),
        (setting(batch_size=16), ["setting batch_size: 8 -> 16"]),
        (setting(image_size=None), ["setting image_size: 32 -> None"]),
        (setting(resize="center-crop"), ["setting resize: squash -> center-crop"]),
        (setting(family="spectrogram"), ["setting family: photo -> spectrogram"]),
        (setting(pretrained=True), ["setting pretrained: False -> True"]),
        (setting(seed=4), ["setting seed: 0 -> 4"]),
        (setting(pruner="none"), ["setting pruner: median -> none"]),
        (setting(store="half"), ["setting store: exact -> half"]),
        (other_weights, ["weights of small", "random", "w.pth", "abcd"]),
    ],
)
def test_a_study_is_not_resumed_with_something_changed_and_the_change_is_named(
    study_plan: StudyPlan, change: Change, fragments: list[str]
) -> None:
    with pytest.raises(StudyMismatchError) as caught:
        refuse_changes(study_plan, change(study_plan))

    for fragment in [*fragments, "'pets'", "--study"]:
        assert fragment in str(caught.value)


@pytest.mark.parametrize("name", ["epochs", "batch_size"])
def test_what_both_the_space_and_the_settings_hold_is_told_once(
    study_plan: StudyPlan, name: str
) -> None:
    training = {**study_plan.space["training"], name: 7}
    changed = replace(
        setting(**{name: 7})(study_plan), space={**study_plan.space, "training": training}
    )

    with pytest.raises(StudyMismatchError) as caught:
        refuse_changes(study_plan, changed)

    assert str(caught.value).count(name) == 1


def test_other_folds_are_told_once(study_plan: StudyPlan) -> None:
    changed = one_fold_more(study_plan)
    training = {**study_plan.space["training"], "folds": 3}

    with pytest.raises(StudyMismatchError) as caught:
        refuse_changes(study_plan, replace(changed, space={**changed.space, "training": training}))

    assert str(caught.value).count("\n  ") == 1


def test_all_changes_are_named_together(study_plan: StudyPlan) -> None:
    changed = other_weights(setting(epochs=7, seed=4)(altered_picture(study_plan)))

    with pytest.raises(StudyMismatchError) as caught:
        refuse_changes(study_plan, changed)

    for fragment in ("epochs", "seed", "data set", "weights of small"):
        assert fragment in str(caught.value)


def moved(plan: StudyPlan) -> StudyPlan:
    return replace(plan, dataset=replace(plan.dataset, root="/elsewhere"))


@pytest.mark.parametrize(
    "change",
    [
        lambda plan: plan,
        moved,
        lambda plan: replace(plan, workspace="/elsewhere", notes=("a remark",)),
        lambda plan: replace(plan, space={**plan.space, "description": "another"}),
    ],
)
def test_what_changes_no_trial_is_no_change(study_plan: StudyPlan, change: Change) -> None:
    refuse_changes(study_plan, change(study_plan))


# --- opening --------------------------------------------------------------------------------


FIRST = [
    {"backbone": backbone, "learning_rate": 1e-3, "freeze_depth": depth}
    for depth in (5, 4, 2)
    for backbone in ("small", "large")
]


@pytest.fixture
def deep_plan(study_plan: StudyPlan) -> StudyPlan:
    """The untuned recipe is none of the quick ones."""
    defaults = {**study_plan.space["defaults"], "freeze_depth": 2}
    return replace(study_plan, space={**study_plan.space, "defaults": defaults})


def enqueued(study: optuna.Study) -> list[dict[str, Any]]:
    return [trial.system_attrs["fixed_params"] for trial in study.get_trials()]


def test_a_new_study_begins_with_the_most_frozen_recipes_of_all_backbones(
    deep_plan: StudyPlan, database: Database
) -> None:
    study = open_study(deep_plan, database)

    assert {trial.state.name for trial in study.get_trials()} == {"WAITING"}
    assert enqueued(study) == FIRST
    assert study.direction.name == "MAXIMIZE"


@pytest.mark.parametrize("depth", [4, 2])
def test_one_recipe_of_each_backbone_is_the_default(
    study_plan: StudyPlan, deep_plan: StudyPlan, database: Database, depth: int
) -> None:
    study = open_study(study_plan if depth == 4 else deep_plan, database)

    marked = [trial for trial in study.get_trials() if DEFAULT_RECIPE in trial.user_attrs]
    assert [trial.system_attrs["fixed_params"] for trial in marked] == [
        {"backbone": backbone, "learning_rate": 1e-3, "freeze_depth": depth}
        for backbone in ("small", "large")
    ]


def test_opening_again_enqueues_nothing_twice(deep_plan: StudyPlan, database: Database) -> None:
    open_study(deep_plan, database)
    open_study(deep_plan, database).ask()

    assert len(open_study(deep_plan, database).get_trials()) == len(FIRST)


def test_first_trials_that_a_kill_kept_from_being_enqueued_are_made_up_for(
    deep_plan: StudyPlan, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    enqueue = optuna.Study.enqueue_trial

    def killed_at_the_third(self: optuna.Study, *args: Any, **kwargs: Any) -> None:
        if len(self.get_trials()) == 2:
            raise KeyboardInterrupt
        enqueue(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "enqueue_trial", killed_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            open_study(deep_plan, database)

    assert enqueued(open_study(deep_plan, database)) == FIRST


def test_a_study_that_has_begun_otherwise_goes_on_as_it_began(
    deep_plan: StudyPlan, database: Database
) -> None:
    """Studies of earlier versions began with the default recipes alone."""
    study = optuna.create_study(
        study_name=deep_plan.study, storage=database.storage, direction="maximize"
    )
    for params in FIRST[-2:]:
        study.enqueue_trial(params, user_attrs={DEFAULT_RECIPE: 0})
    study.ask()

    assert enqueued(open_study(deep_plan, database)) == FIRST[-2:]


@pytest.mark.parametrize("ended", [(0, 1, 2), (1, 0, 2), (2, 1, 0)])
def test_of_equal_trials_the_first_is_the_best_and_a_later_one_no_improvement(
    ended: tuple[int, ...],
) -> None:
    tally = Tally()
    for number in ended:
        trial = optuna.trial.create_trial(value=0.5)
        trial.number = number
        tally = tally.after(trial)

    assert tally == Tally(finished=3, best=(0.5, 0), since_best=2)


def test_a_study_that_is_not_there_is_told_with_those_that_are(
    study_plan: StudyPlan, database: Database
) -> None:
    with pytest.raises(InputError, match="no study is called 'cats'; there are: none yet"):
        load_study("cats", database)
