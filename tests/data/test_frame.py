"""The rules of finding the frame that all pictures share."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pytest

from bench.data.frame import FrameFinder
from bench.records import Box

Pictures = npt.NDArray[np.uint8]
BOX: Box = (9, 6, 41, 30)


def framed(count: int = 12, *, box: Box = BOX, size: tuple[int, int] = (50, 36)) -> Pictures:
    """Noise within `box`, white around it: (N, H, W, 3)."""
    rng = np.random.default_rng(0)
    left, top, right, bottom = box
    pictures = np.full((count, size[1], size[0], 3), 255, np.uint8)
    inside = (count, bottom - top, right - left, 3)
    pictures[:, top:bottom, left:right] = rng.integers(0, 256, inside, dtype=np.uint8)
    return pictures


def finder_of(pictures: Iterable[Pictures]) -> FrameFinder:
    finder = FrameFinder()
    for picture in pictures:
        finder.add(picture)
    return finder


@pytest.mark.parametrize(
    "box",
    [BOX, (1, 0, 50, 36), (0, 0, 50, 35), (0, 6, 50, 30), (9, 0, 41, 36)],
    ids=["all round", "left line", "bottom line", "above and below", "left and right"],
)
def test_a_constant_frame_is_cut_off_wherever_it_lies(box):
    assert finder_of(framed(box=box)).box() == box


def test_axis_labels_that_all_pictures_share_belong_to_the_frame():
    pictures = framed()
    pictures[:, 31:34, 10:40:3] = (0, 0, 0)
    pictures[:, 8:28:5, 2:7] = (200, 30, 30)
    assert finder_of(pictures).box() == BOX


def test_one_picture_with_another_label_keeps_its_line():
    pictures = framed()
    pictures[3, 2, 25] = (0, 0, 0)
    # The two lines between which hardly vary go, and no more of them.
    assert finder_of(pictures).box() == (9, 4, 41, 30)


@pytest.mark.parametrize(("lines", "left_over"), [(1, 0), (2, 0), (3, 1)])
def test_up_to_two_lines_of_frame_blended_into_the_picture_go_with_it(lines, left_over):
    pictures = framed()
    left, top, right, bottom = BOX
    slivers = [
        np.s_[:, top : top + lines, left:right],
        np.s_[:, bottom - lines : bottom, left:right],
        np.s_[:, top:bottom, left : left + lines],
        np.s_[:, top:bottom, right - lines : right],
    ]
    for sliver in slivers:
        pictures[sliver] = 230 + pictures[sliver] // 16
    gone = lines - left_over
    expected = (left + gone, top + gone, right - gone, bottom - gone)
    assert finder_of(pictures).box() == expected


def test_a_dull_edge_without_a_frame_beside_it_stays():
    pictures = framed(box=(0, 0, 50, 36))
    pictures[:, :2] = 230 + pictures[:, :2] // 16
    assert finder_of(pictures).box() is None


@pytest.mark.parametrize(
    ("why", "pictures"),
    [
        ("no pictures", []),
        ("fewer than eight pictures", framed(7)),
        ("no frame", framed(box=(0, 0, 50, 36))),
        ("nothing varies", np.full((9, 36, 50, 3), 7, np.uint8)),
        ("hardly anything would be left", framed(box=(20, 10, 30, 20))),
        ("two sizes", [*framed(10), *framed(1, size=(52, 36))]),
        ("the other size first", [*framed(1, size=(52, 36)), *framed(10)]),
    ],
)
def test_there_is_no_frame_when(why, pictures):
    assert finder_of(pictures).box() is None, why


def test_eight_pictures_are_enough():
    assert finder_of(framed(8)).box() == BOX


def test_a_finder_leaves_the_pictures_as_they_are():
    pictures = framed()
    before = pictures.copy()
    finder_of(pictures)
    assert np.array_equal(pictures, before)


@pytest.mark.parametrize("cut", range(13))
def test_two_finders_merged_find_what_one_finds(cut):
    pictures = framed()
    first, second = finder_of(pictures[:cut]), finder_of(pictures[cut:])
    first.merge(second)
    assert first.box() == finder_of(pictures).box() == BOX


def test_merging_leaves_the_other_finder_as_it_was():
    pictures = framed(8)
    whole, part = FrameFinder(), finder_of(pictures)
    whole.merge(part)
    whole.add(np.zeros_like(pictures[0]))
    assert part.box() == BOX
    assert whole.box() is None


@pytest.mark.parametrize("sizes_differ_within", [True, False])
def test_merging_finders_of_different_sizes_finds_nothing(sizes_differ_within):
    other = framed(9, size=(52, 36))
    odd = finder_of([*framed(1), *other] if sizes_differ_within else other)
    whole = finder_of(framed())
    whole.merge(odd)
    assert whole.box() is None
