"""Train a chosen recipe under the split of another protocol: what would that have promised?"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import torch

from bench.errors import BenchError
from bench.metrics import score
from bench.promote.retrain import retrain
from bench.promote.select import Candidate
from bench.records import (
    Predictions,
    ProtocolScores,
    Scores,
    Split,
    StudyPlan,
    TrialJob,
    fingerprint_of,
)
from bench.training.folds import training_identity
from bench.training.trainer import Trainer

_BATCH = 32  # test pictures predicted at a time


class FurtherProtocol:
    """Trains recipes of a study as its own trainer does, on the split of another protocol."""

    def __init__(self, plan: StudyPlan, split: Split) -> None:
        assert split.protocol is not None  # a further split was made by this version
        self.protocol = split.protocol
        self._plan = replace(plan, split=split)
        self._trainer = Trainer(self._plan, further_protocol=split.protocol)

    def close(self) -> None:
        """Give back what is kept in memory, so that others find it."""
        self._trainer.close()

    def identity(self, candidate: Candidate) -> str:
        """Identity of all that the scores depend on, to know scores that are there already."""
        return fingerprint_of((candidate.trial, training_identity(self._plan, candidate.recipe)))

    def scores(self, candidate: Candidate) -> ProtocolScores:
        """Cross-validate and test a recipe; folds that an interrupted run finished are kept.

        The test part is predicted by the trained network itself: nothing of it is shipped.

        Raises:
            ModelError: the recipe came to nothing.
            WorkspaceError: the disk is full or cannot be written.
            BenchError: it failed otherwise.
        """
        started = time.perf_counter()
        fold_scores = self._cross_validate(candidate)
        predictions, test = self._test(candidate)
        return ProtocolScores(
            study=self._plan.study,
            model=candidate.name,
            trial=candidate.trial,
            protocol=self.protocol,
            fold_scores=fold_scores,
            test=test,
            predictions=predictions,
            seconds=time.perf_counter() - started,
            identity=self.identity(candidate),
        )

    def _cross_validate(self, candidate: Candidate) -> tuple[float, ...]:
        """Balanced accuracy of each fold's last epoch."""
        try:
            return self._trainer.fold_scores(
                TrialJob(number=candidate.trial, recipe=candidate.recipe)
            )
        except BenchError as error:
            raise type(error)(
                f"{candidate.name} could not be trained under the protocol {self.protocol}: {error}"
            ) from error

    def _test(self, candidate: Candidate) -> tuple[Predictions, Scores]:
        dataset = self._plan.dataset
        test = np.asarray(self._plan.split.test, dtype=np.int64)
        model = retrain(self._trainer, candidate).model
        images = self._trainer.networks.images(candidate.recipe.backbone)
        labels = np.asarray(dataset.labels, dtype=np.int64)[test]
        rows = []
        with torch.inference_mode():
            for at in range(0, len(test), _BATCH):
                pictures_nhwc = torch.from_numpy(images.read(test[at : at + _BATCH]))
                rows.append(model.probabilities(pictures_nhwc).numpy())
        probabilities_nk = np.concatenate(rows)
        predictions = Predictions(
            indices=self._plan.split.test,
            labels=tuple(labels.tolist()),
            probabilities=tuple(map(tuple, probabilities_nk.tolist())),
        )
        return predictions, score(labels, probabilities_nk, dataset.classes)
