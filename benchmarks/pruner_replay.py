"""Replay recorded studies through pruners: what does each save, and what does it lose?

Usage: pruner_replay.py RECORDING.npz... --orders 200

A recording (`record_curves.py`) holds the whole learning curves of a study that pruned nothing.
Each order runs its trials again in a random permutation, after those that every study begins with
(the untuned recipes), and stops each where the pruner under test says so. The pruners are those
of searches: Optuna's objects in an Optuna study, told the recorded values, and
`bench.search.racing.Race`.

What a replay cannot show: a sampler that learns from pruned trials draws other trials than it
would have drawn; here every pruner sees the same ones. Nor is a recorded value the truth: it is a
cross-validation score with noise of its own, so the regret of losing the luckiest of many nearly
equal trials is counted in full. The intervals are over orders of the same trials; they say nothing
of other data.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import optuna
from optuna.pruners import (
    BasePruner,
    MedianPruner,
    NopPruner,
    SuccessiveHalvingPruner,
    WilcoxonPruner,
)
from optuna.trial import TrialState
from record_curves import Recording, load

from bench.search.pruners import make_pruner
from bench.search.racing import Floats, Race

# A loss that a user would mind, in points of balanced accuracy.
_LARGE_LOSS_POINTS = 0.5
_BUDGETS = (0.25, 0.5)
_RESAMPLES = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A pruner, a race, or both: either may stop a trial.

    A race compares log-losses as searches do, or mistakes (0 or 1), which are what balanced
    accuracy counts and which no calibration changes.
    `tells_folds` reports each finished fold's own score and nothing in between, because the
    Wilcoxon pruner pairs steps that are independent of one another.
    """

    name: str
    pruner: Callable[[Recording], BasePruner] = lambda _recording: NopPruner()
    alpha: float | None = None
    races_on: Literal["losses", "mistakes"] = "losses"
    tells_folds: bool = False


def _by_name(name: str) -> Callable[[Recording], BasePruner]:
    return lambda recording: make_pruner(name, folds=recording.folds, epochs=recording.epochs)


def _median(startup: int, warmup: Callable[[Recording], int]) -> Callable[[Recording], BasePruner]:
    return lambda recording: MedianPruner(startup, warmup(recording))


def _wilcoxon(threshold: float) -> Callable[[Recording], BasePruner]:
    return lambda _recording: WilcoxonPruner(p_threshold=threshold)


