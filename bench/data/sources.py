"""Find pictures and their labels: image folders, GTZAN as Kaggle ships it, CSV manifests.

Every file is decoded once here, so that a broken one is known before anything is trained, and
the frame that all pictures share is found in the same pass.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from bench.data.frame import FrameFinder
from bench.data.paths import as_text, refuse_broken_names
from bench.data.pixel_cache import NO_CACHE, PixelCache
from bench.errors import DataError, did_you_mean
from bench.records import Box, BrokenPicture, Dataset, Picture, SourceKind
from bench.runtime.preprocess import SUFFIXES, PictureError, open_rgb
from bench.words import counted, some

_NO_SUCH_FILE = "no such file"
DEMO_MARKER = "demo.json"
GROUPS_FILE = "groups.csv"

_TRAIN_FOLDERS = frozenset({"train", "val", "valid", "validation"})
_CHUNK = 64

CropChoice = Literal["auto", "none"] | Box
GivenSplit = Literal["train", "test"]


@dataclass(frozen=True, slots=True)
class _Listed:
    """A picture file as listed, before it is opened."""

    path: str
    label: str
    group: str | None = None
    given_split: GivenSplit | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PassedOver:
    """What lies in a picture folder and is not read; hidden files and folders aside.

    `empty_classes` are class folders without a picture, `beside_classes` pictures that lie beside
    the class folders, `files` those in class folders whose suffix is no picture's; all are paths
    relative to the data set's folder.
    """

    empty_classes: tuple[str, ...] = ()
    beside_classes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    @property
    def in_words(self) -> str | None:
        """What is passed over and what to do about it, in one line; None if nothing is."""
        said = []
        if self.empty_classes:
            count = counted(len(self.empty_classes), "class folder")
            said.append(
                f"{count} without a picture: {some(self.empty_classes)} (add pictures, or remove "
                f"{'it' if len(self.empty_classes) == 1 else 'them'})"
            )
        if self.beside_classes:
            said.append(
                f"{counted(len(self.beside_classes), 'picture')} beside the class folders: "
                f"{some(self.beside_classes)} (move each into the folder of its class)"
            )
        if self.files:
            said.append(
                f"{counted(len(self.files), 'file')} of other kinds: {some(self.files)} (convert "
                f"what is a picture to one of {', '.join(sorted(SUFFIXES))})"
            )
        return f"passed over: {'; '.join(said)}" if said else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The pictures of a data set by their names, before any is opened.

    `source` is the folder or manifest that was given, `root` what paths are relative to.
    """

    source: Path
    root: Path
    kind: SourceKind
    pictures: tuple[_Listed, ...]
    passed_over: PassedOver

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(sorted({picture.label for picture in self.pictures}))


@dataclass(slots=True)
class _Inspected:
    pictures: list[Picture] = field(default_factory=list)
    broken: list[BrokenPicture] = field(default_factory=list)
    frame: FrameFinder = field(default_factory=FrameFinder)


def parse_crop(text: str) -> CropChoice:
    """Read `auto`, `none` or `LEFT,TOP,RIGHT,BOTTOM` in pixels.

    Raises:
        DataError: anything else, or a box without an inside.
    """
    if text == "auto":
        return "auto"
    if text == "none":
        return "none"
    numbers = text.split(",")
    if len(numbers) == 4 and all(number.strip().isdecimal() for number in numbers):
        left, top, right, bottom = (int(number) for number in numbers)
        if left < right and top < bottom:
            return left, top, right, bottom
    raise DataError(
        f"--crop takes auto, none, or LEFT,TOP,RIGHT,BOTTOM in pixels with left < right and "
        f"top < bottom, not {text!r}"
    )


