"""A replay is only worth as much as it is like the search that was recorded."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.pruners import BasePruner
from optuna.trial import TrialState
from pruner_replay import CONTENDERS, Contender, Replay, orders, replay, running_means, table
from record_curves import Header, Recording, load, record, save

from bench.database import Database
from bench.errors import InputError
from bench.progress import SilentProgress
from bench.search.budget import Budget
from bench.search.coordinator import Coordinator
from bench.search.executors import make_executor
from bench.search.pruners import running_mean
from bench.search.study import open_study
from bench.space import SearchSpace
from bench.training.folds import fold_file, read_fold
from bench.workspace import Workspace, describe_environment
from tests.records import epoch_scores
from tests.tiny import make_plan, write_pictures

FOLDS, EPOCHS, PICTURES_A_FOLD = 4, 2, 50


def recording_of(qualities: list[float]) -> Recording:
    """Trials whose scores and losses follow a quality in [0, 1], with a little noise."""
    rng = np.random.default_rng(0)
    quality_t = np.asarray(qualities)
    scores = quality_t[:, None, None] + rng.normal(0, 0.01, (len(qualities), FOLDS, EPOCHS))
    losses = 1 - quality_t[:, None] + rng.gamma(1.0, 0.1, (len(qualities), FOLDS * PICTURES_A_FOLD))
    header = Header(
        data="made up",
        synthetic=True,
        pictures=FOLDS * PICTURES_A_FOLD,
        classes=2,
        groups=FOLDS * PICTURES_A_FOLD,
        backbones=("none",),
        image_size=None,
        seed=0,
        date="2026-01-01",
        versions={"numpy": "2.0"},
    )
    return Recording(
        header=header,
        params=tuple({"quality": quality} for quality in qualities),
        enqueued=1,
        defaults=(0,),
        fold_sizes=(PICTURES_A_FOLD,) * FOLDS,
        groups_n=np.arange(FOLDS * PICTURES_A_FOLD, dtype=np.uint16),
        balanced_accuracy_tfe=scores.astype(np.float32),
        losses_tn=losses.astype(np.float16),
        mistakes_tn=rng.random(losses.shape[1]) > quality_t[:, None],  # the hard ones of all trials
    )


# Ten hopeless trials among which the best one comes late.
STUDY = recording_of([0.5, *[0.2] * 10, 0.8, 0.5])
AS_RECORDED = list(range(STUDY.trials))


class StopsAll(BasePruner):
    """Stops every trial but the first, because the loss of that can be worked out by hand."""

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        return trial.number > 0


def contender(name: str) -> Contender:
    return next(contender for contender in CONTENDERS if contender.name == name)


# --- recording ------------------------------------------------------------------------------


def test_a_recording_holds_what_the_study_stored_and_no_path(tmp_path: Path) -> None:
    """Trained for real, because the trainer's files are what is read."""
    plan = make_plan(write_pictures(tmp_path / "pictures"), tmp_path / "runs")
    workspace = Workspace(tmp_path / "runs").create()
    database = Database.open(workspace.default_storage)
    database.save_plan(plan, describe_environment(None))
    study = open_study(plan, database)
    executor = make_executor(plan, 1)
    Coordinator(plan, study, database, SilentProgress()).run(executor, Budget(trials=2))
    executor.close()

    made = record(workspace, plan.study)

    assert made.enqueued == 2, "both trials are among those that a study of this space begins with"
    assert made.values == pytest.approx([trial.value for trial in study.trials[:2]])
    assert made.fold_sizes == tuple(len(fold) for fold in plan.split.folds)
    labels = np.asarray(plan.dataset.labels)
    for trial in range(2):
        for fold, scores in enumerate(made.balanced_accuracy_tfe[trial]):
            stored = read_fold(fold_file(workspace, plan.study, trial, fold))
            assert stored is not None
            assert scores == pytest.approx([epoch.balanced_accuracy for epoch in stored.epochs])
            right = stored.probabilities_nk.argmax(axis=1) == labels[stored.pictures]
            assert list(made.mistakes(trial, fold)) == list(1.0 - right)
            # Float16 keeps three digits; the mean over pictures is the last epoch's loss.
            assert made.losses(trial, fold).mean() == pytest.approx(
                stored.epochs[-1].loss, rel=0.01
            )
    save(made, tmp_path / "made.npz")
    assert str(tmp_path).encode() not in (tmp_path / "made.npz").read_bytes()

    cut = study.ask(SearchSpace.from_dict(plan.space).distributions())
    study.tell(cut, state=TrialState.PRUNED)
    with pytest.raises(InputError, match=r"trials that are PRUNED: run it .* --pruner none"):
        record(workspace, plan.study)
    database.close()


def test_what_is_no_workspace_is_not_made_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no bench\.db"):
        record(Workspace(tmp_path), "study")
    assert list(tmp_path.iterdir()) == []


