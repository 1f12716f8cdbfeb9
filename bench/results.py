"""Read what is stored of a study back as records, without training anything."""

from __future__ import annotations

import optuna

from bench.database import Database
from bench.errors import InputError
from bench.records import EpochScores, ModelRecord, StudyPlan, StudyReport, TrialRecord
from bench.search.lock import owner_of
from bench.search.study import DEFAULT_RECIPE, ENDED, FAILURES, REMARK, load_study, state_of
from bench.space import SearchSpace


def load_study_report(database: Database, study: str) -> StudyReport:
    """Gather everything that a report is made of.

    Raises:
        InputError: the study does not exist.
    """
    plan = load_plan(database, study)
    environment = database.load_environment(study)
    assert environment is not None  # written in the same transaction as the plan
    models = database.load_models(study)
    return StudyReport(
        study=study,
        space=str(plan.space["name"]),
        dataset=plan.dataset,
        split=plan.split,
        settings=plan.settings,
        device=plan.device,
        trials=load_trials(database, plan),
        models=models,
        latencies=database.load_latencies([model.path for model in models]),
        environment=environment,
        notes=plan.notes,
        ended=_ended(study, database),
    )


def _ended(study: str, database: Database) -> str | None:
    if study not in optuna.get_all_study_names(database.storage):
        return None
    ended: str | None = load_study(study, database).user_attrs.get(ENDED)
    return ended


def load_plan(database: Database, study: str) -> StudyPlan:
    """Load what a study was begun with.

    Raises:
        InputError: the study does not exist; the message lists those that do.
    """
    plan = database.load_plan(study)
    if plan is None:
        there = ", ".join(database.studies()) or "none yet"
        raise InputError(f"no study is called {study!r}; there are: {there}")
    return plan


def load_trials(database: Database, plan: StudyPlan) -> tuple[TrialRecord, ...]:
    """All trials that were started, by number; none where Optuna's study has been deleted."""
    if plan.study not in optuna.get_all_study_names(database.storage):
        return ()
    space = SearchSpace.from_dict(plan.space)
    epochs = database.load_epochs(plan.study)
    trials = load_study(plan.study, database).get_trials(deepcopy=False)
    is_owned = owner_of(plan.study, database) is not None
    starts = [trial.datetime_start for trial in trials if trial.datetime_start]
    began = min(starts, default=None)
    records = []
    for trial in trials:
        if set(trial.params) != set(space.parameters):
            continue  # waiting, or killed while its parameters were drawn
        own: tuple[EpochScores, ...] = epochs.get(trial.number, ())
        ended = trial.datetime_complete
        state = state_of(trial)
        failures: list[str] = trial.user_attrs.get(FAILURES, [])
        remarks = [
            f"tried again after: {failure}"
            for failure in failures[: -1 if state == "FAIL" else None]
        ]
        remarks += [trial.user_attrs[REMARK]] if REMARK in trial.user_attrs else []
        records.append(
            TrialRecord(
                number=trial.number,
                state="INTERRUPTED" if state == "RUNNING" and not is_owned else state,
                value=trial.value,
                recipe=space.recipe(trial.params),
                is_default=DEFAULT_RECIPE in trial.user_attrs,
                epochs=own,
                seconds=sum(row.seconds for row in own),
                finished_s=(ended - began).total_seconds() if ended and began else None,
                error=failures[-1] if state == "FAIL" and failures else None,
                remark="; ".join(remarks) or None,
            )
        )
    return tuple(records)


def cpu_latency_ms(report: StudyReport, model: ModelRecord) -> float | None:
    """The median of a model's graph on the CPU at batch 1, in ms, where it was measured."""
    for row in report.latencies:
        same = row.architecture_key == model.architecture_key
        if same and (row.device, row.batch_size) == ("cpu", 1):
            return row.p50_ms
    return None