def load_dataset(
    path: str | Path,
    *,
    crop: CropChoice = "auto",
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """List a picture folder, a GTZAN folder or a CSV manifest, and read its pictures.

    Raises:
        DataError: nothing usable is there; the message names the remedy.
    """
    return read_pictures(list_source(path), crop=crop, threads=threads, progress=progress)


def list_source(path: str | Path) -> Listing:
    """List what is to be read of a picture folder, a GTZAN folder or a CSV manifest.

    Raises:
        DataError: there is no picture, or a name or a file of groups is faulty.
    """
    source = Path(path).expanduser()
    if not source.exists():
        raise DataError(
            f"{source}: no such folder or file; give a folder with one subfolder of pictures a "
            "class, or a CSV manifest with the columns path,label"
        )
    source = source.resolve()
    listing = _list_manifest(source) if source.is_file() else _list_folder(source)
    refuse_broken_names(listing.root, (picture.path for picture in listing.pictures))
    return listing


def read_pictures(
    listing: Listing,
    *,
    crop: CropChoice = "auto",
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    pixel_cache: PixelCache = NO_CACHE,
) -> Dataset:
    """Open every listed picture once.

    `progress` hears how many pictures are read, and of how many; `pixel_cache` keeps what they
    were decoded to.

    Raises:
        DataError: no picture of a class can be decoded, or `crop` does not fit.
    """
    root, labels = listing.root, listing.labels
    inspected = _inspect(listing, threads, progress or (lambda _done, _all: None), pixel_cache)
    if crop == "auto":
        box = inspected.frame.box()
    else:
        box = None if crop == "none" else crop
    readable = {picture.label for picture in inspected.pictures}
    if len(readable) < len(labels):
        gone = [name for index, name in enumerate(labels) if index not in readable]
        raise DataError(_why_classes_are_gone(listing, gone, inspected.broken))
    if box is not None:
        _check_box(box, inspected.pictures)
    return Dataset(
        name=dataset_name(listing.source),
        root=str(root),
        kind=listing.kind,
        classes=labels,
        pictures=tuple(inspected.pictures),
        broken=tuple(inspected.broken),
        crop=box,
        synthetic=_is_demo(root),
    )


def dataset_name(path: str | Path) -> str:
    """What the data set at a path is called, whether or not it can be read."""
    source = Path(path).expanduser().resolve()
    if source.is_file():
        return source.stem
    root, kind = _picture_root(source)
    if kind == "gtzan":
        return (root.parent.parent if root.parent.name == "Data" else root.parent).name
    return root.name


def check_source(path: str | Path) -> None:
    """Refuse what nothing can be trained on, as far as names of files tell; none is opened.

    Raises:
        DataError: nothing usable is there, or one class alone; the message names the remedy.
    """
    listing = list_source(path)
    paths = [picture.path for picture in listing.pictures]
    check_classes(listing.root, listing.labels, paths)


def check_classes(root: str | Path, classes: Sequence[str], paths: Sequence[str]) -> None:
    """Refuse a data set in which there is nothing to be told apart.

    Raises:
        DataError: it has one class.
    """
    if len(classes) < 2:
        raise DataError(
            f"{root}: a classifier needs at least two classes, this data set has "
            f"{len(classes)} ({', '.join(classes)}): {more_classes(root, classes[0], paths)}"
        )


def more_classes(root: str | Path, only: str, paths: Sequence[str]) -> str:
    """What to do about a data set of one class; `paths` are its pictures', relative to `root`.

    Where the one class folder holds nothing but subfolders, those are likely the classes.
    """
    within = [path.removeprefix(f"{only}/").split("/") for path in paths]
    if all(path.startswith(f"{only}/") for path in paths) and all(len(p) > 1 for p in within):
        folders = len({parts[0] for parts in within})
        if folders > 1:
            return (
                f"{only} holds {folders} subfolders of pictures: give {Path(root) / only} instead"
            )
    return "add a subfolder a class, or rows with another label to a manifest"


# --- listing --------------------------------------------------------------------------------


def _picture_root(source: Path) -> tuple[Path, SourceKind]:
    for candidate in (source, source / "images_original", source / "Data" / "images_original"):
        if candidate.name == "images_original" and candidate.is_dir():
            return candidate, "gtzan"
    return source, "folder"


def _are_parts(folders: Sequence[Path]) -> bool:
    """Whether these are the parts of a given split: train/ and others alone."""
    names = {folder.name.lower() for folder in folders}
    return "train" in names and names <= _TRAIN_FOLDERS | {"test"}


def _folders_and_pictures(parent: Path) -> tuple[list[Path], list[Path]]:
    """What lies in a folder itself and is not hidden: class folders, or parts, and pictures."""
    seen = [path for path in sorted(parent.iterdir()) if not path.name.startswith(".")]
    folders = [path for path in seen if path.is_dir()]
    return folders, [p for p in seen if p.suffix.lower() in SUFFIXES and p.is_file()]


def _files_of_class(folder: Path) -> tuple[list[Path], list[Path]]:
    """The pictures in a class folder, and its other files that are not hidden."""
    pictures, others = [], []
    for file in sorted(folder.rglob("*")):
        if not file.is_file():
            continue
        if file.suffix.lower() in SUFFIXES:
            pictures.append(file)
        elif not any(part.startswith(".") for part in file.relative_to(folder).parts):
            others.append(file)
    return pictures, others


def _list_folder(source: Path) -> Listing:
    root, kind = _picture_root(source)
    classes, beside = _folders_and_pictures(root)
    if _are_parts(classes):
        parts, classes = classes, []
        for part in parts:
            folders, pictures = _folders_and_pictures(part)
            classes += folders
            beside += pictures
    listed: list[_Listed] = []
    empty: list[Path] = []
    others: list[Path] = []
    for folder in classes:
        given = None if folder.parent == root else given_split(folder.parent.name)
        pictures, rest = _files_of_class(folder)
        listed += [
            _Listed(file.relative_to(root).as_posix(), folder.name, given_split=given)
            for file in pictures
        ]
        others += rest
        if not pictures:
            empty.append(folder)
    if not listed:
        raise DataError(
            f"{root}: no pictures found in subfolders; expected <class>/<picture> with one of "
            f"the suffixes {', '.join(sorted(SUFFIXES))}"
        )
    return Listing(
        source=source,
        root=root,
        kind=kind,
        pictures=_with_groups(root, listed),
        passed_over=PassedOver(
            empty_classes=_names_within(root, empty),
            beside_classes=_names_within(root, beside),
            files=_names_within(root, others),
        ),
    )


def _names_within(root: Path, paths: Iterable[Path]) -> tuple[str, ...]:
    return tuple(as_text(path.relative_to(root)) for path in paths)


def _list_manifest(manifest: Path) -> Listing:
    if manifest.suffix.lower() != ".csv":
        raise DataError(
            f"{manifest}: a data set is a folder or a .csv manifest with the columns path,label"
        )
    listed, faults = [], []
    for line, row in read_rows(manifest, ("path", "label")):
        if not row["path"] or not row["label"]:
            faults.append(f"line {line}: path and label must not be empty")
            continue
        given = row.get("split") or ""
        try:
            split = given_split(given) if given else None
        except DataError as error:
            faults.append(f"line {line}: {error}")
            continue
        listed.append(_Listed(row["path"], row["label"], row.get("group") or None, split))
    if faults:
        raise DataError(f"{manifest}: {some(faults, most=10, separator='; ')}")
    if not listed:
        raise DataError(f"{manifest}: no rows; expected path,label[,group][,split]")
    doubled = sorted(_doubled(item.path for item in listed))
    if doubled:
        raise DataError(
            f"{manifest}: a picture may stand in one row only; {doubled[0]} stands in several"
        )
    return Listing(
        source=manifest,
        root=manifest.parent,
        kind="csv",
        pictures=tuple(listed),
        passed_over=PassedOver(),  # what a manifest does not name is left out on purpose
    )


def read_rows(file: Path, needed: Sequence[str]) -> Iterator[tuple[int, dict[str, str | None]]]:
    """Yield the rows of a CSV file that names the `needed` columns, with their line numbers."""
    with file.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream)
        try:
            _require_columns(file, tuple(reader.fieldnames or ()), needed)
            for row in reader:
                yield reader.line_num, row
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{file}: not CSV in UTF-8 ({error}): save it as such") from error


