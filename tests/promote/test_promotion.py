"""One candidate's way to a file: what bears the final name is verified and carries its score."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from bench.errors import ParityError
from bench.models.export import ServingModel, export
from bench.promote import promotion
from bench.promote.promotion import promote_candidate
from bench.records import ModelRecord, to_json
from bench.runtime.metadata import ModelMetadata
from bench.runtime.predictor import Predictor
from bench.training.trainer import Trainer
from bench.workspace import Workspace
from tests.tiny import BACKBONE, CANDIDATE, make_plan, write_pictures


@dataclass(frozen=True)
class Promoted:
    trainer: Trainer
    workspace: Workspace
    record: ModelRecord

    @property
    def file(self) -> Path:
        return self.workspace.root / self.record.path


@pytest.fixture(scope="module")
def promoted(tmp_path_factory: pytest.TempPathFactory) -> Promoted:
    folder = tmp_path_factory.mktemp("promotion")
    plan = make_plan(write_pictures(folder / "pictures"), folder / "runs")
    trainer, workspace = Trainer(plan), Workspace(folder / "runs")
    return Promoted(trainer, workspace, promote_candidate(trainer, CANDIDATE, workspace, print))


def test_the_file_carries_where_it_came_from_and_what_it_scored(promoted: Promoted) -> None:
    told, plan = Predictor(promoted.file, device="cpu").metadata, promoted.trainer.plan

    assert told.normalisation is not None
    assert told.provenance["study"] == plan.study
    assert told.provenance["trial"] == 3
    assert told.provenance["recipe"]["learning_rate"] == 1e-3
    assert told.provenance["dataset_fingerprint"] == plan.dataset.fingerprint
    assert told.provenance["weights"] == {"kind": "random", "detail": "", "digest": ""}
    assert told.provenance["cv_balanced_accuracy"] == 0.5
    assert told.provenance["test_balanced_accuracy"] == promoted.record.test.balanced_accuracy
    assert told.provenance["test_pictures"] == len(plan.split.test)
    assert "torch" in told.provenance["versions"]


def test_the_record_is_of_the_file_as_it_lies_there(promoted: Promoted) -> None:
    assert promoted.record.size_bytes == promoted.file.stat().st_size
    assert sorted(file.name for file in promoted.file.parent.iterdir()) == [
        "model.json",
        "model.onnx",
    ]
    assert {check.balanced_accuracy_difference for check in promoted.record.parity} == {0.0}


def test_where_a_file_of_weights_lay_is_not_shipped(promoted: Promoted) -> None:
    plan = promoted.trainer.plan
    source = replace(plan.weights[BACKBONE], kind="file", detail="/home/me/w.pth", digest="ab12")
    trainer = Trainer(replace(plan, weights={BACKBONE: source}))

    told = promotion._metadata(trainer, CANDIDATE, 1.0)

    assert told.provenance["weights"] == {"kind": "file", "detail": "w.pth", "digest": "ab12"}


def test_without_out_of_fold_predictions_the_graph_has_temperature_1_and_the_record_says_why(
    promoted: Promoted,
) -> None:
    calibration = promoted.record.calibration
    assert calibration is not None
    assert promoted.record.temperature == 1.0
    assert "0 of 2 folds" in (calibration.why_none or "")
    assert calibration.test is not None
    assert calibration.test.pictures == len(promoted.trainer.plan.split.test)


def test_a_record_without_calibration_is_of_an_early_version_and_is_made_again(
    promoted: Promoted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class MadeAgainError(Exception):
        pass

    def made_again(*_: object) -> None:
        raise MadeAgainError

    monkeypatch.setattr(promotion, "retrain", made_again)
    workspace = Workspace(shutil.copytree(promoted.workspace.root, tmp_path / "runs"))
    assert promote_candidate(promoted.trainer, CANDIDATE, workspace, print) == promoted.record

    mark = workspace.model(promoted.trainer.plan.study, CANDIDATE.name) / "model.json"
    mark.write_bytes(to_json(replace(promoted.record, calibration=None)))
    with pytest.raises(MadeAgainError):
        promote_candidate(promoted.trainer, CANDIDATE, workspace, print)


def test_a_file_that_fails_the_gate_is_not_kept_and_neither_is_the_one_before(
    promoted: Promoted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(model: ServingModel, metadata: ModelMetadata, target: Path) -> None:
        export(model, metadata, target)
        graph = onnx.load(target)
        (bias,) = (t for t in graph.graph.initializer if t.name.endswith("fc.bias"))
        altered = numpy_helper.to_array(bias) + np.float32(0.1) * np.eye(3)[0]
        bias.CopyFrom(numpy_helper.from_array(altered.astype("float32"), bias.name))
        onnx.save(graph, target)

    monkeypatch.setattr(promotion, "export", damaged)
    workspace = Workspace(tmp_path / "runs")
    folder = workspace.model(promoted.trainer.plan.study, CANDIDATE.name)
    folder.mkdir(parents=True)
    shutil.copy(promoted.file, folder)

    with pytest.raises(ParityError, match="not kept"):
        promote_candidate(promoted.trainer, CANDIDATE, workspace, print)

    assert list(folder.iterdir()) == []
