"""Training for shipping gets by with the memory that trials get by with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bench.errors import BenchError
from bench.promote import retrain as retrain_module
from bench.promote.retrain import retrain
from bench.training.trainer import Trainer
from tests.tiny import CANDIDATE, make_plan, write_pictures


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    return Trainer(make_plan(write_pictures(tmp_path / "pictures"), tmp_path / "runs"))


@pytest.mark.parametrize(("enough", "tried"), [(1, [1]), (2, [1, 2]), (4, [1, 2, 4])])
def test_it_begins_again_with_smaller_micro_batches_until_there_is_room(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch, enough: int, tried: list[int]
) -> None:
    asked = cramp(monkeypatch, enough)

    assert len(retrain(trainer, CANDIDATE).train_curve) == trainer.plan.settings.epochs
    assert asked == tried


def test_without_room_for_two_pictures_it_says_what_to_do(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    cramp(monkeypatch, 1000)
    with pytest.raises(BenchError, match=r"too little memory to train net-best: .*bench promote"):
        retrain(trainer, CANDIDATE)


def test_another_error_is_not_taken_for_missing_memory(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("some shape")

    monkeypatch.setattr(retrain_module, "fit", broken)
    with pytest.raises(RuntimeError, match="some shape"):
        retrain(trainer, CANDIDATE)


def cramp(monkeypatch: pytest.MonkeyPatch, enough: int) -> list[int]:
    """Leave room for steps of so many micro-batches alone; return what will have been tried."""
    fit, tried = retrain_module.fit, []

    def cramped(*args: Any) -> Any:
        tried.append(args[0].micro_batches)
        if args[0].micro_batches < enough:
            raise torch.OutOfMemoryError("no room")
        return fit(*args)

    monkeypatch.setattr(retrain_module, "fit", cramped)
    return tried
