"""Protocols: the ways in which pictures are shared out between training and testing.

`grouped` keeps groups whole, `file` takes the test part that came with the data, `gtzan-filtered`
the fault-filtered parts of GTZAN (Kereliuk, Sturm and Larsen, 2015), and `random` draws picture by
picture, which is what many published scores are made with and what the others are compared to.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

from bench.data.groups import is_tied
from bench.data.names import PictureNames
from bench.data.sources import given_split, read_rows
from bench.data.splits import Parts, default_protocol, make_split
from bench.errors import DataError, InputError, did_you_mean
from bench.records import Dataset, Protocol, Split, how_split
from bench.words import counted, some

PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
WITH_LISTS: tuple[Protocol, ...] = ("gtzan-filtered", "file")

_TORCHAUDIO_LISTS: Mapping[str, Literal["train", "test"]] = {
    "filtered_train": "train",
    "filtered_valid": "train",
    "filtered_test": "test",
}


@dataclass(frozen=True, slots=True)
class Lists:
    """The parts that a list shares pictures out to, and the names that no picture bears."""

    parts: Parts
    unknown: tuple[str, ...] = ()


def parse_protocols(text: str) -> tuple[Protocol, ...]:
    """Read `random,grouped`.

    Raises:
        InputError: a name is none of the protocols.
    """
    chosen: list[Protocol] = []
    for word in (part.strip() for part in text.split(",")):
        known = next((protocol for protocol in PROTOCOLS if protocol == word), None)
        if known is None:
            raise InputError(
                f"--protocol takes {', '.join(PROTOCOLS)}, or several with commas between them, "
                f"not {word!r}{did_you_mean(word, PROTOCOLS)}"
            )
        chosen.append(known)
    return tuple(dict.fromkeys(chosen))


def searched_first(protocols: Sequence[Protocol]) -> tuple[Protocol, ...]:
    """Put the protocol to search under first: any before `random`, then as they were given."""
    return tuple(sorted(protocols, key=lambda protocol: protocol == "random"))


def refuse_lists_without_taker(protocols: Sequence[Protocol], lists: Sequence[Path]) -> None:
    """Refuse lists that none of the protocols takes.

    Raises:
        InputError: there are such.
    """
    if lists and not set(WITH_LISTS) & set(protocols):
        raise InputError("--parts belongs to --protocol file or gtzan-filtered, not to others")


def make_splits(
    dataset: Dataset,
    protocols: Sequence[Protocol],
    *,
    folds: int,
    test_fraction: float,
    seed: int,
    lists: Sequence[Path] = (),
) -> tuple[tuple[Split, ...], tuple[str, ...]]:
    """Make the split of each protocol, the one to search under first, and remarks on them.

    `lists` belong to `gtzan-filtered` where it is among the protocols, otherwise to `file`.

    Raises:
        DataError: a split cannot be made, or a list does not fit the pictures.
        InputError: lists were given, and no protocol that takes them.
    """
    chosen = searched_first(protocols or (default_protocol(dataset),))
    refuse_lists_without_taker(chosen, lists)
    taker = next((protocol for protocol in WITH_LISTS if protocol in chosen), None)
    remarks = [_why(chosen, dataset)]
    splits = []
    for protocol in chosen:
        read: Lists | None = None
        if lists and protocol == taker:
            read = read_lists(dataset, lists)
        elif protocol == "gtzan-filtered":
            read = torchaudio_lists(dataset)
        split = make_split(
            dataset,
            folds=folds,
            test_fraction=test_fraction,
            seed=seed,
            protocol=protocol,
            parts=read.parts if read else None,
        )
        if read is not None and (read.unknown or split.left_out):
            remarks.append(_leftovers(protocol, read, split))
        splits.append(split)
    return tuple(splits), tuple(remarks)


def _why(protocols: Sequence[Protocol], dataset: Dataset) -> str:
    first, *further = protocols
    text = f"protocol: {first} ({how_split(first, dataset)})"
    if first == "random" and is_tied(dataset):
        ignored = "found duplicates" if dataset.ties_are_found else "groups"
        text += f"; the {ignored} are ignored, as was asked for, and scores will be too high"
    if further:
        text += f"; the chosen recipes are trained again under {', '.join(further)}"
    if "random" in further:
        text += (
            f". The search itself is made under {first}: by a score that leaks it would choose "
            "what leaks best"
        )
    return text


def _leftovers(protocol: Protocol, read: Lists, split: Split) -> str:
    text = f"protocol {protocol}: {counted(len(split.development), 'picture')} for development, "
    text += f"{len(split.test):,} for the test, {len(split.left_out):,} in no part"
    if read.unknown:
        names = counted(len(read.unknown), "name")
        text += f"; no picture is there for {names}: {some(read.unknown)}"
    return text


# --- lists ----------------------------------------------------------------------------------


def check_lists(files: Sequence[Path]) -> None:
    """Refuse `--parts` that are not there.

    Raises:
        DataError: a file is not.
    """
    for file in files:
        if not file.expanduser().is_file():
            raise DataError(
                f"--parts {file}: no such file; give a CSV name,part, or three text files whose "
                "names begin with train, valid and test"
            )


def read_lists(dataset: Dataset, files: Sequence[Path]) -> Lists:
    """Read one CSV `name,part` (or `path,part`), or text files train*, valid*, test* of names.

    Raises:
        DataError: a file is missing or malformed, or the lists contradict each other.
    """
    check_lists(files)
    named: list[tuple[str, Literal["train", "test"]]] = []
    for file in (given.expanduser() for given in files):
        named += _rows_of_csv(file) if file.suffix.lower() == ".csv" else _rows_of_text(file)
    return _lists_of(dataset, named, "--parts")


def torchaudio_lists(dataset: Dataset) -> Lists:
    """Read the fault-filtered names that an installed torchaudio carries.

    Its source is read, not run: importing it needs the very torch that it was built for.

    Raises:
        DataError: torchaudio is not installed, or carries no such lists.
    """
    remedy = (
        "install torchaudio, which carries the names of the fault-filtered split, or give "
        "them with --parts: a CSV name,part, or text files train*.txt, valid*.txt, test*.txt"
    )
    spec = find_spec("torchaudio")
    if spec is None or not spec.submodule_search_locations:
        raise DataError(f"--protocol gtzan-filtered: torchaudio is not there: {remedy}")
    source = Path(next(iter(spec.submodule_search_locations))) / "datasets" / "gtzan.py"
    if not source.is_file():
        raise DataError(f"--protocol gtzan-filtered: {source} is not there: {remedy}")
    lists = _assigned_lists(source)
    missing = [name for name in _TORCHAUDIO_LISTS if name not in lists]
    if missing:
        raise DataError(f"--protocol gtzan-filtered: {source} has no {missing[0]}: {remedy}")
    named = [(name, part) for key, part in _TORCHAUDIO_LISTS.items() for name in lists[key]]
    return _lists_of(dataset, named, "torchaudio's lists")


def _assigned_lists(source: Path) -> dict[str, list[str]]:
    """The module's constants of `_TORCHAUDIO_LISTS` that are literal lists."""
    found = {}
    for node in ast.parse(source.read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.List):
            for target in node.targets:
                if isinstance(target, ast.Name) and target.id in _TORCHAUDIO_LISTS:
                    found[target.id] = [str(name) for name in ast.literal_eval(node.value)]
    return found


