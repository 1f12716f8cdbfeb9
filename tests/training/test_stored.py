"""The stored path gives the plain path's numbers, and its entries survive what disks do."""

from __future__ import annotations

import os
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.records import Arithmetic, Recipe, Store, StudyPlan, TrialJob, WeightSource
from bench.training.activation_cache import ActivationCache
from bench.training.activations import ComputedActivations, Indices
from bench.training.entries import Entry, EntryKey
from bench.training.frozen import FrozenPart
from bench.training.half import rounded
from bench.training.networks import StudyNetworks
from bench.training.stored import StoredActivations
from bench.training.trainer import Trainer
from tests.tiny import PLAIN, all_events, make_plan, timeless, write_pictures

DISK_BYTES = 10**9
POLICIES = ("none", "light", "medium", "strong")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("stored") / "pictures")


@pytest.fixture
def plan(pictures: Path, tmp_path: Path) -> StudyPlan:
    return replace(make_plan(pictures, tmp_path / "runs"), cache_bytes=DISK_BYTES)


def with_backbone(
    plan: StudyPlan, name: str, image_size: int = 64, arithmetic: Arithmetic = PLAIN
) -> StudyPlan:
    return replace(
        plan,
        weights={name: WeightSource(kind="random")},
        arithmetic={name: arithmetic},
        settings=replace(plan.settings, image_size=image_size, family="spectrogram"),
    )


def activations(plan: StudyPlan, recipe: Recipe, pictures: Indices, view: int) -> torch.Tensor:
    """Activations as a new process would read them."""
    networks = StudyNetworks(plan)
    model = networks.model(recipe, seed=0)
    store = networks.activations(recipe.backbone, model.boundary(recipe.freeze_depth))
    return store.read(pictures, policy=recipe.augmentation, view=view)


