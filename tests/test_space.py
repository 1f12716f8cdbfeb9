"""Search spaces: what a file may say, what is told when it may not, and what comes out of it."""

from __future__ import annotations

import textwrap
from dataclasses import fields, replace
from pathlib import Path

import optuna
import pytest
from optuna.distributions import (
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from bench.errors import SpaceError
from bench.records import Recipe, from_json, to_json
from bench.space import (
    _LIMITS,
    Choices,
    Range,
    SearchSpace,
    changes,
    list_spaces,
    load_space,
    space_source,
)

SMALL = """\
family: photo
resize: center-crop
training: {folds: 3, epochs: 2, batch_size: 8, image_size: 64}
parameters:
  freeze_depth: {low: 0, high: 4}
  backbone: {choices: [resnet50, xception]}
  learning_rate: {low: 1e-5, high: 3e-3, log: true}
  head_lr_factor: {low: 1, high: 20, log: true}
defaults:
  learning_rate: 2e-4
  mixup: 0.2
"""

BUNDLED = ("cpu", "default", "demo", "photo")


def write(folder: Path, text: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return str(path)


def untuned(space: SearchSpace) -> tuple[Recipe, ...]:
    return tuple(space.recipe(params) for params in space.default_params())


def load(folder: Path, text: str = SMALL) -> SearchSpace:
    return load_space(write(folder, text))


def refusal(folder: Path, text: str) -> list[str]:
    """The faults told of a file, each without its folder."""
    with pytest.raises(SpaceError) as caught:
        load(folder, text)
    return [line.removeprefix(f"{folder}/") for line in str(caught.value).splitlines()]


# --- what comes out -------------------------------------------------------------------------


def test_the_type_of_a_field_of_recipe_decides_its_distribution(tmp_path: Path) -> None:
    assert load(tmp_path).distributions() == {
        "backbone": CategoricalDistribution(("resnet50", "xception")),
        "learning_rate": FloatDistribution(1e-5, 3e-3, log=True),
        "freeze_depth": IntDistribution(0, 4),
        "head_lr_factor": FloatDistribution(1.0, 20.0, log=True),
    }


@pytest.mark.parametrize(
    ("parameters", "depths"),
    [
        ("freeze_depth: {low: 2, high: 4}", (2, 3, 4)),
        ("mixup: {low: 0, high: 0.4}", (1,)),
    ],
    ids=["a range", "the default"],
)
def test_it_is_known_how_much_its_recipes_freeze(
    tmp_path: Path, parameters: str, depths: tuple[int, ...]
) -> None:
    text = f"""\
        parameters:
          backbone: {{choices: [resnet50]}}
          {parameters}
        defaults: {{{"" if "freeze" in parameters else "freeze_depth: 1"}}}
        """
    assert load(tmp_path, text).freeze_depths == depths


def test_what_the_trials_share_is_read(tmp_path: Path) -> None:
    space = load(tmp_path)
    assert (space.name, space.family, space.resize) == ("mine", "photo", "center-crop")
    assert (space.folds, space.epochs, space.batch_size, space.image_size) == (3, 2, 8, 64)


def test_only_a_backbone_is_required(tmp_path: Path) -> None:
    space = load(tmp_path, "parameters: {backbone: {choices: [vit_tiny]}}")
    assert (space.family, space.resize) == ("spectrogram", "squash")
    assert (space.folds, space.epochs, space.batch_size, space.image_size) == (5, 10, 32, None)
    assert untuned(space) == (Recipe(backbone="vit_tiny"),)


def test_the_order_in_the_file_does_not_matter(tmp_path: Path) -> None:
    turned = """\
        defaults: {mixup: 0.2, learning_rate: 0.0002}
        parameters:
          head_lr_factor: {high: 20.0, low: 1.0, log: true}
          backbone: {choices: [resnet50, xception]}
          learning_rate: {log: true, low: 0.00001, high: 0.003}
          freeze_depth: {low: 0, high: 4}
        training: {epochs: 2, folds: 3, image_size: 64, batch_size: 8}
        resize: center-crop
        family: photo
        """
    one, other = load(tmp_path), load(tmp_path, turned)
    assert changes(one, other) == ()
    assert list(one.distributions()) == list(other.distributions())


def test_a_trial_becomes_a_recipe_and_what_is_not_tuned_keeps_its_default(tmp_path: Path) -> None:
    params = {
        "backbone": "xception",
        "learning_rate": 5e-5,
        "freeze_depth": 2,
        "head_lr_factor": 4.0,
    }
    assert load(tmp_path).recipe(params) == Recipe(
        backbone="xception", learning_rate=5e-5, freeze_depth=2, head_lr_factor=4.0, mixup=0.2
    )


@pytest.mark.parametrize("params", [{"backbone": "xception"}, {"momentum": 0.9}])
def test_a_trial_with_other_parameters_than_the_tuned_ones_is_refused(
    tmp_path: Path, params: dict[str, object]
) -> None:
    with pytest.raises(SpaceError, match="exactly the tuned parameters"):
        load(tmp_path).recipe(params)


def test_the_untuned_recipes_are_one_a_backbone(tmp_path: Path) -> None:
    assert untuned(load(tmp_path)) == (
        Recipe(backbone="resnet50", learning_rate=2e-4, mixup=0.2),
        Recipe(backbone="xception", learning_rate=2e-4, mixup=0.2),
    )


FIRST = [
    # (range of freeze_depth, its default, depths of the first trials)
    ("{low: 0, high: 5}", 3, (5, 4, 3)),
    ("{low: 0, high: 5}", 4, (5, 4)),
    ("{low: 0, high: 5}", 5, (5, 4)),
    ("{low: 0, high: 4}", 2, (4, 2)),
    ("{low: 0, high: 3}", 3, (3,)),
    ("{low: 0, high: 3}", 1, (1,)),
    (None, 3, (3,)),
]


@pytest.mark.parametrize(("depths", "default", "expected"), FIRST)
def test_the_first_recipes_are_the_untuned_ones_most_frozen_first_over_all_backbones(
    tmp_path: Path, depths: str | None, default: int, expected: tuple[int, ...]
) -> None:
    tuned_depth = f"freeze_depth: {depths}" if depths else ""
    text = SMALL.replace("freeze_depth: {low: 0, high: 4}", tuned_depth)
    space = load(tmp_path, text + f"  freeze_depth: {default}\n")
    assert tuple(space.recipe(params) for params in space.first_params()) == tuple(
        Recipe(backbone=backbone, learning_rate=2e-4, mixup=0.2, freeze_depth=depth)
        for depth in expected
        for backbone in ("resnet50", "xception")
    )
    assert [params for params in space.first_params() if params in space.default_params()] == list(
        space.default_params()
    )


def test_only_the_quick_ones_of_the_first_recipes_go_without_augmentation(tmp_path: Path) -> None:
    policies = "  augmentation: {choices: [none, light]}\n"
    defaults = "defaults:\n  augmentation: light\n  freeze_depth: 3\n"
    text = SMALL.replace("defaults:\n", policies + defaults)
    first = load(tmp_path, text).first_params()
    assert [(params["freeze_depth"], params["augmentation"]) for params in first] == [
        *[(4, "none")] * 2,
        *[(3, "light")] * 2,
    ]


def test_other_backbones_can_be_chosen(tmp_path: Path) -> None:
    space = load(tmp_path)
    chosen = space.with_backbones(["resnet18"])
    assert chosen.backbones == ("resnet18",)
    assert replace(chosen, parameters=space.parameters) == space


@pytest.mark.parametrize("names", [[], [""], ["resnet18", "resnet18"]])
def test_backbones_are_at_least_one_and_each_once(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(SpaceError, match=r"mine: parameters\.backbone"):
        load(tmp_path).with_backbones(names)


def test_a_space_changed_in_code_keeps_to_the_rules_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"mine: training\.epochs: .* at least 1, not 0"):
        replace(load(tmp_path), epochs=0)


def test_a_space_survives_being_stored_as_json(tmp_path: Path) -> None:
    space = load(tmp_path)
    stored = from_json(to_json(space.as_dict()), dict)
    again = SearchSpace.from_dict(stored)
    assert again == space
    assert changes(stored, space) == ()


def test_a_stored_space_is_held_to_the_rules(tmp_path: Path) -> None:
    stored = load(tmp_path).as_dict()
    del stored["parameters"]["backbone"]
    with pytest.raises(SpaceError, match=r"mine: parameters: .*`backbone`"):
        SearchSpace.from_dict(stored)


# --- what changed ---------------------------------------------------------------------------

CHANGES = [
    ("", "", ()),
    ("family: photo", "description: renamed\nfamily: photo", ()),
    (
        "high: 3e-3",
        "high: 1e-2",
        ("parameter `learning_rate` was 1e-05 to 0.003 (log) and is now 1e-05 to 0.01 (log)",),
    ),
    (
        "[resnet50, xception]",
        "[resnet50]",
        ("parameter `backbone` was one of resnet50, xception and is now one of resnet50",),
    ),
    (
        "  freeze_depth: {low: 0, high: 4}\n",
        "",
        ("parameter `freeze_depth` was removed (it was 0 to 4)",),
    ),
    (
        "parameters:\n",
        "parameters:\n  mixup: {low: 0, high: 0.4}\n",
        ("parameter `mixup` was added (0.0 to 0.4)",),
    ),
    ("epochs: 2", "epochs: 3", ("`epochs` was 2 and is now 3",)),
    ("image_size: 64", "image_size: null", ("`image_size` was 64 and is now null",)),
    ("family: photo", "family: spectrogram", ("`family` was photo and is now spectrogram",)),
    ("mixup: 0.2", "mixup: 0.1", ("the default of `mixup` was 0.2 and is now 0.1",)),
]


@pytest.mark.parametrize(("old", "new", "sentences"), CHANGES)
def test_changes_are_told_by_name_with_both_values(
    tmp_path: Path, old: str, new: str, sentences: tuple[str, ...]
) -> None:
    before = load(tmp_path)
    after = load(tmp_path, SMALL.replace(old, new, 1))
    assert changes(before, after) == sentences


def test_a_parameter_that_no_longer_exists_is_told_as_removed(tmp_path: Path) -> None:
    stored = load(tmp_path).as_dict()
    stored["parameters"]["momentum"] = {"low": 0.8, "high": 0.99, "log": False}
    assert changes(stored, load(tmp_path)) == (
        "parameter `momentum` was removed (it was 0.8 to 0.99)",
    )


# --- what is refused ------------------------------------------------------------------------

BACKBONE = "parameters: {backbone: {choices: [resnet50]}}\n"


def tuned(parameter: str) -> str:
    return f"parameters:\n  backbone: {{choices: [resnet50]}}\n  {parameter}\n"


FAULTS = [
    # the form of the file
    ("parameters: {\n", "mine.yaml:2: not valid YAML"),
    ("family: photo\n\tresize: squash\n", "mine.yaml:2: not valid YAML"),
    ("family: photo\nresize: \x07\n", "mine.yaml:2: not valid YAML"),
    ("", "mine.yaml:1: a search space is a mapping"),
    ("- resnet50\n", "mine.yaml:1: a search space is a mapping"),
    (BACKBONE + "family: photo\nfamily: photo\n", "mine.yaml:3: `family` is given twice, first"),
    (tuned("mixup: {low: 0, high: 1, low: 0}"), "mine.yaml:3: `low` is given twice"),
    (tuned("mixup: {low: [[1]], high: 1}"), "mine.yaml:3: `mixup` must be a number"),
    (BACKBONE + "family: &a [*a]\n", "mine.yaml:2: must be a single value"),
    # names
    (BACKBONE + "famly: photo\n", "mine.yaml:2: `famly` is not known", "did you mean `family`?"),
    (BACKBONE + "training:\n  epoch: 3\n", "mine.yaml:3: `epoch`", "did you mean `epochs`?"),
    (
        tuned("learning_rat: {low: 1e-5, high: 1e-3}"),
        "mine.yaml:3: `learning_rat` is not known under `parameters`",
        "(did you mean `learning_rate`?)",
    ),
    (tuned("mixup: {low: 0, hgh: 1}"), "mine.yaml:3: `hgh`", "did you mean `high`?"),
    (tuned("mixup: {low: 0, high: 1, step: 0.1}"), "`step` is not known under `mixup`"),
    (tuned("mixup: {choices: [0, 1]}"), "`choices` is not known under `mixup`"),
    (BACKBONE + "defaults:\n  backbone: resnet50\n", "mine.yaml:3: `backbone` is not known"),
    # what must be there
    ("family: photo\n", "mine.yaml:1: `parameters` must be given"),
    ("family: photo\nparameters:\n", "mine.yaml:2: `parameters` must be given"),
    (
        "family: photo\nparameters:\n  mixup: {low: 0, high: 1}\n",
        "mine.yaml:2: `parameters` must hold `backbone`",
    ),
    (tuned("mixup: {low: 0}"), "mine.yaml:3: `mixup` needs `high`"),
    # ranges
    (tuned("mixup: {low: 0.4, high: 0.4}"), "mine.yaml:3: `mixup` must have low below high"),
    (tuned("mixup: {low: 0.4, high: 0.1}"), "not 0.4 and 0.1", "under `defaults`"),
    (tuned("mixup: 0.3"), "mine.yaml:3: `mixup` must be a range", "not 0.3", "`defaults`"),
    (
        tuned("weight_decay: {low: 0, high: 1e-2, log: true}"),
        "mine.yaml:3: `weight_decay` must have low above 0",
        "log scale, not 0",
    ),
    (tuned("freeze_depth: {low: 0, high: 5, log: true}"), "`freeze_depth` must have low above 0"),
    (tuned("mixup: {low: 0, high: 1, log: yes}"), "`log` must be true or false, not yes"),
    (tuned("mixup: {low: none, high: 1}"), "`mixup` must be a number, not none"),
    (tuned("mixup: {low: 0, high: .inf}"), "`mixup` must be a number, not .inf"),
    (tuned("mixup: {low: 0, high: 1e999}"), "`mixup` must be a number, not inf"),
    (tuned("mixup: {low: 0, high: '1'}"), "`mixup` must be a number, not 1"),
    (tuned("mixup: {low: false, high: 1}"), "`mixup` must be a number, not false"),
    (tuned("freeze_depth: {low: 0.5, high: 4}"), "`freeze_depth` must be a whole number, not 0.5"),
    (tuned("freeze_depth: {low: 0, high: 6}"), "`freeze_depth` must be from 0", "5", "not 6"),
    (tuned("freeze_depth: {low: -1, high: 5}"), "`freeze_depth` must be from 0", "not -1"),
    (tuned("label_smoothing: {low: 0, high: 1}"), "at least 0 and below 1, not 1"),
    (tuned("label_smoothing: {low: -0.1, high: 0.1}"), "at least 0 and below 1, not -0.1"),
    (tuned("learning_rate: {low: 0, high: 1e-3}"), "`learning_rate` must be above 0, not 0"),
    # choices
    ("parameters: {backbone: {choices: []}}\n", "`backbone` needs at least one choice"),
    ("parameters:\n  backbone: resnet50\n", "mine.yaml:2: `backbone` must list its choices"),
    (tuned("batch_norm: frozen"), "{choices: [frozen, updating]}, not frozen", "`defaults`"),
    ("parameters: {backbone: {choices: [5]}}\n", "`backbone` must be a word, not `5`"),
    (
        "parameters:\n  backbone:\n    choices:\n    - resnet50\n    - resnet50\n",
        "mine.yaml:5: `backbone` lists `resnet50` twice",
    ),
    (
        tuned("augmentation: {choices: [lihgt]}"),
        "must be one of none, light, medium, strong",
        "not `lihgt` (did you mean `light`?)",
    ),
    (tuned("augmentation: {choices: [no]}"), "not `no` (did you mean `none`?)"),
    (tuned("augmentation: {choices: [off, light]}"), "strong, not `off`"),
    (tuned("augmentation: {choices: [false]}"), "not false, which is a word only in quotes"),
    ("parameters: {backbone: {choices: [true]}}\n", "not true, which is a word only in quotes"),
    # what the trials share
    (BACKBONE + "family: fotos\n", "mine.yaml:2: `family` must be one of spectrogram, photo"),
    (BACKBONE + "resize: crop\n", "`resize` must be one of squash, center-crop, not `crop`"),
    (BACKBONE + "description: [a]\n", "mine.yaml:2: `description` must be one line"),
    (BACKBONE + "training: 5\n", "mine.yaml:2: `training` must be a mapping"),
    (BACKBONE + "training: {folds: 1}\n", "`folds` must be a whole number of at least 2, not 1"),
    (BACKBONE + "training: {epochs: 0}\n", "`epochs` must be a whole number of at least 1"),
    (BACKBONE + "training: {epochs: 2.5}\n", "of at least 1, not 2.5"),
    (BACKBONE + "training: {epochs: null}\n", "of at least 1, not null"),
    (BACKBONE + "training: {batch_size: 1}\n", "`batch_size`", "at least 2, not 1"),
    (BACKBONE + "training:\n  image_size: 16\n", "mine.yaml:3: `image_size`", "at least 32"),
    # the untuned recipe
    (BACKBONE + "defaults: [mixup]\n", "mine.yaml:2: `defaults` must be a mapping"),
    (BACKBONE + "defaults: {mixup: high}\n", "`mixup` must be a number, not high"),
    (BACKBONE + "defaults: {freeze_depth: 7}\n", "`freeze_depth` must be from 0"),
    (BACKBONE + "defaults: {batch_norm: off}\n", "one of frozen, updating, not `off`"),
    (
        tuned("mixup: {low: 0.1, high: 0.4}") + "defaults:\n  mixup: 0.5\n",
        "mine.yaml:5: the default of `mixup` must lie in its range (0.1 to 0.4), not 0.5",
    ),
    (
        tuned("augmentation: {choices: [none, strong]}"),
        "mine.yaml:3: the default of `augmentation` must lie in its range (one of none, strong), "
        "not light: add `augmentation` under `defaults`",
    ),
]


@pytest.mark.parametrize(("text", "fragments"), [(text, told) for text, *told in FAULTS])
def test_a_fault_is_told_with_its_line_rule_and_value(
    tmp_path: Path, text: str, fragments: list[str]
) -> None:
    told = refusal(tmp_path, text)
    assert any(all(fragment in line for fragment in fragments) for line in told), told


def test_all_faults_of_a_file_are_told_together_in_the_order_of_its_lines(tmp_path: Path) -> None:
    text = """\
        family: fotos
        training:
          folds: 1
        parameters:
          learning_rat: {low: 1e-5, high: 1e-3}
          backbone: {choices: [resnet50]}
          mixup: {low: 0.4, high: 0.1}
        defaults: {label_smoothing: 2}
        family: photo
        """
    told = refusal(tmp_path, text)
    assert [line.split(": ")[0] for line in told] == [f"mine.yaml:{n}" for n in (1, 3, 5, 7, 8, 9)]


def test_one_mistake_is_told_once(tmp_path: Path) -> None:
    assert len(refusal(tmp_path, tuned("freeze_depth: {low: 4, high: 2}"))) == 1


@pytest.mark.parametrize(
    ("written", "low"),
    [("1e-4", 1e-4), ("1.0e-4", 1e-4), ("1E-4", 1e-4), (".0001", 1e-4), ("+0.0001", 1e-4)],
)
def test_a_number_may_be_written_in_any_usual_way(tmp_path: Path, written: str, low: float) -> None:
    space = load(tmp_path, tuned(f"weight_decay: {{low: {written}, high: 1e-1}}"))
    assert space.parameters["weight_decay"] == Range(low=low, high=0.1)


def test_a_quoted_word_is_a_word(tmp_path: Path) -> None:
    space = load(tmp_path, 'parameters: {backbone: {choices: ["true", "1e3", no]}}')
    assert space.parameters["backbone"] == Choices(choices=("true", "1e3", "no"))


def test_every_number_of_a_recipe_has_its_limits() -> None:
    assert set(_LIMITS) == {f.name for f in fields(Recipe) if f.type in ("int", "float")}


# --- files ----------------------------------------------------------------------------------


def test_an_unknown_name_is_told_with_the_nearest_and_all_known() -> None:
    with pytest.raises(SpaceError) as caught:
        load_space("defualt")
    assert "did you mean `default`?" in str(caught.value)
    assert all(name in str(caught.value) for name in BUNDLED)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.yml").write_bytes(b"description: caf\xe9\n")
    for path in (tmp_path / "absent.yaml", tmp_path / "latin.yml"):
        with pytest.raises(SpaceError, match=f"{path.name}: cannot be read"):
            load_space(path)


def test_the_bundled_spaces_are_listed_and_shown() -> None:
    assert tuple(space.name for space in list_spaces()) == BUNDLED
    assert "description:" in space_source("default")


def test_a_copied_bundled_space_is_the_same_space(tmp_path: Path) -> None:
    for space in list_spaces():
        copy = load(tmp_path, space_source(space.name))
        assert changes(space, copy) == ()


@pytest.mark.parametrize("name", BUNDLED)
def test_a_bundled_space_tunes_the_whole_recipe_and_says_why(name: str) -> None:
    space = load_space(name)
    assert set(space.parameters) == {f.name for f in fields(Recipe)}
    assert space.description
    header = space_source(name).split("description:")[0]
    assert all(line.startswith("#") for line in header.strip().splitlines())
    assert "Why these ranges" in header


@pytest.mark.parametrize("name", BUNDLED)
def test_a_bundled_space_reaches_well_below_the_usual_learning_rate(name: str) -> None:
    rates = load_space(name).parameters["learning_rate"]
    assert isinstance(rates, Range)
    assert rates.log
    assert rates.low <= 2e-5
    assert rates.high >= 5e-4


@pytest.mark.parametrize("name", BUNDLED)
def test_optuna_takes_the_enqueued_recipes_as_they_are(name: str) -> None:
    space = load_space(name)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for params in space.first_params():
        study.enqueue_trial(params)
    distributions = space.distributions()
    first = tuple(space.recipe(params) for params in space.first_params())
    assert tuple(space.recipe(study.ask(distributions).params) for _ in first) == first
    drawn = space.recipe(study.ask(distributions).params)
    assert drawn not in first
    assert drawn.backbone in space.backbones
