"""Choose which trials become models: by cross-validation alone, never by the test set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.errors import BenchError
from bench.records import Recipe, Role, TrialRecord, best_trial, model_order


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A trial to be promoted, and why."""

    name: str
    role: Role
    trial: int
    recipe: Recipe
    cv_mean: float | None
    cv_sd: float | None


def select(trials: Sequence[TrialRecord]) -> tuple[Candidate, ...]:
    """Take the best complete trial of each backbone, and each backbone's default recipe.

    The default is the yardstick: it shows what tuning was worth. It is promoted even if its
    trial was pruned, and left out only where it is the best trial itself.

    Raises:
        BenchError: no trial is complete.
    """
    if best_trial(trials) is None:
        raise BenchError(
            "no trial of this study is complete, so there is nothing to promote: go on "
            "with `bench search`, with more --trials, a longer --timeout or --pruner none"
        )
    chosen = []
    for backbone in sorted({trial.recipe.backbone for trial in trials}):
        best = best_trial(trial for trial in trials if trial.recipe.backbone == backbone)
        if best is not None:
            chosen.append(_candidate(best, "best"))
            own_default = [
                trial
                for trial in trials
                if trial.is_default
                and trial.recipe.backbone == backbone
                and trial.number != best.number
                and trial.state in ("COMPLETE", "PRUNED")
            ]
            chosen += [_candidate(trial, "default") for trial in own_default[:1]]
    return tuple(chosen)


def winner_and_default(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """The winner by cross-validation, and the best default recipe where that is another one."""
    best_first = sorted(candidates, key=lambda one: model_order(one.cv_mean, one.role, one.name))
    default = next((one for one in best_first if one.role == "default"), None)
    return tuple(dict.fromkeys(filter(None, (*best_first[:1], default))))


def _candidate(trial: TrialRecord, role: Role) -> Candidate:
    complete = trial.state == "COMPLETE"
    safe = trial.recipe.backbone.replace("/", "-")
    return Candidate(
        name=f"{safe}-{role}",
        role=role,
        trial=trial.number,
        recipe=trial.recipe,
        cv_mean=trial.cv_mean if complete else None,
        cv_sd=trial.cv_sd if complete else None,
    )