@pytest.mark.parametrize(
    "backbone",
    [
        "test_resnet",
        "test_efficientnet",
        "test_convnext",
        "test_vit",
        pytest.param("resnet50", marks=pytest.mark.slow),
        pytest.param("xception", marks=pytest.mark.slow),
        pytest.param("efficientnet_lite0", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])  # layers are fused in the last
def test_stored_activations_equal_computed_ones_to_the_last_bit(
    plan: StudyPlan, backbone: str, layout: str
) -> None:
    """Every depth and policy, deep boundaries first, so that all ways of computing are taken."""
    arithmetic = replace(PLAIN, channels_last=layout == "channels_last")
    stored = with_backbone(plan, backbone, arithmetic=arithmetic)
    computed = replace(stored, cache_bytes=0)
    batch = np.random.default_rng(0).permutation(np.asarray(plan.split.development))[:5]
    for policy in POLICIES:
        for depth in (5, 1, 4, 2, 3):
            recipe = Recipe(backbone=backbone, freeze_depth=depth, augmentation=policy)
            ours = activations(stored, recipe, batch, view=1)
            plain = activations(computed, recipe, batch, view=1)
            assert ours.stride() == plain.stride(), (policy, depth)
            assert torch.equal(ours, plain), (policy, depth)


@pytest.mark.parametrize("store", ["exact", "half"])
def test_entries_in_memory_equal_computed_ones_and_leave_the_disk_alone(
    plan: StudyPlan, store: Store
) -> None:
    """As on a GPU: pixels too, and from whichever boundary is there."""
    plan = with_backbone(plan, "test_resnet")
    plan = replace(plan, settings=replace(plan.settings, store=store))
    networks = StudyNetworks(plan)
    cache = ActivationCache(
        Path(plan.workspace) / "memory", disk_bytes=0, memory_bytes=DISK_BYTES, device="cpu"
    )
    batch = np.asarray(plan.split.development[5:0:-1])
    for depth in (4, 0, 2, 5):
        pixels, frozen = networks.pixels("test_resnet"), networks.frozen_part("test_resnet")
        development = np.asarray(plan.split.development)
        kept = StoredActivations(
            pixels,
            frozen,
            depth,
            development,
            cache,
            "part",
            store,
            on_the_way=[b for b in (1, 3) if b < depth],
            in_memory=True,
        ).read(batch, policy="light", view=1)
        plain = ComputedActivations(pixels, frozen, depth, store).read(
            batch, policy="light", view=1
        )
        torch.testing.assert_close(kept, plain)
        assert kept.stride() == plain.stride()
        key = EntryKey(
            frozen_part="part", policy="light", view=1, boundary=1, store=store, batch=128
        )
        on_the_way = [cache.has(replace(key, boundary=boundary)) for boundary in (1, 2, 3)]
        assert on_the_way == [True, depth in (2, 5), True], "2 is read later, not passed"
    assert not (Path(plan.workspace) / "memory").exists()


def test_memory_lets_go_what_was_used_least_recently(tmp_path: Path) -> None:
    cache = ActivationCache(tmp_path, disk_bytes=0, memory_bytes=2 * ROWS.nbytes, device="cpu")
    keys = [replace(KEY, view=view) for view in range(3)]
    for key in keys[:2]:
        cache.keep(key, ROWS)
    cache.rows(keys[0], np.arange(2))
    cache.keep(keys[2], ROWS)
    assert [cache.has(key) for key in keys] == [True, False, True]
    assert cache.give_up_memory()
    assert not any(cache.has(key) for key in keys)
    assert not cache.give_up_memory(), "there was nothing left"


@pytest.mark.parametrize(("most", "kept"), [(8192, [2, 3, 4, 5]), (8191, [3, 4, 5])])
def test_what_trials_begin_at_is_kept_on_the_way_where_it_takes_an_eighth_of_the_disk_at_most(
    plan: StudyPlan, monkeypatch: pytest.MonkeyPatch, most: int, kept: list[int]
) -> None:
    plan = with_backbone(plan, "test_resnet")  # (12288, 8192, 8192, 3072, 3072, 96) numbers
    parameters = {**plan.space["parameters"], "freeze_depth": {"low": 2, "high": 4}}
    pictures = len(plan.split.development)
    plan = replace(
        plan,
        space={**plan.space, "parameters": parameters},
        cache_bytes=8 * most * 4 * pictures * plan.settings.epochs,
    )
    stops: list[int] = []
    run = FrozenPart.run

    def noting(part: FrozenPart, rows: torch.Tensor, start: int, stop: int, size: int) -> object:
        stops.append(stop)
        return run(part, rows, start, stop, size)

    monkeypatch.setattr(FrozenPart, "run", noting)
    recipe = Recipe(backbone="test_resnet", freeze_depth=5)
    activations(plan, recipe, np.asarray(plan.split.development[:1]), view=0)
    assert sorted(set(stops)) == kept

    elements = StudyNetworks(plan).model(recipe, seed=0).elements
    expected = sorted(4 * elements[boundary] * pictures for boundary in kept)
    assert sizes_of_entries(plan) == expected


def sizes_of_entries(plan: StudyPlan) -> list[int]:
    files = Path(plan.workspace).glob("cache/activations/*/rows.bin")
    return sorted(file.stat().st_size for file in files)


def rounding(plan: StudyPlan) -> StudyPlan:
    return replace(plan, settings=replace(plan.settings, store="half"))


def test_rounded_activations_are_near_and_the_same_however_they_came_to_be(
    plan: StudyPlan,
) -> None:
    """Deep boundaries first and last, so that entries to start from are and are not there."""
    stored = rounding(with_backbone(plan, "test_resnet"))
    computed = replace(stored, cache_bytes=0)
    exact = with_backbone(computed, "test_resnet")
    exact = replace(exact, settings=replace(exact.settings, store="exact"))
    batch = np.asarray(plan.split.development[:5])
    for view, depths in enumerate([(5, 1, 4, 2, 3), (1, 2, 3, 4, 5)]):
        for depth in depths:
            recipe = Recipe(backbone="test_resnet", freeze_depth=depth)
            ours = activations(stored, recipe, batch, view)
            plain = activations(computed, recipe, batch, view)
            unrounded = activations(exact, recipe, batch, view)
            assert ours.stride() == plain.stride() == unrounded.stride(), (view, depth)
            assert torch.equal(ours, plain), (view, depth)
            assert not torch.equal(ours, unrounded)
            assert torch.allclose(ours, unrounded, rtol=2**-11), (view, depth)


def test_rounded_entries_take_half_of_the_disk_and_stand_beside_exact_ones(plan: StudyPlan) -> None:
    recipe = Recipe(backbone="test_resnet", freeze_depth=1)
    sizes = []
    for study in (plan, rounding(plan)):
        activations(study, recipe, np.asarray(plan.split.development[:1]), view=0)
        sizes.append(sum(sizes_of_entries(study)))
    assert sizes[1] - sizes[0] == pytest.approx(0.5 * sizes[0], rel=0.01)


@pytest.mark.parametrize(
    ("depth", "store"),
    [(0, "exact"), (2, "exact"), (4, "exact"), (5, "exact"), (2, "half"), (5, "half")],
)
def test_a_trial_scores_the_same_with_and_without_the_store(
    plan: StudyPlan, depth: int, store: Store
) -> None:
    plan = replace(plan, settings=replace(plan.settings, store=store))
    job = TrialJob(number=7, recipe=Recipe(backbone="test_resnet", freeze_depth=depth, mixup=0.2))
    elsewhere = replace(plan, cache_bytes=0, workspace=plan.workspace + "-plain")
    with_store = [timeless(event) for event in all_events(Trainer(plan), job)]
    without = [timeless(event) for event in all_events(Trainer(elsewhere), job)]
    assert with_store == without


# --- entries --------------------------------------------------------------------------------

KEY = EntryKey(frozen_part="body", policy="light", view=3, boundary=2, store="exact")
ROWS = torch.arange(24, dtype=torch.float32).view(4, 2, 3)


def make_cache(
    folder: Path, *, disk_bytes: int = DISK_BYTES, memory_bytes: int = 0
) -> ActivationCache:
    return ActivationCache(folder, disk_bytes=disk_bytes, memory_bytes=memory_bytes, device="cpu")


def write(cache: ActivationCache, key: EntryKey = KEY, rows: torch.Tensor = ROWS) -> None:
    with cache.writing([key]) as writers:
        for row in rows.split(2):
            writers[key].append(row)


@pytest.mark.parametrize("memory_bytes", [0, 10**6], ids=["from disk", "kept in memory"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_an_entry_gives_back_what_was_written(
    tmp_path: Path, memory_bytes: int, dtype: torch.dtype, layout: torch.memory_format
) -> None:
    rows = torch.randn(6, 3, 4, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    rows = rows.contiguous(memory_format=layout)
    write(make_cache(tmp_path), rows=rows)

    cache = make_cache(tmp_path, memory_bytes=memory_bytes)
    assert cache.has(KEY)
    order = np.asarray([5, 0, 0, 3])
    read = cache.rows(KEY, order)
    assert torch.equal(read, rows[torch.from_numpy(order)])
    assert read.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("memory_bytes", [0, 10**6], ids=["from disk", "kept in memory"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_rounded_entry_gives_back_what_was_written_rounded(
    tmp_path: Path, memory_bytes: int, layout: torch.memory_format
) -> None:
    rows = 1e6 * torch.randn(6, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    rows = rows.contiguous(memory_format=layout)
    key = replace(KEY, store="half")
    write(make_cache(tmp_path), key, rows)

    cache = make_cache(tmp_path, memory_bytes=memory_bytes)
    assert cache.has(key) and not cache.has(KEY)
    assert not cache.is_exact(key)
    read = cache.rows(key, np.asarray([5, 0, 0, 3]))
    assert torch.equal(read, rounded(rows)[torch.tensor([5, 0, 0, 3])])
    assert read.is_contiguous(memory_format=layout)


def test_what_has_16_bits_is_stored_exactly_also_where_others_are_rounded(tmp_path: Path) -> None:
    key = replace(KEY, store="half")
    cache = make_cache(tmp_path)
    write(cache, key, ROWS.bfloat16())
    assert cache.has(key) and cache.is_exact(key)
    assert torch.equal(cache.rows(key, np.arange(4)), ROWS.bfloat16())


def test_a_failed_computation_leaves_no_entry(tmp_path: Path) -> None:
    cache = make_cache(tmp_path)
    with pytest.raises(RuntimeError, match="interrupted"), cache.writing([KEY]) as writers:
        writers[KEY].append(ROWS)
        raise RuntimeError("interrupted")
    assert not cache.has(KEY)
    assert list(tmp_path.rglob("rows.bin")) == []


@pytest.mark.parametrize("damage", ["short", "altered", "no mark", "mark damaged"])
def test_a_damaged_entry_is_not_read(tmp_path: Path, damage: str) -> None:
    write(make_cache(tmp_path))
    rows, mark = tmp_path / KEY.name / "rows.bin", tmp_path / KEY.name / "entry.json"
    content = rows.read_bytes()
    if damage == "short":
        rows.write_bytes(content[:-1])
    elif damage == "altered":
        rows.write_bytes(b"\xff" + content[1:])
    elif damage == "no mark":
        mark.unlink()
    else:
        mark.write_bytes(b"{")
    assert Entry.open(tmp_path / KEY.name) is None


def test_a_damaged_entry_is_computed_again(plan: StudyPlan) -> None:
    recipe = Recipe(backbone="test_resnet", freeze_depth=3)
    batch = np.asarray(plan.split.development[:4])
    expected = activations(plan, recipe, batch, view=0)
    entries = list(Path(plan.workspace).glob("cache/activations/*/rows.bin"))
    assert entries
    for rows in entries:
        rows.write_bytes(b"")
    assert torch.equal(activations(plan, recipe, batch, view=0), expected)


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    keys = [replace(KEY, view=view) for view in range(3)]
    size = ROWS.numel() * 4
    cache = make_cache(tmp_path, disk_bytes=2 * size)
    for moment, key in enumerate(keys[:2]):
        write(cache, key)
        stamp = 1_000_000_000 * (moment + 1)
        _set_last_use(tmp_path / key.name, stamp)
    assert cache.has(keys[0])  # used again just now
    write(cache, keys[2])
    there = [Entry.open(tmp_path / key.name) is not None for key in keys]
    assert there == [True, False, True]


def test_an_entry_that_is_evicted_while_open_can_still_be_read(tmp_path: Path) -> None:
    cache = make_cache(tmp_path)
    write(cache)
    assert cache.has(KEY)
    shutil.rmtree(tmp_path / KEY.name)
    assert torch.equal(cache.rows(KEY, np.arange(4)), ROWS)


@pytest.mark.parametrize("alive", [False, True])
def test_what_a_killed_process_left_half_written_goes_and_what_another_writes_stays(
    tmp_path: Path, alive: bool
) -> None:
    left = tmp_path / "parts" / "another part"
    left.mkdir(parents=True)
    (left / "rows").write_bytes(b"half of it")
    cache = make_cache(tmp_path)
    with cache.computing("another part") if alive else nullcontext():
        left.mkdir(exist_ok=True)
        write(make_cache(tmp_path))
        assert left.exists() == alive


def _set_last_use(folder: Path, time_ns: int) -> None:
    os.utime(folder / "entry.json", ns=(time_ns, time_ns))
