from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from reports.pairs import ROWS_A_PAGE, PictureRow, write_pages


@pytest.fixture
def row(tmp_path: Path) -> PictureRow:
    files = [tmp_path / name for name in ("left.png", "right.png")]
    for file in files:
        Image.new("RGB", (60, 40), "teal").save(file)
    return PictureRow(
        left=files[0],
        right=files[1],
        left_caption="$a$_1",
        right_caption="b" * 200,
        finding="copy, correlation 0.98",
    )


def test_rows_are_shared_out_over_pages_of_a_readable_width(row: PictureRow, tmp_path: Path):
    pages = write_pages([row] * (ROWS_A_PAGE + 1), tmp_path / "out")

    assert [page.name for page in pages] == ["pairs-01.png", "pairs-02.png"]
    sizes = []
    for page in pages:
        with Image.open(page) as drawn:
            sizes.append(drawn.size)
    assert {width for width, _ in sizes} == {900}
    assert sizes[0][1] == ROWS_A_PAGE * sizes[1][1]


def test_pages_of_an_earlier_call_go(row: PictureRow, tmp_path: Path):
    write_pages([row] * (ROWS_A_PAGE + 1), tmp_path)

    assert [page.name for page in write_pages([row], tmp_path)] == ["pairs-01.png"]
    assert not (tmp_path / "pairs-02.png").exists()
    assert write_pages([], tmp_path) == ()


def test_a_picture_that_went_leaves_a_gap(row: PictureRow, tmp_path: Path):
    row.right.unlink()

    (page,) = write_pages([row], tmp_path / "out")

    with Image.open(page) as drawn:
        assert drawn.format == "PNG"
