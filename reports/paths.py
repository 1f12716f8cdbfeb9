"""Paths of model files as one types them where `bench` was run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bench.records import ModelRecord, StudyReport

# What a command needs beside a study's name, in words that hold wherever a report is read.
IN_ITS_WORKSPACE = "(with the search's --workspace, if it had one)"


def as_reached(report: StudyReport, root: Path) -> StudyReport:
    """The study with its models' paths below `root`, the workspace as one types it."""
    return replace(report, models=tuple(_placed(model, root) for model in report.models))


def _placed(model: ModelRecord, root: Path) -> ModelRecord:
    return replace(
        model,
        path=(root / model.path).as_posix(),
        variants=tuple(
            replace(variant, path=(root / variant.path).as_posix() if variant.path else "")
            for variant in model.variants
        ),
    )
