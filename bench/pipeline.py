"""The story, top to bottom: load, split, search, promote, export, verify, measure, report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench.database import Database
from bench.errors import (
    BenchError,
    InterruptedRun,
    ModelError,
    WorkspaceError,
    together,
)
from bench.latency.measuring import LatencyProtocol
from bench.listener import Display
from bench.models.weights import refuse_changed_weights
from bench.ownership import own
from bench.planning import make_plan, study_name
from bench.promote.further import FurtherProtocol
from bench.promote.latencies import measure_models
from bench.promote.precisions import VariantChoice
from bench.promote.promotion import promote_candidate
from bench.promote.seeds import further_seeds
from bench.promote.select import Candidate, select, winner_and_default
from bench.promote.variants import make_variants
from bench.records import ModelRecord, StudyPlan, StudyReport, ranked
from bench.results import load_plan, load_study_report, load_trials
from bench.search.coordinator import Coordinator
from bench.search.executors import make_executor
from bench.search.options import SearchOptions
from bench.search.study import open_study
from bench.training.arithmetic import choose_device
from bench.training.trainer import Trainer
from bench.words import counted
from bench.workspace import Workspace, describe_environment


def search(
    data: str | Path | None,
    options: SearchOptions,
    *,
    workspace: Workspace,
    database: Database,
    listener: Display,
) -> StudyPlan:
    """Run or go on with a study until it has `options.trials` finished trials.

    The study is owned from the first on, so that its plan is made once, by one process, and others
    can tell that it is.

        workspace = Workspace(Path("runs")).create()
        options = SearchOptions(budget=Budget(trials=20), backbones=("resnet50",))
        with Database.open(workspace.default_storage) as database:
            plan = search(
                "pictures", options, workspace=workspace, database=database,
                listener=SilentProgress(),
            )

    Args:
        data: a folder of pictures by class or a CSV manifest; None for the demo set.
        options: what is asked for.
        workspace: the run folder.
        database: where studies are.
        listener: hears what is done, trial by trial (`bench.progress` has some).

    Returns:
        The plan that the study's trials were made from; `bench.results` reads what they gave.

    Raises:
        DataError, SpaceError, WeightsError, DeviceError: something given cannot work.
        StudyMismatchError: the study exists and was begun differently.
        StudyLockedError: another live process runs it.
        WorkspaceError: the disk is full or cannot be written.
        StorageError: the study's lock was lost.
        BenchError: too many trials failed.
        InterruptedRun: Ctrl-C, once the study has a name.
    """
    name = study_name(data, options)
    listener.stage(f"study: {name}" if options.study else f"study: {name} (--study names another)")
    with own(name, database, listener.stage), _resumable():
        with _preparing(name, database):
            plan = make_plan(data, replace(options, study=name), workspace, database, listener)
            database.save_plan(plan, describe_environment(_gpu_name(plan)))
        study = open_study(plan, database)
        executor = make_executor(plan, options.workers, options.ray)
        try:
            Coordinator(plan, study, database, listener).run(executor, options.budget)
        finally:
            listener.search_ended()
            executor.close()
    return plan


@contextmanager
def _preparing(study: str, database: Database) -> Iterator[None]:
    """A block that makes a study's plan; the name of one that is stopped in it stays known."""
    database.save_preparing(study)
    try:
        yield
    except BenchError:
        database.drop_preparing(study)  # there is nothing to go on with
        raise


@contextmanager
def _resumable() -> Iterator[None]:
    """A block of which the finished part is stored, so that Ctrl-C leaves what can be gone on with.

    Raises:
        InterruptedRun: Ctrl-C.
    """
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise InterruptedRun("stopped; what is finished is stored") from interrupt


