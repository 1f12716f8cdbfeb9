"""Protocols: what each tears and keeps, where lists come from, and the leak that they show."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score
from sklearn.neighbors import KNeighborsClassifier

from bench.data.groups import Tie, join
from bench.data.protocols import (
    make_splits,
    parse_protocols,
    read_lists,
    searched_first,
    torchaudio_lists,
)
from bench.data.splits import check_split
from bench.errors import DataError, InputError
from bench.records import Dataset, Protocol, Split
from tests.data.test_groups import dataset_of

GENRES = ("jazz", "rock")
EXCERPTS = dataset_of(*(f"{name}/{name}{n:05d}.png" for name in GENRES for n in range(30)))


def grouped(each: int = 4) -> Dataset:
    """Three classes of ten groups."""
    dataset = dataset_of(*(f"{c}/{g}-{n}" for c in "abc" for g in range(10) for n in range(each)))
    first = range(0, len(dataset.pictures), each)
    return join(dataset, [Tie("made", k, k + n, f"{k}") for k in first for n in range(each)])


def split_of(dataset: Dataset, protocol: Protocol, *lists: Path, seed: int = 0) -> Split:
    (split,), _ = make_splits(
        dataset, (protocol,), folds=3, test_fraction=0.2, seed=seed, lists=lists
    )
    return split


def torn(dataset: Dataset, split: Split) -> int:
    """Groups that stand on both sides of the test set's border."""
    groups = [{dataset.pictures[i].group for i in part} for part in (split.test, split.development)]
    return len(groups[0] & groups[1])


# --- which protocol -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ("random,grouped", ["grouped", "random"]),
        ("random, file,grouped,file", ["file", "grouped", "random"]),
        ("random", ["random"]),
    ],
)
def test_random_is_searched_under_only_where_nothing_else_is_asked_for(text, order):
    assert list(searched_first(parse_protocols(text))) == order


def test_random_ignores_groups_and_is_labelled_as_doing_so():
    dataset = grouped()
    splits, said = make_splits(dataset, ("random", "grouped"), folds=3, test_fraction=0.2, seed=0)

    assert [split.protocol for split in splits] == ["grouped", "random"]
    assert (torn(dataset, splits[0]), torn(dataset, splits[1]) > 10) == (0, True)
    for split in splits:
        check_split(dataset, split)
    assert "protocol: grouped (no group stands on both sides" in said[0]
    assert "The search itself is made under grouped" in said[0]
    _, said = make_splits(dataset, ("random",), folds=3, test_fraction=0.2, seed=0)
    assert "groups are ignored, as was asked for" in said[0]


@pytest.mark.parametrize(
    ("ties", "said"),
    [
        ([Tie("audit", 0, 1), Tie("audit", 1, 2), Tie("audit", 40, 41)],
         "by class, with 5 found duplicates kept together"),
        ([Tie("audit", 0, 1), Tie("--groups g.csv", 4, 5, "x")],
         "no group stands on both sides of a split"),
    ],
    ids=["duplicates alone", "groups were given as well"],
)  # fmt: skip
def test_a_split_that_ties_found_duplicates_alone_is_not_told_as_one_of_groups(ties, said):
    dataset = join(dataset_of(*(f"{c}/{n}" for c in "ab" for n in range(30))), ties)

    for protocols in ((), ("grouped",)):
        _, remarks = make_splits(dataset, protocols, folds=3, test_fraction=0.2, seed=0)
        assert remarks == (f"protocol: grouped ({said})",)

    _, remarks = make_splits(dataset, ("random",), folds=3, test_fraction=0.2, seed=0)
    ignored = "found duplicates" if said.startswith("by class") else "groups"
    assert f"the {ignored} are ignored, as was asked for" in remarks[0]


@pytest.mark.parametrize(("dataset", "expected"), [(grouped(), "grouped"), (EXCERPTS, "random")])
def test_by_default_groups_decide(dataset, expected):
    splits, _ = make_splits(dataset, (), folds=3, test_fraction=0.2, seed=0)
    assert [split.protocol for split in splits] == [expected]


def test_grouped_without_anything_tied_is_refused():
    with pytest.raises(DataError, match="nothing ties these pictures: give --groups"):
        split_of(EXCERPTS, "grouped")


# --- lists ----------------------------------------------------------------------------------


def lines(part: range) -> str:
    return "".join(f"{name}/{name}.{n:05d}.wav\n" for name in GENRES for n in part)


@pytest.fixture
def text_files(tmp_path: Path) -> list[Path]:
    """30 invented excerpts a genre: 10 to train on, 6 to validate, 8 to test, 6 in no part."""
    parts = {"train_x.txt": range(10), "valid_x.txt": range(10, 16), "test_x.txt": range(16, 24)}
    for name, part in parts.items():
        (tmp_path / name).write_text(lines(part))
    return [tmp_path / name for name in parts]


def as_csv(files: list[Path], column: str) -> Path:
    rows = [f"{line},{file.name[:5].strip('_')}" for file in files
            for line in file.read_text().split()]  # fmt: skip
    csv = files[0].parent / "parts.csv"
    csv.write_text("\n".join([f"{column},part", *rows]).replace(",test_", ",test"))
    return csv


@pytest.mark.parametrize("form", ["text files", "name", "path"])
def test_the_filtered_parts_are_read_from_text_files_or_a_csv(text_files, form):
    files = text_files if form == "text files" else [as_csv(text_files, form)]
    split = split_of(EXCERPTS, "gtzan-filtered", *files)

    assert len(split.test) == 16
    assert len(split.development) == 32
    assert len(split.left_out) == 12
    assert {EXCERPTS.pictures[i].path[-9:-4] for i in split.test} == {
        f"{n:05d}" for n in range(16, 24)
    }


