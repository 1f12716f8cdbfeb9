"""Find pictures and their labels: image folders, GTZAN as Kaggle ships it, CSV manifests."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from bench.data.paths import as_text, refuse_broken_names
from bench.errors import DataError, did_you_mean
from bench.records import SourceKind
from bench.runtime.preprocess import SUFFIXES
from bench.words import counted, some

DEMO_MARKER = "demo.json"
GROUPS_FILE = "groups.csv"

_TRAIN_FOLDERS = frozenset({"train", "val", "valid", "validation"})

GivenSplit = Literal["train", "test"]


@dataclass(frozen=True, slots=True)
class Listed:
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
    pictures: tuple[Listed, ...]
    passed_over: PassedOver

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(sorted({picture.label for picture in self.pictures}))


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
    listed: list[Listed] = []
    empty: list[Path] = []
    others: list[Path] = []
    for folder in classes:
        given = None if folder.parent == root else given_split(folder.parent.name)
        pictures, rest = _files_of_class(folder)
        listed += [
            Listed(file.relative_to(root).as_posix(), folder.name, given_split=given)
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
        listed.append(Listed(row["path"], row["label"], row.get("group") or None, split))
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


def _with_groups(root: Path, listed: Sequence[Listed]) -> tuple[Listed, ...]:
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