CONTENDERS = (
    Contender(name="none", pruner=_by_name("none")),
    Contender(name="median (5, 2)", pruner=_by_name("median")),
    Contender(name="median (10, 2)", pruner=_median(10, lambda _: 2)),
    Contender(name="median (5, a fold)", pruner=_median(5, lambda r: r.epochs)),
    Contender(name="median (5, two folds)", pruner=_median(5, lambda r: 2 * r.epochs)),
    Contender(name="hyperband", pruner=_by_name("hyperband")),
    Contender(
        name="successive halving by folds",
        pruner=lambda r: SuccessiveHalvingPruner(min_resource=r.epochs, reduction_factor=2),
    ),
    Contender(name="Wilcoxon 0.1 over folds", pruner=_wilcoxon(0.1), tells_folds=True),
    Contender(name="Wilcoxon 0.3 over folds", pruner=_wilcoxon(0.3), tells_folds=True),
    *(Contender(name=f"racing {alpha:g}", alpha=alpha) for alpha in (0.01, 0.05, 0.1, 0.2)),
    *(
        Contender(name=f"racing on mistakes {alpha:g}", alpha=alpha, races_on="mistakes")
        for alpha in (0.05, 0.1, 0.2)
    ),
    *(
        Contender(name=f"racing {alpha:g} + median (5, 2)", pruner=_by_name("median"), alpha=alpha)
        for alpha in (0.05, 0.1)
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What one pruner made of one order.

    Regrets are in points of balanced accuracy below the best trial of the whole recording.
    `early_regrets` is that of the best complete trial when a share of all epochs (`_BUDGETS`) was
    used, which is how searches of one length compare; a pruner that is done sooner stays where it
    ended, though a real search would go on with more trials.
    """

    share_of_epochs: float
    regret_points: float
    early_regrets: tuple[float, ...]


def orders(recording: Recording, count: int, seed: int) -> Iterator[list[int]]:
    """Permutations of the drawn trials; the enqueued ones keep their places before them."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        drawn = rng.permutation(np.arange(recording.enqueued, recording.trials))
        yield [*range(recording.enqueued), *(int(trial) for trial in drawn)]


def running_means(recording: Recording) -> Floats:
    """What a coordinator reports of each trial (`bench.search.pruners.running_mean`): (T, F, E)."""
    scores = recording.balanced_accuracy_tfe.astype(np.float64)
    finished = np.cumsum(scores[:, :, -1:], axis=1) - scores[:, :, -1:]
    return (finished + scores) / np.arange(1, recording.folds + 1)[None, :, None]


def replay(recording: Recording, contender: Contender, order: Sequence[int], name: str) -> Replay:
    """Run the trials of an order. The study's `name` draws the brackets of Hyperband."""
    study = optuna.create_study(
        study_name=name,
        direction="maximize",
        sampler=optuna.samplers.RandomSampler(0),  # draws nothing: the trials are recorded
        pruner=contender.pruner(recording),
    )
    costs_of = recording.losses if contender.races_on == "losses" else recording.mistakes
    race = None
    if contender.alpha is not None:
        race = Race(
            study,
            [recording.groups(fold) for fold in range(recording.folds)],
            lambda number, fold: costs_of(order[number], fold),
            epochs=recording.epochs,
            alpha=contender.alpha,
        )
    told = recording.balanced_accuracy_tfe if contender.tells_folds else running_means(recording)
    values, all_epochs = recording.values, recording.trials * recording.folds * recording.epochs
    used, best = 0, -np.inf
    curve: list[tuple[int, float]] = []
    for recorded in order:
        epochs = _run(study, race, told[recorded], tells_folds=contender.tells_folds)
        used += epochs
        if epochs == recording.folds * recording.epochs:
            study.tell(len(curve), float(values[recorded]))
            best = max(best, values[recorded])
        else:
            study.tell(len(curve), state=TrialState.PRUNED)
        curve.append((used, best))
    early = [
        max((best for used, best in curve if used <= share * all_epochs), default=-np.inf)
        for share in _BUDGETS
    ]
    return Replay(
        share_of_epochs=used / all_epochs,
        regret_points=100 * (values.max() - best),
        early_regrets=tuple(100 * (values.max() - reached) for reached in early),
    )


def _run(study: optuna.Study, race: Race | None, told_fe: Floats, *, tells_folds: bool) -> int:
    """Run the study's next trial until its end or until it is stopped; return its epochs."""
    folds, epochs = map(int, told_fe.shape)
    trial = study.ask()
    for step in range(folds * epochs - 1):
        fold, epoch = divmod(step, epochs)
        ends_fold = epoch == epochs - 1
        if ends_fold or not tells_folds:
            trial.report(float(told_fe[fold, epoch]), fold if tells_folds else step)
            if trial.should_prune() or (ends_fold and race and race.is_lost(trial.number, fold)):
                return step + 1
    trial.report(float(told_fe[-1, -1]), folds - 1 if tells_folds else folds * epochs - 1)
    return folds * epochs


# --- tables ---------------------------------------------------------------------------------


def table(results: dict[str, list[Replay]], *, tolerance_points: float) -> str:
    """A Markdown table, and the pruner that the rule chooses from it."""
    early = [f"{100 * share:.0f} %" for share in _BUDGETS]
    lines = [
        "| pruner | epochs used | regret, points (95 %) "
        f"| lost > {_LARGE_LOSS_POINTS:g} points | "
        + " | ".join(f"regret at {share} of the epochs" for share in early)
        + " |",
        "| --- | ---: | ---: | ---: |" + " ---: |" * len(early),
    ]
    cheapest, fewest = "none", 1.0
    for name, replays in results.items():
        regrets = np.asarray([replay.regret_points for replay in replays])
        share = float(np.mean([replay.share_of_epochs for replay in replays]))
        low, high = _interval(regrets)
        reached = np.mean([replay.early_regrets for replay in replays], axis=0)
        lines.append(
            f"| {name} | {100 * share:.0f} % | {regrets.mean():.2f} ({low:.2f} to {high:.2f}) "
            f"| {100 * np.mean(regrets > _LARGE_LOSS_POINTS):.0f} % | "
            + " | ".join(f"{points:.2f}" for points in reached)
            + " |"
        )
        if high <= tolerance_points and share < fewest:
            cheapest, fewest = name, share
    lines += [
        "",
        f"Fewest epochs at no measurable regret (the interval ends below {tolerance_points:.2f} "
        f"points, which is one validation picture): {cheapest}, {100 * fewest:.0f} %.",
    ]
    return "\n".join(lines)


def _interval(values: Floats) -> tuple[float, float]:
    """A 95 % percentile bootstrap interval of the mean, over orders."""
    rng = np.random.default_rng(0)
    means = rng.choice(values, (_RESAMPLES, len(values))).mean(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def _describe(recording: Recording) -> str:
    header, values = recording.header, recording.values
    return (
        f"### {header.data}: {', '.join(header.backbones)}\n\n"
        f"{recording.trials} trials of {recording.folds} folds of {recording.epochs} epochs, "
        f"{header.pictures} pictures in {header.groups} groups, {header.classes} classes"
        f"{', synthetic' if header.synthetic else ''}; balanced accuracy of the best trial "
        f"{values.max():.3f}, of the best untuned recipe "
        f"{values[list(recording.defaults)].max():.3f}, median {np.median(values):.3f}; "
        f"recorded {header.date}.\n"
    )


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recordings", nargs="+", type=Path, metavar="RECORDING")
    parser.add_argument("--orders", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    recordings = [load(file) for file in options.recordings]
    together: dict[str, list[Replay]] = {contender.name: [] for contender in CONTENDERS}
    for recording in recordings:
        results: dict[str, list[Replay]] = {}
        for contender in CONTENDERS:
            print(f"{recording.header.data}: {contender.name}", file=sys.stderr)
            results[contender.name] = [
                replay(recording, contender, order, name=f"order-{number}")
                for number, order in enumerate(orders(recording, options.orders, options.seed))
            ]
            together[contender.name] += results[contender.name]
        print(_describe(recording))
        print(table(results, tolerance_points=100 / recording.header.pictures) + "\n")
    if len(recordings) > 1:
        print(f"### All {len(recordings)} recordings\n")
        most = max(recording.header.pictures for recording in recordings)
        print(table(together, tolerance_points=100 / most))


if __name__ == "__main__":
    main(sys.argv[1:])
