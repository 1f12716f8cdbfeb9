"""Train a promoted trial again with other seeds: how much of its score is the luck of one."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from bench.models.export import ServingModel, export
from bench.promote.promotion import MODEL_FILE, evaluate
from bench.promote.retrain import retrain
from bench.promote.select import Candidate
from bench.records import SeedRun, fingerprint_of, from_json, to_json
from bench.runtime.metadata import ModelMetadata
from bench.training.folds import training_identity
from bench.training.trainer import Trainer
from bench.workspace import Workspace, write_atomic


def further_seeds(
    trainer: Trainer,
    candidate: Candidate,
    workspace: Workspace,
    *,
    seeds: int,
    temperature: float,
) -> tuple[SeedRun, ...]:
    """Return the runs 1 to `seeds` - 1, training those that are missing; more are kept.

    Each is tested as the shipped file was: exported with the same temperature, then read from the
    picture files.

    Raises:
        NonFiniteLossError: a training came to nothing; the runs before it are kept.
        ShortOfMemoryError: there is too little to train it; as above.
        ExportError: the network cannot be exported.
    """
    folder = workspace.model(trainer.plan.study, candidate.name) / "seeds"
    identity = fingerprint_of((training_identity(trainer.plan, candidate.recipe), temperature))
    runs: list[SeedRun] = []
    while True:
        number = len(runs) + 1
        file = folder / f"{number}.json"
        run = _read_finished(file, candidate, identity)
        if run is None and number >= seeds:
            return tuple(runs)
        if run is None:
            run = _train(trainer, candidate, number, temperature, identity)
            write_atomic(file, to_json(run))
        runs.append(run)


def _train(
    trainer: Trainer, candidate: Candidate, number: int, temperature: float, identity: str
) -> SeedRun:
    plan, started = trainer.plan, time.perf_counter()
    retrained = retrain(trainer, candidate, run=number)
    metadata = ModelMetadata(
        classes=plan.dataset.classes,
        geometry=trainer.networks.geometry(candidate.recipe.backbone),
        temperature=temperature,
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / MODEL_FILE
        export(ServingModel(retrained.model, temperature=temperature), metadata, file)
        predictions, scores = evaluate(file, plan)
    return SeedRun(
        number=number,
        trial=candidate.trial,
        test=scores,
        predictions=predictions,
        seconds=time.perf_counter() - started,
        identity=identity,
    )


def _read_finished(file: Path, candidate: Candidate, identity: str) -> SeedRun | None:
    try:
        run = from_json(file.read_bytes(), SeedRun)
    except (OSError, ValueError):
        return None  # not there, or of another version
    return run if (run.trial, run.identity) == (candidate.trial, identity) else None
