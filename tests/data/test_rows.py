"""Rows come back as they were written, in any order, and what is not there is not made up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.data.rows import RowFile

ROWS = np.arange(6 * 500_000, dtype=np.uint32).view(np.uint8).reshape(6, -1)  # 2 MB each


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "rows"
    file.write_bytes(ROWS.tobytes())
    return file


def opened(path: Path) -> RowFile:
    return RowFile(path, rows=len(ROWS), row_bytes=ROWS.shape[1])


@pytest.mark.parametrize("order", [[], [3], [5, 0, 0, 2], np.arange(6)])
def test_rows_come_in_the_order_asked_for(path: Path, order: list[int]) -> None:
    assert np.array_equal(opened(path).read(order), ROWS[order])


@pytest.mark.parametrize("row_bytes", [1000, 2_000_000])
def test_blocks_hold_every_row_once(path: Path, row_bytes: int) -> None:
    rows = ROWS.reshape(-1, row_bytes)
    blocks = list(RowFile(path, rows=len(rows), row_bytes=row_bytes).blocks())
    assert len(blocks) > 1
    assert np.array_equal(np.concatenate(blocks), rows)


@pytest.mark.parametrize("change", [-1, 0, 1])
def test_a_file_is_whole_when_it_has_the_bytes_of_its_rows(path: Path, change: int) -> None:
    path.write_bytes((ROWS.tobytes() + b"x")[: ROWS.nbytes + change])
    assert opened(path).is_whole() is (change == 0)


def test_a_row_that_is_not_there_is_an_error(path: Path) -> None:
    with pytest.raises(OSError, match="ends before row 6"):
        opened(path).read([0, 6])


def test_a_file_that_is_removed_can_still_be_read(path: Path) -> None:
    file = opened(path)
    path.unlink()
    assert np.array_equal(file.read([1]), ROWS[[1]])