def test_a_saved_recording_is_read_back(tmp_path: Path) -> None:
    save(STUDY, tmp_path / "study.npz")

    back = load(tmp_path / "study.npz")

    for name in ("header", "params", "enqueued", "defaults", "fold_sizes"):
        assert getattr(back, name) == getattr(STUDY, name)
    for name in ("groups_n", "balanced_accuracy_tfe", "losses_tn", "mistakes_tn"):
        assert np.array_equal(getattr(back, name), getattr(STUDY, name))


def test_a_fold_has_its_own_pictures() -> None:
    parts = [STUDY.losses(3, fold) for fold in range(FOLDS)]
    assert np.array_equal(np.concatenate(parts), STUDY.losses_tn[3])
    assert [len(STUDY.groups(fold)) for fold in range(FOLDS)] == [PICTURES_A_FOLD] * FOLDS


# --- replaying ------------------------------------------------------------------------------


def test_orders_permute_what_was_drawn_and_are_the_same_each_time() -> None:
    recording = replace(STUDY, enqueued=2)
    drawn = list(orders(recording, 5, seed=0))
    assert all(order[:2] == [0, 1] for order in drawn)
    assert all(sorted(order) == AS_RECORDED for order in drawn)
    assert len({tuple(order) for order in drawn}) == 5
    assert list(islice(orders(recording, 5, seed=0), 2)) == drawn[:2]


def test_a_replay_tells_what_a_coordinator_would_have_told() -> None:
    told = running_means(STUDY)
    epochs = []
    for fold, scores in enumerate(STUDY.balanced_accuracy_tfe[0]):
        for epoch, score in enumerate(scores):
            epochs.append(epoch_scores(fold, epoch, float(score)))
            assert told[0, fold, epoch] == pytest.approx(running_mean(epochs))


def test_without_pruning_nothing_is_saved_and_nothing_lost() -> None:
    outcome = replay(STUDY, contender("none"), AS_RECORDED, "study")
    assert outcome.share_of_epochs == 1.0
    assert outcome.regret_points == 0.0
    # The best trial is the twelfth of thirteen: half-way, the default is still the best known.
    default_points = 100 * (STUDY.values.max() - STUDY.values[0])
    assert outcome.early_regrets == pytest.approx((default_points, default_points))


def test_stopping_all_but_the_default_costs_what_the_default_lacks() -> None:
    stops_all = Contender(name="all", pruner=lambda _: StopsAll())
    outcome = replay(STUDY, stops_all, AS_RECORDED, "study")
    assert outcome.share_of_epochs == pytest.approx((FOLDS * EPOCHS + 12) / (13 * FOLDS * EPOCHS))
    assert outcome.regret_points == pytest.approx(100 * (STUDY.values.max() - STUDY.values[0]))


@pytest.mark.parametrize(
    "name", ["racing 0.05", "racing on mistakes 0.05", "racing 0.05 + median (5, 2)"]
)
def test_a_race_stops_the_hopeless_after_a_fold_and_keeps_the_best(name: str) -> None:
    outcome = replay(STUDY, contender(name), AS_RECORDED, "study")
    # The default and the best one run to their end; by then the last one is hopeless, too.
    used = 2 * FOLDS * EPOCHS + 11 * EPOCHS
    assert outcome.share_of_epochs == pytest.approx(used / (13 * FOLDS * EPOCHS))
    assert outcome.regret_points == 0.0


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("contender", CONTENDERS, ids=lambda contender: contender.name)
def test_every_contender_ends_every_trial(contender: Contender) -> None:
    outcome = replay(STUDY, contender, AS_RECORDED, "study")
    assert 0.0 < outcome.share_of_epochs <= 1.0
    assert 0.0 <= outcome.regret_points <= 100 * np.ptp(STUDY.values)


def test_contenders_have_names_of_their_own() -> None:
    assert len({contender.name for contender in CONTENDERS}) == len(CONTENDERS)


# --- choosing -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("regrets", "chosen"),
    [
        ({"frugal": 0.0, "careful": 0.0}, "frugal, 40 %"),
        ({"frugal": 2.0, "careful": 0.0}, "careful, 60 %"),
        ({"frugal": 2.0, "careful": 2.0}, "none, 100 %"),
    ],
)
def test_fewest_epochs_at_no_measurable_regret_are_chosen(
    regrets: dict[str, float], chosen: str
) -> None:
    shares = {"none": 1.0, "frugal": 0.4, "careful": 0.6}
    results = {
        name: [
            Replay(
                share_of_epochs=share,
                regret_points=regrets.get(name, 0.0),
                early_regrets=(3.0, 2.0),
            )
        ]
        * 5
        for name, share in shares.items()
    }
    text = table(results, tolerance_points=0.5)
    assert text.endswith(f"one validation picture): {chosen}.")
    assert "| frugal | 40 % |" in text