def _require_columns(file: Path, columns: Sequence[str], needed: Sequence[str]) -> None:
    missing = [name for name in needed if name not in columns]
    if missing:
        hint = did_you_mean(missing[0], columns)
        raise DataError(
            f"{file}: the column {missing[0]!r} is missing{hint}; the first line must name the "
            f"columns {','.join(needed)}, this one names {','.join(columns) or 'nothing'}"
        )


def _doubled(values: Iterable[str]) -> set[str]:
    seen: set[str] = set()
    doubled: set[str] = set()
    for value in values:
        (doubled if value in seen else seen).add(value)
    return doubled


def given_split(name: str) -> GivenSplit:
    """Read the name of a part; what is for validation is for development, like train.

    Raises:
        DataError: it is the name of none.
    """
    word = name.strip().lower()
    if word == "test":
        return "test"
    if word in _TRAIN_FOLDERS:
        return "train"
    raise DataError(f"a split is train, val or test, not {name!r}{did_you_mean(word, ['train'])}")


def _with_groups(root: Path, listed: Sequence[_Listed]) -> tuple[_Listed, ...]:
    """Tie pictures by the `groups.csv` that lies in the folder or beside it, if there is one."""
    for file in (root / GROUPS_FILE, root.parent / GROUPS_FILE):
        if file.is_file():
            rows = read_rows(file, ("path", "group"))
            groups = {row["path"]: row["group"] or None for _, row in rows}
            if not any(item.path in groups for item in listed):
                # Groups that tie nothing would let pieces of one recording straddle the split.
                raise DataError(
                    f"{file}: names none of the pictures; write their paths relative to {root} "
                    f"(such as {listed[0].path}), or move the file away"
                )
            return tuple(replace(item, group=groups.get(item.path)) for item in listed)
    return tuple(listed)


