"""What only a machine with CUDA can show; elsewhere these tests are skipped."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from bench.latency.measuring import LatencyProtocol, measure_many
from bench.latency.plan import LatencyPlan
from bench.models.backbones import describe_backbone
from bench.models.export import ServingModel, export
from bench.models.staged import build_model
from bench.records import Arithmetic, Recipe, StudyPlan, TrialDone, TrialJob, WeightSource
from bench.runtime.cuda import cuda_works
from bench.runtime.metadata import ModelMetadata
from bench.training.arithmetic import choose_arithmetic
from bench.training.recorded import Recorded
from bench.training.trainer import Trainer
from tests.tiny import BACKBONE, CLASSES, all_events, make_plan, timeless, write_pictures

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")

FLOAT32 = Arithmetic(device="cuda", dtype="float32", channels_last=False, reason="test")


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> StudyPlan:
    folder = tmp_path_factory.mktemp("cuda")
    plan = make_plan(write_pictures(folder / "pictures"), folder / "runs")
    return replace(plan, device="cuda", arithmetic={BACKBONE: FLOAT32}, cache_bytes=10**9)


def recipe(depth: int) -> Recipe:
    return Recipe(backbone=BACKBONE, freeze_depth=depth, learning_rate=1e-3, mixup=0.2)


@pytest.mark.parametrize("depth", [0, 3, 5])
def test_a_trial_is_trained_to_its_end(plan: StudyPlan, depth: int) -> None:
    told = all_events(Trainer(plan), TrialJob(number=depth, recipe=recipe(depth)))
    assert isinstance(told[-1], TrialDone), told[-1]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("depth", [0, 3, 5])
def test_recorded_steps_train_as_single_kernels_do(
    plan: StudyPlan, tmp_path: Path, depth: int, dtype: Literal["float32", "bfloat16", "float16"]
) -> None:
    """Every step runs the same kernels on the same numbers, the first three one by one."""
    plain = Arithmetic(device="cuda", dtype=dtype, channels_last=True, reason="test")
    runs = []
    for graphs in (False, True):
        trainer = Trainer(
            replace(
                plan,
                workspace=str(tmp_path / str(graphs)),
                arithmetic={BACKBONE: replace(plain, graphs=graphs)},
                settings=replace(plan.settings, epochs=5),
            )
        )
        runs.append(all_events(trainer, TrialJob(number=depth, recipe=recipe(depth))))
    assert isinstance(runs[0][-1], TrialDone), runs[0][-1]
    assert [timeless(event) for event in runs[0]] == [timeless(event) for event in runs[1]]


@pytest.mark.parametrize("batch_norm", ["frozen", "updating"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_steps_recorded_for_one_trial_serve_the_next_ones(
    plan: StudyPlan,
    tmp_path: Path,
    dtype: Literal["float32", "float16"],
    batch_norm: Literal["frozen", "updating"],
) -> None:
    wanted = replace(recipe(3), batch_norm=batch_norm)
    arithmetic = Arithmetic(
        device="cuda", dtype=dtype, channels_last=True, reason="test", graphs=True
    )
    busy, alone = (
        Trainer(replace(plan, workspace=str(tmp_path / name), arithmetic={BACKBONE: arithmetic}))
        for name in ("busy", "alone")
    )
    other = replace(wanted, learning_rate=1e-2, weight_decay=0.3, label_smoothing=0.1, mixup=0.0)
    all_events(busy, TrialJob(number=0, recipe=other))
    all_events(busy, TrialJob(number=1, recipe=recipe(0)))
    learner = busy.learners.get(wanted, micro_batches=1)

    after_others = all_events(busy, TrialJob(number=2, recipe=wanted))

    assert busy.learners.get(wanted, micro_batches=1) is learner
    new = all_events(alone, TrialJob(number=2, recipe=wanted))
    assert isinstance(new[-1], TrialDone), new[-1]
    # The first steps of a new learner are no recorded ones.
    assert [timeless(event) for event in after_others] == [timeless(event) for event in new]


def test_a_recorded_function_is_replayed_with_new_numbers() -> None:
    calls = []

    def double(tensor: torch.Tensor) -> torch.Tensor:
        calls.append(len(tensor))
        return 2 * tensor

    recorded = Recorded(double)
    for length in (3, 4):
        for number in range(8):
            given = torch.full((length,), float(number), device="cuda")
            assert recorded(given).tolist() == [2.0 * number] * length
    assert Counter(calls) == {3: 4, 4: 4}, "three times as it is, and once to be recorded"
    assert not recorded.refused


def test_what_waits_for_the_gpu_is_run_as_it_is() -> None:
    recorded = Recorded(lambda tensor: tensor * float(tensor.sum()))
    for number in range(8):
        given = torch.full((2,), float(number), device="cuda")
        assert recorded(given).tolist() == [2.0 * number**2] * 2
    assert recorded.refused
    after = Recorded(lambda tensor: torch.nn.functional.dropout(tensor, 0.5))
    drawn = {tuple(after(torch.ones(64, device="cuda")).tolist()) for _ in range(8)}
    assert len(drawn) == 8, "others are recorded still, and draw other random numbers each time"
    assert not after.refused


def test_a_gpu_that_has_room_keeps_views_off_the_disk(plan: StudyPlan, tmp_path: Path) -> None:
    trainer = Trainer(replace(plan, workspace=str(tmp_path)))
    for depth in (0, 3):
        assert isinstance(
            all_events(trainer, TrialJob(number=depth, recipe=recipe(depth)))[-1], TrialDone
        )
    assert trainer.networks.give_up_memory()
    assert not list(tmp_path.glob("cache/activations/*/rows.bin"))


@pytest.mark.parametrize("depth", [3, 5])
def test_stored_activations_are_near_the_computed_ones(plan: StudyPlan, depth: int) -> None:
    chosen = replace(recipe(depth), mixup=0.0)
    pictures = np.asarray(plan.split.development[:40], dtype=np.int64)
    read = []
    for cache_bytes in (0, 10**9):
        trainer = Trainer(replace(plan, cache_bytes=cache_bytes))
        model = trainer.networks.model(chosen, seed=0)
        store = trainer.networks.activations(chosen.backbone, model.boundary(depth))
        read.append(store.read(pictures, policy=chosen.augmentation, view=0).float().cpu())
    # In other batches, cuDNN chooses other algorithms, which round otherwise.
    torch.testing.assert_close(read[0], read[1], rtol=1e-3, atol=1e-3)


def test_a_trial_repeats_under_its_seed(plan: StudyPlan, tmp_path: Path) -> None:
    runs = [
        all_events(
            Trainer(replace(plan, workspace=str(tmp_path / name))),
            TrialJob(number=7, recipe=recipe(5)),
        )
        for name in ("one", "two")
    ]
    assert [timeless(event) for event in runs[0]] == [timeless(event) for event in runs[1]]


def test_mixed_precision_is_chosen_on_tensor_cores() -> None:
    """By measurement, and of a network that is large enough to tell."""
    spec = describe_backbone("resnet50")
    model = build_model(spec, WeightSource(kind="random"), classes=3, image_size=224, seed=0)
    chosen = choose_arithmetic("cuda", model, 224, busy=False)
    assert chosen.channels_last
    assert chosen.graphs
    assert chosen.dtype in ("bfloat16", "float16")


def test_onnxruntime_runs_on_cuda_where_torch_does() -> None:
    works, why_not = cuda_works()
    assert works, why_not


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = describe_backbone(BACKBONE)
    model = build_model(spec, WeightSource(kind="random"), classes=3, image_size=32, seed=0)
    metadata = ModelMetadata(
        classes=CLASSES,
        geometry=spec.geometry(image_size=32, crop=None, resize="squash"),
        provenance={"architecture": spec.architecture},
    )
    file = tmp_path_factory.mktemp("exported") / "model.onnx"
    export(ServingModel(model), metadata, file)
    return file


@pytest.mark.parametrize(
    "changes",
    [
        {"devices": ("cuda",), "scopes": ("model", "end-to-end", "device")},
        {"devices": ("cuda",), "scopes": ("device",), "cuda_graph": True},
        {"devices": ("cuda",), "tf32": True, "against": ("torch",)},
    ],
)
def test_latencies_are_measured_on_cuda(exported: Path, changes: dict[str, Any]) -> None:
    jobs = LatencyPlan(models=(exported,), batch_sizes=(4,), **changes).jobs()
    for row in measure_many(jobs, protocol=LatencyProtocol.quick()):
        assert row.device_name == torch.cuda.get_device_name()
        assert row.provider in ("CUDAExecutionProvider", "torch eager")
        assert row.options["tf32"] == ("on" if changes.get("tf32") else "off")
        assert row.p50_ms > 0
