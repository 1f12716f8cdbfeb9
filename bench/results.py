"""Read what is stored of a study back as records, without training anything."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

import optuna

from bench.database import Database, Owner
from bench.errors import InputError
from bench.ownership import owner_of
from bench.records import (
    EpochScores,
    ModelRecord,
    ProtocolScores,
    StudyPlan,
    StudyReport,
    TrialRecord,
    TrialState,
    best_trial,
)
from bench.search.storage import collection_paused
from bench.search.study import (
    DEFAULT_RECIPE,
    ENDED,
    FAILURES,
    FINISHED,
    REMARK,
    TARGET,
    load_study,
    state_of,
)
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
    opened = _optuna_study(study, database)
    return StudyReport(
        study=study,
        space=str(plan.space["name"]),
        dataset=plan.dataset,
        split=plan.split,
        settings=plan.settings,
        device=plan.device,
        trials=_records_of(opened, plan, database, owner_of(study, database)),
        models=models,
        latencies=database.load_latencies([path for model in models for path in model.paths]),
        environment=environment,
        notes=plan.notes,
        ended=opened.user_attrs.get(ENDED) if opened else None,
        protocol_scores=_protocol_scores(plan, models, database),
    )


def _protocol_scores(
    plan: StudyPlan, models: tuple[ModelRecord, ...], database: Database
) -> tuple[ProtocolScores, ...]:
    """Scores under the plan's further protocols of the models that there are now."""
    protocols = {split.protocol for split in plan.further_splits}
    promoted = {(model.name, model.trial) for model in models}
    return tuple(
        scores
        for scores in database.load_protocol_scores(plan.study)
        if scores.protocol in protocols and (scores.model, scores.trial) in promoted
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyProgress:
    """How far a study is: what `bench status` shows, from any terminal.

    `prepared` tells whether it has a plan yet, `preparing` whether a run is about to read its data
    (again). `trials_per_hour` and `left_s` are those of the run
    that is under way, None when there is none or none of its trials has ended yet.
    """

    study: str
    prepared: bool
    preparing: bool
    wanted: int | None  # finished trials
    trials: tuple[TrialRecord, ...]
    models: int
    owner: str | None
    ended: str | None
    trials_per_hour: float | None
    left_s: float | None

    def count(self, state: TrialState) -> int:
        return sum(trial.state == state for trial in self.trials)

    @property
    def best(self) -> TrialRecord | None:
        return best_trial(self.trials)

    @property
    def is_promoted_now(self) -> bool:
        """Whether the run that is under way has done its search, and makes and measures models."""
        done = self.count("COMPLETE") + self.count("PRUNED")
        searched = self.ended is not None or (self.wanted is not None and done >= self.wanted)
        busy = self.preparing or self.count("RUNNING") > 0
        return self.owner is not None and searched and not busy

    @property
    def nothing_yet(self) -> str | None:
        """Why there is nothing to show of the study yet, and what to do; None if there is."""
        if _has_ended(self.trials):
            return None
        return _nothing_yet(self.study, self.owner, prepared=self.prepared)


def load_progress(database: Database, study: str, now: datetime) -> StudyProgress:
    """Gather how far a study is at the moment `now` (with a time zone).

    Raises:
        InputError: the study does not exist.
    """
    _refuse_unknown(database, study)
    plan = database.load_plan(study)
    opened = _optuna_study(study, database)
    owner = owner_of(study, database)
    attributes = opened.user_attrs if opened else {}
    trials = _records_of(opened, plan, database, owner) if plan else ()
    wanted: int | None = attributes.get(TARGET)
    per_hour = None
    if opened is not None and owner is not None:
        since = datetime.fromisoformat(owner.since)
        ended = sum(
            trial.state in FINISHED
            and trial.datetime_complete is not None
            and trial.datetime_complete.astimezone() >= since
            for trial in opened.get_trials(deepcopy=False)
        )
        per_hour = 3600 * ended / max((now - since).total_seconds(), 1.0) or None
    done = sum(trial.state in ("COMPLETE", "PRUNED") for trial in trials)
    return StudyProgress(
        study=study,
        prepared=plan is not None,
        preparing=database.is_preparing(study),
        wanted=wanted,
        trials=trials,
        models=len(database.load_models(study)),
        owner=str(owner) if owner else None,
        ended=attributes.get(ENDED),
        trials_per_hour=per_hour,
        left_s=3600 * max(wanted - done, 0) / per_hour if wanted and per_hour else None,
    )


def load_plan(database: Database, study: str) -> StudyPlan:
    """Load what a study was begun with.

    Raises:
        InputError: the study does not exist, or is not prepared yet; the message lists those that
            do, or says what it waits for.
    """
    _refuse_unknown(database, study)
    plan = database.load_plan(study)
    if plan is None:
        raise InputError(_nothing_yet(study, owner_of(study, database), prepared=False))
    return plan


def refuse_without_trials(database: Database, study: str) -> None:
    """Refuse a study of which no trial has ended, so that there is nothing to show or promote.

    Raises:
        InputError: it is one, or the study does not exist.
    """
    if not _has_ended(load_trials(database, load_plan(database, study))):
        raise InputError(_nothing_yet(study, owner_of(study, database), prepared=True))


def latest_study(database: Database) -> str | None:
    """Name the study that was last run, if possible one of which a trial has ended."""
    studies = database.studies()
    for study in reversed(studies):
        plan = database.load_plan(study)
        if plan is not None and _has_ended(load_trials(database, plan)):
            return study
    return studies[-1] if studies else None


def _refuse_unknown(database: Database, study: str) -> None:
    known = database.studies()
    if study not in known:
        raise InputError(
            f"no study is called {study!r}; there are: {', '.join(known) or 'none yet'}"
        )


def _has_ended(trials: Iterable[TrialRecord]) -> bool:
    return any(trial.state in ("COMPLETE", "PRUNED", "FAIL") for trial in trials)


def _nothing_yet(study: str, owner: object | None, *, prepared: bool) -> str:
    if owner is not None:
        doing = "run" if prepared else "prepared"
        return (
            f"the study {study!r} is being {doing} by {owner} and has no finished trial yet: wait "
            "for its first one"
        )
    when = "before its first trial was finished" if prepared else "while it was being prepared"
    return f"the study {study!r} was stopped {when}: give its `bench search` command again"


def load_trials(database: Database, plan: StudyPlan) -> tuple[TrialRecord, ...]:
    """All trials that were started, by number; none where Optuna's study has been deleted."""
    opened = _optuna_study(plan.study, database)
    return _records_of(opened, plan, database, owner_of(plan.study, database))


def _optuna_study(study: str, database: Database) -> optuna.Study | None:
    """Optuna's part of a study, which keeps what it has loaded; None where it was deleted."""
    there = study in optuna.get_all_study_names(database.storage)
    return load_study(study, database) if there else None


@collection_paused()
def _records_of(
    study: optuna.Study | None, plan: StudyPlan, database: Database, owner: Owner | None
) -> tuple[TrialRecord, ...]:
    if study is None:
        return ()
    space = SearchSpace.from_dict(plan.space)
    epochs = database.load_epochs(plan.study)
    trials = study.get_trials(deepcopy=False)
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
                state="INTERRUPTED" if state == "RUNNING" and owner is None else state,
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