def _is_demo(root: Path) -> bool:
    for folder in (root, root.parent):
        marker = folder / DEMO_MARKER
        if marker.is_file():
            try:
                content = json.loads(marker.read_bytes())
            except ValueError:
                continue  # another program's file
            return isinstance(content, dict) and content.get("synthetic") is True
    return False


# --- inspection -----------------------------------------------------------------------------


def _inspect(
    listing: Listing,
    threads: int | None,
    progress: Callable[[int, int], None],
    pixel_cache: PixelCache,
) -> _Inspected:
    root, listed = listing.root, listing.pictures
    label_index = {label: index for index, label in enumerate(listing.labels)}
    chunks = [listed[start : start + _CHUNK] for start in range(0, len(listed), _CHUNK)]
    whole = _Inspected()
    with ThreadPoolExecutor(threads) as pool:
        inspect = partial(_inspect_chunk, root, label_index=label_index, pixel_cache=pixel_cache)
        for part in pool.map(inspect, chunks):
            whole.pictures += part.pictures
            whole.broken += part.broken
            whole.frame.merge(part.frame)
            progress(len(whole.pictures) + len(whole.broken), len(listed))
    return whole


def _inspect_chunk(
    root: Path,
    listed: Sequence[_Listed],
    *,
    label_index: dict[str, int],
    pixel_cache: PixelCache,
) -> _Inspected:
    part = _Inspected()
    for item in listed:
        try:
            path = root / item.path
            data = path.read_bytes()
            mode, pixels = _decode(data)
        except (PictureError, OSError) as error:
            missing = isinstance(error, FileNotFoundError)
            reason = _NO_SUCH_FILE if missing else str(error).removeprefix("these bytes: ")
            part.broken.append(BrokenPicture(path=item.path, reason=reason))
            continue
        pixel_cache.keep(path, pixels)
        part.frame.add(pixels)
        part.pictures.append(
            Picture(
                path=item.path,
                label=label_index[item.label],
                sha256=hashlib.sha256(data).hexdigest(),
                width=pixels.shape[1],
                height=pixels.shape[0],
                mode=mode,
                group=item.group,
                given_split=item.given_split,
            )
        )
    return part


def _why_classes_are_gone(
    listing: Listing, gone: Sequence[str], broken: Sequence[BrokenPicture]
) -> str:
    """Say of the classes without a readable picture what is wrong with their files."""
    of_class = {picture.path: picture.label for picture in listing.pictures}
    unread = [each for each in broken if of_class[each.path] in gone]
    # Paths that lead nowhere are usually one mistake, which is in the manifest.
    unread.sort(key=lambda each: each.reason != _NO_SUCH_FILE)
    first, others = unread[0], len(unread) - 1
    what, mend = f"{first.path}: {first.reason}", "mend the files or remove the class"
    if listing.kind == "csv":
        if first.reason == _NO_SUCH_FILE:
            what += f" (paths are relative to {listing.root})"
        mend = "mend the paths and files, or take the rows out"
    if others:
        what += f"; nor can {counted(others, 'other file')} be read"
    return f"{listing.source}: no picture of {some(gone)} can be read: {what}; {mend}"


def _decode(data: bytes) -> tuple[str, npt.NDArray[np.uint8]]:
    """Return the stored mode and the upright (H, W, 3) uint8 pixels."""
    rgb = open_rgb(data)
    with Image.open(io.BytesIO(data)) as header:
        return header.mode, np.asarray(rgb)


def _check_box(box: Box, pictures: Sequence[Picture]) -> None:
    small = [
        f"{picture.path} ({picture.width}x{picture.height} pixels)"
        for picture in pictures
        if picture.width < box[2] or picture.height < box[3]
    ]
    if small:
        raise DataError(
            f"--crop {','.join(map(str, box))} reaches beyond {some(small)}: give a box that lies "
            "within every picture, or --crop none"
        )