def promote(
    study: str,
    *,
    workspace: Workspace,
    database: Database,
    listener: Display,
    protocol: LatencyProtocol,
    variants: VariantChoice,
    seeds: int = 1,
) -> StudyReport:
    """Retrain, export, verify, test and measure the best trials; what is finished is kept.

    Each verified file is also made in the other precisions asked for, behind their gate. The
    winner is trained with `seeds` seeds in all; the first one's file is what ships.

    Args:
        study: its name.
        workspace: the run folder, where models come to lie.
        database: where the study is.
        listener: hears what is done.
        protocol: how thoroughly latencies are measured.
        variants: precisions beside float32, and what they may lose.
        seeds: with how many the winner is trained, 1 or more.

    Returns:
        All that a report is made of.

    Raises:
        InputError: no such study.
        BenchError: nothing in it is complete.
        StudyLockedError: another live process runs it.
        DeviceError: it was searched on CUDA, which is not here.
        DataError, WeightsError: pictures or files of starting weights are gone or have changed.
        ModelError: a candidate failed; the others are done.
        WorkspaceError, StorageError: the disk is full, or the study's lock was lost.
        MeasurementError: a latency could not be measured; the others are.
        InterruptedRun: Ctrl-C.
    """
    plan = replace(load_plan(database, study), workspace=str(workspace.root))
    choose_device(plan.device)
    with own(study, database, listener.stage), _resumable():
        candidates = select(load_trials(database, plan))
        for backbone in sorted({candidate.recipe.backbone for candidate in candidates}):
            refuse_changed_weights(backbone, plan.weights[backbone])
        trainer = Trainer(plan)
        models, failures = _promote_each(
            trainer, candidates, workspace, database, listener, variants
        )
        failures += _train_further_seeds(
            trainer, candidates, models, workspace, database, listener, seeds
        )
        database.drop_models(study, keep=[model.name for model in models])
        promoted = {model.name for model in models}
        shipped = [candidate for candidate in candidates if candidate.name in promoted]
        trainer.close()  # further trainers and measuring processes want the device's memory
        failures += _score_under_further_protocols(plan, shipped, database, listener)
        try:
            measure_models(models, workspace, database, listener, protocol)
        except BenchError as error:
            failures.append(error)
    if failures:
        raise together(failures)
    return load_study_report(database, study)


def _promote_each(
    trainer: Trainer,
    candidates: Sequence[Candidate],
    workspace: Workspace,
    database: Database,
    listener: Display,
    variants: VariantChoice,
) -> tuple[list[ModelRecord], list[BenchError]]:
    """Promote every candidate with its variants and store it; return the models and what failed."""
    models: list[ModelRecord] = []
    failures: list[BenchError] = []
    for number, candidate in enumerate(candidates, start=1):
        say = partial(_say, listener, f"model {number} of {len(candidates)}")
        say(f"promoting {candidate.name} (trial {candidate.trial})")
        try:
            model = promote_candidate(trainer, candidate, workspace, say)
            model = make_variants(model, trainer.plan, workspace, variants, say)
        except ModelError as error:
            # One network that fails must not keep the others from being shipped.
            say(f"{candidate.name} failed: {error}")
            failures.append(error)
        else:
            database.save_model(model)
            models.append(model)
    return models, failures


def _say(listener: Display, what: str, text: str) -> None:
    listener.stage(f"{what}: {text}")


def _train_further_seeds(
    trainer: Trainer,
    candidates: Sequence[Candidate],
    models: Sequence[ModelRecord],
    workspace: Workspace,
    database: Database,
    listener: Display,
    seeds: int,
) -> list[BenchError]:
    """Train the winner with further seeds and store their scores; return what failed."""
    if not models:
        return []
    winner = ranked(models)[0]
    (candidate,) = (candidate for candidate in candidates if candidate.name == winner.name)
    further = partial(further_seeds, trainer, candidate, workspace, temperature=winner.temperature)
    failures: list[BenchError] = []
    if seeds > 1:
        listener.stage(f"training {winner.name} with {counted(seeds, 'seed')} in all")
    try:
        runs = further(seeds=seeds)
    except ModelError as error:
        listener.stage(f"a further seed of {winner.name} failed: {error}")
        failures = [error]
        runs = further(seeds=1)  # those that are finished
    database.save_model(replace(winner, further_seeds=runs))
    return failures


def _score_under_further_protocols(
    plan: StudyPlan, candidates: Sequence[Candidate], database: Database, listener: Display
) -> list[BenchError]:
    """Train winner and default again on the split of each further protocol; return failures.

    What has been scored already is not trained again.
    """
    failures = []
    known = {scores.identity for scores in database.load_protocol_scores(plan.study)}
    for split in plan.further_splits:
        with closing(FurtherProtocol(plan, split)) as further:
            for candidate in winner_and_default(candidates):
                if further.identity(candidate) in known:
                    continue
                listener.stage(f"training {candidate.name} under the protocol {split.protocol}")
                try:
                    scores = further.scores(candidate)
                except WorkspaceError:
                    raise  # the next one would have no room either
                except BenchError as error:
                    # A further protocol is a comparison: what ships does not depend on it.
                    listener.stage(str(error))
                    failures.append(error)
                else:
                    database.save_protocol_scores(scores)
    return failures


def _gpu_name(plan: StudyPlan) -> str | None:
    if plan.device != "cuda":
        return None
    import torch

    return torch.cuda.get_device_name()
