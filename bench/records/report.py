"""Everything that a report is made of."""

from __future__ import annotations

from dataclasses import dataclass

from bench.records.data import Dataset, Split
from bench.records.latency import LatencyRow
from bench.records.promotion import ModelRecord, ProtocolScores
from bench.records.search import Settings, TrialRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """The machine and the versions that produced a result."""

    created: str  # ISO 8601, UTC
    cpu: str
    cores: int
    memory_bytes: int
    gpu: str | None
    python: str
    platform: str
    versions: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyReport:
    """Everything that a report is made of; `notes` are remarks every table must carry."""

    study: str
    space: str
    dataset: Dataset
    split: Split
    settings: Settings
    device: str
    trials: tuple[TrialRecord, ...]
    models: tuple[ModelRecord, ...]
    latencies: tuple[LatencyRow, ...]
    environment: Environment
    notes: tuple[str, ...] = ()
    ended: str | None = None  # the limit that ended the search before its number of trials
    protocol_scores: tuple[ProtocolScores, ...] = ()  # of the models, under further protocols
