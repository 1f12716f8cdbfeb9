"""A synthetic data set laid out like GTZAN, for trying everything without a download.

Six invented styles of music, several pieces a style, several pictures a piece; the piece is the
group. It is made to be learnable and not trivial, and it says in `demo.json` that it is synthetic.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import msgspec
import numpy as np

from bench.data.music import STYLES, compose
from bench.data.spectrograms import (
    SAMPLE_RATE,
    PictureRow,
    mel_spectrogram,
    render_gtzan_picture,
    save_picture,
    staged_folder,
    write_groups,
)
from bench.errors import DataError, InputError
from bench.records import from_json, to_json
from bench.workspace import usable_cores

MARKER = "demo.json"
VERSION = 1  # to be raised by whatever changes a pixel
CLIP_S = 8.0

# Many pieces of few pictures: the test set, a fifth as of any data set, then holds four or five
# pieces of each style, and scores have intervals, which need three groups of each class. A search
# costs what it does with half as many pieces of twice the pictures.
PIECES_PER_CLASS = 24
CLIPS_PER_PIECE = 2

# A process takes seconds to start, as long as it takes to make this many pieces.
_PIECES_WORTH_A_PROCESS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoMarker:
    """What `demo.json` holds: everything that the pictures depend on."""

    synthetic: bool
    version: int
    seed: int
    styles: tuple[str, ...]
    pieces_per_class: int
    clips_per_piece: int
    clip_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoSummary:
    """The demo as it stands; `made` is False when it was already there."""

    out_dir: str
    classes: tuple[str, ...]
    pieces: int
    pictures: int
    made: bool


def make_demo(
    out_dir: Path,
    *,
    seed: int = 0,
    pieces_per_class: int = PIECES_PER_CLASS,
    clips_per_piece: int = CLIPS_PER_PIECE,
    processes: int | None = None,
) -> DemoSummary:
    """Synthesise the demo data set in `out_dir`, unless the same demo is already there.

    The pictures are `images_original/<style>/<style>NNNNN.png`, the pieces they come from stand
    in `groups.csv`. The same seed gives the same bytes on one machine however many `processes`
    share the work: 1 works in this process and starts none; the default is one a core, fewer
    for a small demo. They are spawned, so a script that calls this needs the usual
    `if __name__ == "__main__":`. The folder appears whole or not at all.

    Raises:
        InputError: a number is out of range.
        DataError: `out_dir` holds something else, or a demo made with other parameters.
    """
    pieces = len(STYLES) * pieces_per_class
    _check_least("seed", seed, 0)
    _check_least("pieces_per_class", pieces_per_class, 1)
    _check_least("clips_per_piece", clips_per_piece, 1)
    if processes is None:
        processes = min(usable_cores(), -(-pieces // _PIECES_WORTH_A_PROCESS))
    _check_least("processes", processes, 1)
    marker = _marker(seed, pieces_per_class, clips_per_piece)
    found = _read_marker(out_dir)
    if found is not None and found != marker:
        raise DataError(
            f"{out_dir} holds another demo ({_differences(found, marker)}): choose another folder "
            "or remove this one"
        )
    made = found is None
    if made:
        with staged_folder(out_dir) as staging:
            _fill(staging, marker, processes)
            (staging / MARKER).write_bytes(to_json(marker, indent=2) + b"\n")
    return DemoSummary(
        out_dir=str(out_dir),
        classes=marker.styles,
        pieces=pieces,
        pictures=pieces * clips_per_piece,
        made=made,
    )


def keep_or_make_demo(folder: Path) -> str | None:
    """Make the default demo in `folder`, unless a demo is there; return a remark on another one.

    A demo of an earlier version is kept, because a study that was begun on it needs its pictures
    to go on.

    Raises:
        DataError: `folder` holds something else.
    """
    found = _read_marker(folder)
    if found is None:
        make_demo(folder)
        return None
    differences = _differences(found, _marker(0, PIECES_PER_CLASS, CLIPS_PER_PIECE))
    if not differences:
        return None
    return (
        f"{folder} holds the demo set of another version ({differences}), which is used as it is: "
        "remove it to have this version's made"
    )


def _marker(seed: int, pieces_per_class: int, clips_per_piece: int) -> DemoMarker:
    return DemoMarker(
        synthetic=True,
        version=VERSION,
        seed=seed,
        styles=tuple(style.name for style in STYLES),
        pieces_per_class=pieces_per_class,
        clips_per_piece=clips_per_piece,
        clip_s=CLIP_S,
    )


def _check_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise InputError(f"{name} must be at least {least}, got {value}: give {least} or more")


def _read_marker(out_dir: Path) -> DemoMarker | None:
    """What the finished demo in a folder was made with; None where none is."""
    path = out_dir / MARKER
    if not path.is_file():
        return None
    try:
        return from_json(path.read_bytes(), DemoMarker)
    except msgspec.DecodeError as error:
        raise DataError(
            f"{path} is not a marker that this version wrote ({error}): choose another folder "
            "or remove this one"
        ) from error


def _differences(found: DemoMarker, wanted: DemoMarker) -> str:
    return ", ".join(
        f"{name} {getattr(found, name)} instead of {getattr(wanted, name)}"
        for name in DemoMarker.__dataclass_fields__
        if getattr(found, name) != getattr(wanted, name)
    )


def _fill(root: Path, marker: DemoMarker, processes: int) -> None:
    pieces = [
        (style, piece)
        for style in range(len(marker.styles))
        for piece in range(marker.pieces_per_class)
    ]
    make = partial(_make_piece, root, marker)
    if processes == 1:
        drawn = [make(style, piece) for style, piece in pieces]
    else:
        drawn = _make_in_processes(make, pieces, processes)
    write_groups(root, [row for rows in drawn for row in rows])


def _make_in_processes(
    make: Callable[[int, int], list[PictureRow]],
    pieces: list[tuple[int, int]],
    processes: int,
) -> list[list[PictureRow]]:
    # Spawned, because a fork of a process that runs threads (torch does) can hang.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        futures: list[Future[list[PictureRow]]] = [pool.submit(make, *key) for key in pieces]
        return [future.result() for future in futures]


def _make_piece(root: Path, marker: DemoMarker, style: int, piece: int) -> list[PictureRow]:
    """Compose and draw one piece; return the rows of its pictures."""
    name = marker.styles[style]
    rng = np.random.default_rng([marker.seed, style, piece])
    audio = compose(STYLES[style], marker.clip_s * marker.clips_per_piece, rng)
    rows = []
    for clip, sound in enumerate(np.split(audio, marker.clips_per_piece)):
        picture = render_gtzan_picture(mel_spectrogram(sound, SAMPLE_RATE))
        number = piece * marker.clips_per_piece + clip
        path = save_picture(picture, root, name, number)
        rows.append(PictureRow(path, f"{name}/piece{piece:03d}", clip * marker.clip_s))
    return rows
