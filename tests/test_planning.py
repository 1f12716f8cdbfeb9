"""What is settled, and refused, before a study's first trial."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench import planning
from bench.data import pixel_cache, reading, store
from bench.data.pixel_cache import PixelCache
from bench.database import Database
from bench.errors import WorkspaceError
from bench.planning import choose_space, make_plan
from bench.progress import SilentProgress
from bench.records import Arithmetic, StudyPlan
from bench.search.options import SearchOptions
from bench.workspace import Workspace, describe_environment
from tests.tiny import BACKBONE, PLAIN, write_pictures

OPTIONS = SearchOptions(
    study="pets", space="demo", backbones=(BACKBONE,), folds=2, image_size=32, device="cpu",
    crop="none", pretrained=False,
)  # fmt: skip


class Listener(SilentProgress):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def stage(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture
def said() -> Listener:
    return Listener()


@pytest.fixture(autouse=True)
def timed(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Stands for the timing of formats: whether the machine was taken for busy, a call an entry."""
    calls: list[bool] = []

    def choose(*_: object, busy: bool) -> Arithmetic:
        calls.append(busy)
        return PLAIN

    monkeypatch.setattr(planning, "choose_arithmetic", choose)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    return calls


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "runs").create()


@pytest.fixture
def in_workspace(workspace: Workspace) -> Iterator[Database]:
    with Database.open(workspace.default_storage) as opened:
        yield opened


@pytest.fixture
def planned(
    pictures: Path, workspace: Workspace, in_workspace: Database, said: Listener
) -> Callable[..., StudyPlan]:
    """Make the plan that these options give, and begin or go on with the study."""

    def make(**changes: Any) -> StudyPlan:
        options = replace(OPTIONS, **changes)
        plan = make_plan(pictures, options, workspace, in_workspace, said)
        in_workspace.save_plan(plan, describe_environment(None))
        return plan

    return make


Planned = Callable[..., StudyPlan]


# --- the search space -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "is_demo", "told"),
    [
        (None, False, "cpu (spectrograms: no flips, no colour changes; choose another with --space,"
         " such as photo)"),
        (None, True, "demo (spectrograms: no flips, no colour changes; choose another with "
         "--space)"),
        ("photo", False, "photo (photos: flips and colour changes)"),
    ],
)  # fmt: skip
def test_a_space_is_told_with_what_it_takes_pictures_for(
    given: str | None, is_demo: bool, told: str, said: Listener
) -> None:
    choose_space(SearchOptions(space=given), device="cpu", is_demo=is_demo, listener=said)
    assert said.said == [f"search space: {told}"]


# --- pictures -------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_cannot_take_the_pictures_is_told_with_what_to_do(
    planned: Planned, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(store.os, "pwrite", refuse)
        with pytest.raises(WorkspaceError) as caught:
            planned()

    assert os.strerror(number) in str(caught.value)
    assert f"{workspace.cache}" in str(caught.value) and "make room" in str(caught.value)
    assert not list(workspace.cache.glob("decoded/*.part")), "it would keep the disk full"


def test_a_begun_study_stores_its_pictures_again_where_they_are_gone(
    planned: Planned, workspace: Workspace
) -> None:
    planned()
    (stored,) = workspace.cache.glob("decoded/*/images.u8")
    before = stored.read_bytes()
    shutil.rmtree(workspace.cache / "decoded")

    planned()

    assert stored.read_bytes() == before


def no_decoding(source: object) -> Any:
    raise AssertionError(f"{source!s} was decoded")


@pytest.mark.parametrize("study", ["pets", "another"])
def test_a_study_that_goes_on_or_another_of_the_same_pictures_decodes_none(
    planned: Planned, monkeypatch: pytest.MonkeyPatch, study: str
) -> None:
    begun = planned()
    monkeypatch.setattr(pixel_cache, "open_rgb", no_decoding)
    monkeypatch.setattr(reading, "open_rgb", no_decoding)

    assert replace(planned(study=study), study="pets") == begun


def test_pixels_are_given_back_before_formats_are_timed(
    planned: Planned, timed: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    timed_at_clearing: list[list[bool]] = []

    class Noting(PixelCache):
        def clear(self) -> None:
            timed_at_clearing.append(list(timed))
            super().clear()

    monkeypatch.setattr(planning, "PixelCache", Noting)
    planned()
    assert timed_at_clearing and not any(timed_at_clearing)
    assert timed == [False]


# --- arithmetic -----------------------------------------------------------------------------


def test_a_study_goes_on_with_the_arithmetic_that_it_was_begun_with(
    planned: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned()
    faster = replace(PLAIN, dtype="bfloat16")
    monkeypatch.setattr(planning, "choose_arithmetic", lambda *_, **__: faster)

    assert planned().arithmetic == {BACKBONE: PLAIN}


@pytest.mark.parametrize(("load", "busy"), [(0.4, False), (2.9, False), (3.1, True)])
def test_from_one_and_a_half_programs_a_core_a_machine_is_told_to_be_busy_and_timed_so(
    planned: Planned,
    timed: list[bool],
    said: Listener,
    monkeypatch: pytest.MonkeyPatch,
    load: float,
    busy: bool,
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(planning, "usable_cores", lambda: 2)

    planned()

    assert timed == [busy]
    assert any(f"load {load} on 2 cores" in line for line in said.said) == busy