def test_names_without_a_picture_are_told(text_files):
    with text_files[0].open("a") as file:
        file.write("jazz.00054\n")
    _, said = make_splits(
        EXCERPTS, ("gtzan-filtered",), folds=3, test_fraction=0.2, seed=0, lists=text_files
    )
    assert "32 pictures for development, 16 for the test, 12 in no part" in said[1]
    assert "no picture is there for 1 name: jazz.00054" in said[1]


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A torchaudio of invented names; its import fails, as of one built for another torch."""
    package = tmp_path / "site" / "torchaudio"
    (package / "datasets").mkdir(parents=True)
    (package / "__init__.py").write_text("raise OSError('built for another torch')")
    source = package / "datasets" / "gtzan.py"
    names = {"train": range(10), "valid": range(10, 16), "test": range(16, 24)}
    source.write_text(
        "import torch\n"
        + "".join(
            f"filtered_{part} = {[f'{name}.{n:05d}' for name in GENRES for n in numbers]}\n"
            for part, numbers in names.items()
        )
    )
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.delitem(sys.modules, "torchaudio", raising=False)
    return source


def test_an_installed_torchaudio_gives_the_same_parts_and_is_not_imported(stand_in, text_files):
    assert torchaudio_lists(EXCERPTS) == read_lists(EXCERPTS, text_files)
    assert split_of(EXCERPTS, "gtzan-filtered").test == split_of(
        EXCERPTS, "gtzan-filtered", *text_files
    ).test  # fmt: skip
    assert "torchaudio" not in sys.modules


def test_a_torchaudio_without_the_lists_is_refused_with_the_remedy(stand_in):
    stand_in.write_text("filtered_train = []\n")
    with pytest.raises(DataError, match=r"has no filtered_valid: install torchaudio.*--parts"):
        torchaudio_lists(EXCERPTS)


def test_without_torchaudio_the_remedy_is_told(monkeypatch):
    monkeypatch.setattr("bench.data.protocols.find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"torchaudio is not there: install torchaudio.*--parts"):
        torchaudio_lists(EXCERPTS)


def test_file_takes_its_parts_from_a_csv(tmp_path):
    dataset = grouped()
    rows = [f"{p.path},{'test' if p.path[2] in '01' else 'train'}" for p in dataset.pictures]
    csv = tmp_path / "own.csv"
    csv.write_text("\n".join(["path,part", *rows]))
    split = split_of(dataset, "file", csv)
    assert {dataset.pictures[i].path[2] for i in split.test} == {"0", "1"}
    assert (split.left_out, torn(dataset, split)) == ((), 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path,part\njazz/jazz00001.png,tset\n", r"line 2: a split is train, val or test"),
        ("path,part\n,test\n", r"line 2: no name"),
        ("path,prt\nx,test\n", r"column 'part' is missing \(did you mean `prt`"),
        ("name,part\nblues.00001,test\n", r"of its 1 name, 0 are there, and blues.00001"),
        ("name,part\njazz.00001,test\njazz00001.png,train\n", r"stands in train and in test"),
        ("name,part\njazz.00001,train\n", r"to train on and to test on"),
    ],
)
def test_lists_that_cannot_be_used_are_refused(tmp_path, content, message):
    csv = tmp_path / "parts.csv"
    csv.write_text(content)
    with pytest.raises(DataError, match=message):
        read_lists(EXCERPTS, [csv])


def test_a_text_file_must_say_which_part_it_lists(tmp_path):
    (tmp_path / "names.txt").write_text("jazz.00001\n")
    with pytest.raises(DataError, match="must begin with train, valid or test"):
        read_lists(EXCERPTS, [tmp_path / "names.txt"])


def test_file_without_any_test_part_is_refused():
    with pytest.raises(DataError, match="comes with none: give --parts"):
        split_of(EXCERPTS, "file")


def test_lists_without_a_protocol_that_takes_them_are_refused(text_files):
    with pytest.raises(InputError, match="--parts belongs to"):
        split_of(EXCERPTS, "random", *text_files)


# --- the leak -------------------------------------------------------------------------------


def score(dataset: Dataset, pixels: np.ndarray, split: Split) -> float:
    """Test score of the nearest neighbour: it finds whatever a group has in common."""
    labels = np.asarray(dataset.labels)
    train, test = list(split.development), list(split.test)
    found = KNeighborsClassifier(1).fit(pixels[train], labels[train]).predict(pixels[test])
    return float(balanced_accuracy_score(labels[test], found))


@pytest.mark.parametrize(("signature", "least", "most"), [(3.0, 0.4, 1.0), (0.0, -0.2, 0.2)])
def test_a_planted_leak_is_the_gap_between_random_and_grouped_and_nothing_else_is(
    signature, least, most
):
    """Labels have nothing to do with the pixels; only the group's signature can tell them."""
    dataset, gaps = grouped(each=8), []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        pixels = rng.normal(size=(len(dataset.pictures), 40))
        names = sorted({str(p.group) for p in dataset.pictures})
        signatures = dict(zip(names, rng.normal(size=(len(names), 40)), strict=True))
        pixels += signature * np.stack([signatures[str(p.group)] for p in dataset.pictures])
        scores = [
            score(dataset, pixels, split_of(dataset, protocol, seed=seed))
            for protocol in ("random", "grouped")
        ]
        gaps.append(scores[0] - scores[1])
    assert least < np.mean(gaps) < most
