"""Pictures side by side, two a row, as PNG pages."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.records import Dataset, Pair
from bench.runtime.preprocess import PictureError, open_rgb
from reports.figures import STYLE, VERMILION, WIDTH_IN, short

ROWS_A_PAGE = 5
ROW_IN = 2.4
CAPTION_CHARACTERS = 52


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureRow:
    """Two picture files with what stands above them; `is_alarming` colours the captions."""

    left: Path
    right: Path
    left_caption: str
    right_caption: str
    finding: str  # what was found of the two
    is_alarming: bool = False


def rows_of(dataset: Dataset, pairs: Sequence[Pair]) -> tuple[PictureRow, ...]:
    """A row a pair; two pictures of different classes that show the same thing are alarming."""
    rows = []
    for pair in pairs:
        first, second = dataset.pictures[pair.first], dataset.pictures[pair.second]
        shift = f", shifted by {pair.shift:+.0%} of the width" if pair.shift else ""
        rows.append(
            PictureRow(
                left=dataset.picture_path(pair.first),
                right=dataset.picture_path(pair.second),
                left_caption=first.path,
                right_caption=second.path,
                finding=f"{pair.kind}, correlation {pair.correlation:.2f}{shift}",
                is_alarming=first.label != second.label,
            )
        )
    return tuple(rows)


def write_pages(rows: Sequence[PictureRow], folder: Path) -> tuple[Path, ...]:
    """Draw rows of two pictures as `folder`/pairs-01.png and so on, five rows a page.

    Pages of an earlier call that are no longer needed are removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("pairs-[0-9][0-9].png"):
        stale.unlink()
    pages = []
    for number, start in enumerate(range(0, len(rows), ROWS_A_PAGE), 1):
        page = folder / f"pairs-{number:02d}.png"
        page.write_bytes(_page(rows[start : start + ROWS_A_PAGE]))
        pages.append(page)
    return tuple(pages)


def _page(rows: Sequence[PictureRow]) -> bytes:
    with matplotlib.style.context(["default", STYLE]), warnings.catch_warnings():
        # A file name in a script that the font lacks is drawn as boxes, and that is all.
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from font")
        figure = Figure(figsize=(WIDTH_IN, ROW_IN * len(rows)))
        all_axes = figure.subplots(len(rows), 2, squeeze=False)
        for row, (left, right) in zip(rows, all_axes, strict=True):
            captions = _lines(row.left_caption), _lines(row.right_caption, row.finding)
            _show(left, row.left, captions[0], alarming=row.is_alarming)
            _show(right, row.right, captions[1], alarming=row.is_alarming)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _lines(name: str, finding: str = "") -> str:
    """Two lines in any case, so that pictures side by side are of one size."""
    return f"{short(name, CAPTION_CHARACTERS)}\n{finding}"


def _show(axes: Axes, file: Path, caption: str, *, alarming: bool) -> None:
    axes.set_axis_off()
    title = axes.set_title(caption, fontsize=8)
    if alarming:
        title.set_color(VERMILION)
    try:
        axes.imshow(open_rgb(file))
    except PictureError:
        axes.text(0.5, 0.5, "cannot be shown", ha="center", va="center")
