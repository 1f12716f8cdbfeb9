"""Optuna's storage for the only owner of a study: it reads from memory and writes through."""

from __future__ import annotations

import copy
import gc
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage, RDBStorage, get_storage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState


@contextmanager
def collection_paused() -> Iterator[None]:
    """Make many objects that all stay: looking for garbage among them takes half of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class OwnedStorage(BaseStorage):
    """A database whose trials nobody else writes.

    Optuna reads every unfinished trial again at each question of a pruner or sampler, because
    other processes may have written to them; with n trials running, n epochs cost n² of such
    reads. The owner of a study knows what it wrote. Nothing is written later than without it, so
    a kill loses as little as before.
    """

    def __init__(self, database: RDBStorage) -> None:
        self._database = get_storage(database)  # Optuna's own cache, of the distributions
        self._trials: dict[int, list[FrozenTrial]] = {}  # of each study, by number
        self._places: dict[int, tuple[int, int]] = {}  # study and number of each trial

    # --- trials -----------------------------------------------------------------------------

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        trials = self._of_study(study_id)
        trial_id = self._database.create_new_trial(study_id, template_trial)
        self._keep(study_id, trials, self._database.get_trial(trial_id))
        return trial_id

    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        self._database.set_trial_param(trial_id, param_name, param_value_internal, distribution)
        trial = self._changed(trial_id)
        value = distribution.to_external_repr(param_value_internal)
        trial.params = {**trial.params, param_name: value}
        trial.distributions = {**trial.distributions, param_name: distribution}

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        if not self._database.set_trial_state_values(trial_id, state, values):
            return False
        trial = self._changed(trial_id)
        trial.state = state
        if values is not None:
            trial.values = values
        if state == TrialState.RUNNING:
            trial.datetime_start = datetime.now()
        if state.is_finished():
            trial.datetime_complete = datetime.now()
        return True

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        self._database.set_trial_intermediate_value(trial_id, step, intermediate_value)
        trial = self._changed(trial_id)
        trial.intermediate_values = {**trial.intermediate_values, step: intermediate_value}

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._database.set_trial_user_attr(trial_id, key, value)
        trial = self._changed(trial_id)
        trial.user_attrs = {**trial.user_attrs, key: value}

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._database.set_trial_system_attr(trial_id, key, value)
        trial = self._changed(trial_id)
        trial.system_attrs = {**trial.system_attrs, key: value}

    def get_trial(self, trial_id: int) -> FrozenTrial:
        if trial_id not in self._places:
            return self._database.get_trial(trial_id)
        study_id, number = self._places[trial_id]
        return self._trials[study_id][number]

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        trials = [t for t in self._of_study(study_id) if states is None or t.state in states]
        return copy.deepcopy(trials) if deepcopy else trials

    def _of_study(self, study_id: int) -> list[FrozenTrial]:
        if study_id not in self._trials:
            with collection_paused():
                stored = self._database.get_all_trials(study_id, deepcopy=False)
            trials = self._trials.setdefault(study_id, [])
            for trial in stored:
                self._keep(study_id, trials, trial)
        return self._trials[study_id]

    def _keep(self, study_id: int, trials: list[FrozenTrial], trial: FrozenTrial) -> None:
        assert trial.number == len(trials), "somebody else has added a trial"
        trials.append(trial)
        self._places[trial._trial_id] = study_id, trial.number

    def _changed(self, trial_id: int) -> FrozenTrial:
        """Put a copy in a trial's place, because those who have read it keep what they read."""
        study_id, number = self._places[trial_id]
        trial = copy.copy(self._trials[study_id][number])
        self._trials[study_id][number] = trial
        return trial

    # --- studies: asked for rarely, and people may write notes on them --------------------------

    def create_new_study(
        self, directions: Sequence[StudyDirection], study_name: str | None = None
    ) -> int:
        return self._database.create_new_study(directions, study_name)

    def delete_study(self, study_id: int) -> None:
        self._database.delete_study(study_id)
        self._trials.pop(study_id, None)

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        self._database.set_study_user_attr(study_id, key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self._database.set_study_system_attr(study_id, key, value)

    def get_study_id_from_name(self, study_name: str) -> int:
        return self._database.get_study_id_from_name(study_name)

    def get_study_name_from_id(self, study_id: int) -> str:
        return self._database.get_study_name_from_id(study_id)

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return self._database.get_study_directions(study_id)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        return self._database.get_study_user_attrs(study_id)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return self._database.get_study_system_attrs(study_id)

    def get_all_studies(self) -> list[FrozenStudy]:
        return self._database.get_all_studies()