def _rows_of_csv(file: Path) -> list[tuple[str, Literal["train", "test"]]]:
    named, faults = [], []
    for line, row in read_rows(file, ("part",)):
        name = row.get("name") or row.get("path")
        if not name:
            faults.append(f"line {line}: no name (the columns are name,part or path,part)")
            continue
        try:
            named.append((name, given_split(row["part"] or "")))
        except DataError as error:
            faults.append(f"line {line}: {error}")
    if faults:
        raise DataError(f"--parts {file}: {some(faults)}")
    return named


def _rows_of_text(file: Path) -> list[tuple[str, Literal["train", "test"]]]:
    word = next((w for w in ("train", "valid", "test") if file.name.lower().startswith(w)), None)
    if word is None:
        raise DataError(
            f"--parts {file}: a text file's name must begin with train, valid or test, because it "
            "says which part it lists"
        )
    lines = file.read_text("utf-8-sig").splitlines()
    return [(line.strip(), given_split(word)) for line in lines if line.strip()]


def _lists_of(
    dataset: Dataset, named: Iterable[tuple[str, Literal["train", "test"]]], origin: str
) -> Lists:
    names = PictureNames(dataset)
    parts: dict[int, Literal["train", "test"]] = {}
    unknown = []
    for name, part in named:
        index = names.find(name)
        if index is None:
            unknown.append(name)
        elif parts.setdefault(index, part) != part:
            raise DataError(
                f"{origin}: {dataset.pictures[index].path} stands in train and in test: a test "
                "picture must not be trained on; leave it in one"
            )
    if "test" not in parts.values() or "train" not in parts.values():
        raise DataError(
            f"{origin} must name pictures of {dataset.root} to train on and to test on; of "
            f"its {counted(len(parts) + len(unknown), 'name')}, "
            f"{counted(len(parts), 'is', 'are')} there"
            + (f", and {some(unknown)} are not" if unknown else "")
        )
    return Lists(parts, tuple(unknown))
