"""The rules of reading a data set from disk."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from bench.data.reading import load_dataset
from bench.data.sources import PassedOver, check_source, list_source
from bench.errors import DataError
from bench.records import GTZAN_GENRES, Dataset


def paths_of(dataset: Dataset) -> list[str]:
    return [picture.path for picture in dataset.pictures]


def rewrite(path: Path, colour: str) -> None:
    Image.new("RGB", (24, 16), colour).save(path)


def write_manifest(folder: Path, *rows: str, header: str = "path,label") -> Path:
    manifest = folder / "pets.csv"
    manifest.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return manifest


# --- layouts --------------------------------------------------------------------------------


def test_a_folder_is_a_class_a_subfolder_in_the_order_of_names(make_pictures):
    root = make_pictures("pets", ("dog", "cat"), each=2)
    dataset = load_dataset(root)
    assert (dataset.name, dataset.kind, dataset.root) == ("pets", "folder", str(root))
    assert dataset.classes == ("cat", "dog")
    assert paths_of(dataset) == ["cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png"]
    assert dataset.labels == (0, 0, 1, 1)
    assert (dataset.pictures[0].width, dataset.pictures[0].height) == (24, 16)
    assert dataset.picture_path(2) == root / "dog/0.png"
    assert not dataset.synthetic


def test_pictures_deeper_down_belong_to_the_class_at_the_top(make_pictures):
    root = make_pictures("pets", ("cat/black", "cat/white/fluffy", "dog"), each=1)
    dataset = load_dataset(root)
    assert paths_of(dataset) == ["cat/black/0.png", "cat/white/fluffy/0.png", "dog/0.png"]
    assert dataset.labels == (0, 0, 1)


@pytest.mark.parametrize("given", [".", "Data", "Data/images_original"])
def test_gtzan_is_the_same_data_set_whichever_of_its_folders_is_given(make_pictures, given):
    make_pictures("gtzan/Data/images_original", GTZAN_GENRES, each=1)
    root = make_pictures("gtzan/Data/genres_original", ("blues",), each=1).parent.parent
    dataset = load_dataset(root / given)
    assert (dataset.name, dataset.kind) == ("gtzan", "gtzan")
    assert dataset.root == str(root / "Data/images_original")
    assert dataset.is_gtzan
    assert len(dataset.pictures) == 10


def test_train_and_test_folders_are_a_given_split(make_pictures):
    root = make_pictures("net/train", each=1).parent
    make_pictures("net/val", each=1)
    make_pictures("net/Test", each=1)
    dataset = load_dataset(root)
    assert dataset.classes == ("cat", "dog")
    given = {path: p.given_split for path, p in zip(paths_of(dataset), dataset.pictures, strict=1)}
    assert given == {
        "train/cat/0.png": "train",
        "train/dog/0.png": "train",
        "val/cat/0.png": "train",
        "val/dog/0.png": "train",
        "Test/cat/0.png": "test",
        "Test/dog/0.png": "test",
    }


def test_a_test_folder_among_other_classes_is_a_class(make_pictures):
    dataset = load_dataset(make_pictures("papers", ("exam", "test"), each=1))
    assert dataset.classes == ("exam", "test")
    assert {picture.given_split for picture in dataset.pictures} == {None}


def test_a_manifest_names_path_label_group_and_split(make_pictures):
    root = make_pictures(each=2)
    manifest = write_manifest(
        root,
        "cat/0.png,tom,litter1,train",
        "cat/1.png,tom,,test",
        "dog/0.png,rex,litter2,val",
        "dog/1.png,rex,litter2,",
        header="path,label,group,split",
    )
    dataset = load_dataset(manifest)
    assert (dataset.name, dataset.kind, dataset.root) == ("pets", "csv", str(root))
    assert dataset.classes == ("rex", "tom")
    assert dataset.labels == (1, 1, 0, 0)
    assert [p.group for p in dataset.pictures] == ["litter1", None, "litter2", "litter2"]
    assert [p.given_split for p in dataset.pictures] == ["train", "test", "train", None]


def test_a_manifest_may_begin_with_a_byte_order_mark(make_pictures):
    root = make_pictures(each=1)
    manifest = write_manifest(root, "cat/0.png,tom", "dog/0.png,rex", header="\ufeffpath,label")
    assert load_dataset(manifest).classes == ("rex", "tom")


def test_other_files_and_hidden_folders_are_passed_over(make_pictures):
    root = make_pictures(classes=("cat", "dog", ".thumbnails"), each=1)
    (root / "cat" / "notes.txt").write_text("purrs")
    (root / "readme.png").write_text("not in a class")
    assert paths_of(load_dataset(root)) == ["cat/0.png", "dog/0.png"]


def test_what_is_passed_over_is_named_unless_it_is_hidden(make_pictures):
    root = make_pictures(classes=("cat", "dog", ".thumbnails"), each=1)
    assert list_source(root).passed_over.in_words is None
    for name in ("bird", "fish/deep", "cat/.cache"):
        (root / name).mkdir(parents=True)
    for name in ("cat/notes.txt", "fish/deep/a.gif", "cat/.DS_Store", "cat/.cache/b.txt", "c.txt"):
        (root / name).touch()
    for name in ("7.png", "6.JPG", ".hidden.png"):
        (root / name).touch()

    found = list_source(root).passed_over

    assert found.empty_classes == ("bird", "fish")
    assert found.beside_classes == ("6.JPG", "7.png")
    assert found.files == ("cat/notes.txt", "fish/deep/a.gif")
    assert found.in_words is not None
    assert found.in_words.startswith(
        "passed over: 2 class folders without a picture: bird, fish (add pictures, or remove them)"
        "; 2 pictures beside the class folders: 6.JPG, 7.png (move each into the folder of its "
        "class); 2 files of other kinds: cat/notes.txt, fish/deep/a.gif (convert what is a "
        "picture to "
    )


def test_of_many_pictures_beside_the_class_folders_a_few_are_named(make_pictures):
    root = make_pictures(each=1)
    for number in range(8):
        (root / f"{number}.png").touch()
    said = list_source(root).passed_over.in_words
    assert "8 pictures beside the class folders: 0.png, 1.png, 2.png, 3.png, 4.png and 3 mo" in said


def test_what_is_passed_over_of_a_given_split_is_named_with_its_part(make_pictures):
    root = make_pictures("pets", ("train/cat", "train/dog", "test/cat"), each=1)
    (root / "test" / "dog").mkdir()  # a class may be empty in one part
    for name in ("a.png", "train/b.png"):
        (root / name).touch()
    found = list_source(root).passed_over
    assert found.empty_classes == ("test/dog",)
    assert found.beside_classes == ("a.png", "train/b.png")


def test_nothing_is_passed_over_of_a_manifest(make_pictures):
    root = make_pictures("pets", ("cat", "dog"), each=1)
    (root / "cat" / "notes.txt").touch()
    manifest = write_manifest(root, "cat/0.png,cat", "dog/0.png,dog")
    assert list_source(manifest).passed_over == PassedOver()


# --- refusals -------------------------------------------------------------------------------


def test_a_missing_folder_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(DataError, match=r"no such folder or file; give a folder with one subf"):
        load_dataset(tmp_path / "nowhere")


def test_a_file_that_is_no_manifest_is_refused(make_pictures):
    with pytest.raises(DataError, match=r"0\.png: a data set is a folder or a \.csv manifest"):
        load_dataset(make_pictures() / "cat" / "0.png")


def test_a_folder_without_pictures_is_refused_with_the_suffixes(tmp_path):
    (tmp_path / "cat").mkdir()
    with pytest.raises(DataError, match=r"no pictures found.*<class>/<picture>.*\.bmp, .*\.webp"):
        load_dataset(tmp_path)


def test_one_class_alone_is_refused_before_any_picture_is_opened(make_pictures):
    root = make_pictures(classes=("dog",), each=2)
    for file in (root / "dog").iterdir():
        file.write_bytes(b"woof")
    with pytest.raises(DataError, match=r"at least two classes.* has 1 \(dog\): add a subfolder"):
        check_source(root)


@pytest.mark.parametrize(
    ("classes", "remedy"),
    [
        (("gm/cat", "gm/dog"), r"gm holds 2 subfolders of pictures: give .*/pets/gm instead$"),
        (
            ("gm", "gm/cat", "gm/dog"),
            r"add a subfolder a class, or rows with another label to a manifest$",
        ),
        (("gm/cat",), r"add a subfolder a class, or rows with another label to a manifest$"),
    ],
)
def test_a_folder_one_level_too_high_is_told_which_one_to_give(make_pictures, classes, remedy):
    root = make_pictures("pets", classes, each=2)
    with pytest.raises(DataError, match=remedy):
        check_source(root)


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        ("paht,label", ["a.png,x"], r"column 'path' is missing \(did you mean `paht`\?\)"),
        ("path,lable", ["a.png,x"], r"column 'label' is missing \(did you mean `lable`\?\)"),
        ("file;class", ["a.png;x"], r"must name the columns path,label, this one names file;cl"),
        ("path,label", [], r"no rows; expected path,label\[,group\]\[,split\]"),
        ("path,label", ["a.png,x", "a.png,y"], r"one row only; a\.png stands in several"),
        ("path,label", ["a.png,", ",x"], r"line 2: path and label .*; line 3: path and label"),
        ("path,label,split", ["a.png,x,tset"], r"line 2: .*train, val or test, not 'tset'"),
        ("path,label,split", ["a.png,x,tran"], r"not 'tran' \(did you mean `train`\?\)"),
    ],
)
def test_a_faulty_manifest_is_refused_with_the_remedy(tmp_path, header, rows, message):
    with pytest.raises(DataError, match=message):
        load_dataset(write_manifest(tmp_path, *rows, header=header))


def test_a_long_list_of_faults_is_cut_at_ten(tmp_path):
    manifest = write_manifest(tmp_path, *["a.png,"] * 13)
    with pytest.raises(DataError, match=r"line 11: [^;]* and 3 more$"):
        load_dataset(manifest)


def test_a_manifest_in_another_encoding_is_refused_with_the_remedy(tmp_path):
    manifest = tmp_path / "pets.csv"
    manifest.write_bytes("path,label\na.png,café\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"pets\.csv: not CSV in UTF-8 .*: save it as such"):
        load_dataset(manifest)


# --- groups and the demo's marker -----------------------------------------------------------


@pytest.mark.parametrize("place", ["in the folder", "beside it"])
def test_groups_are_read_from_a_file_in_the_folder_or_beside_it(make_pictures, place):
    root = make_pictures(each=2)
    file = (root if place == "in the folder" else root.parent) / "groups.csv"
    file.write_text("path,group\ncat/0.png,litter\ncat/1.png,litter\ndog/0.png,\n")
    groups = [picture.group for picture in load_dataset(root).pictures]
    assert groups == ["litter", "litter", None, None]


def test_a_file_of_groups_without_its_columns_is_refused(make_pictures):
    root = make_pictures()
    (root / "groups.csv").write_text("path,grupo\ncat/0.png,litter\n")
    with pytest.raises(DataError, match=r"'group' is missing \(did you mean `grupo`\?\)"):
        load_dataset(root)


def test_a_file_of_groups_that_names_none_of_the_pictures_is_refused(make_pictures):
    root = make_pictures()
    (root / "groups.csv").write_text("path,group\npictures/cat/0.png,litter\n")
    with pytest.raises(DataError, match=r"relative to .*pictures \(such as cat/0\.png\), or move"):
        load_dataset(root)


@pytest.mark.parametrize(
    ("content", "synthetic"),
    [('{"synthetic": true}', True), ('{"synthetic": false}', False), ("[1]", False), ("{", False)],
)
def test_only_the_demos_own_marker_makes_a_data_set_synthetic(make_pictures, content, synthetic):
    root = make_pictures("demo/images_original", each=1)
    (root.parent / "demo.json").write_text(content)
    assert load_dataset(root.parent).synthetic is synthetic


# --- fingerprint ----------------------------------------------------------------------------


def test_the_fingerprint_is_the_same_wherever_the_folder_lies_and_whatever_its_name(
    make_pictures, tmp_path
):
    root = make_pictures()
    elsewhere = tmp_path / "deeper" / "other-name"
    shutil.copytree(root, elsewhere)
    assert load_dataset(elsewhere).fingerprint == load_dataset(root).fingerprint


def change_content(root: Path) -> None:
    rewrite(root / "cat" / "0.png", "red")


def change_label(root: Path) -> None:
    (root / "cat").rename(root / "tom")


def change_group(root: Path) -> None:
    (root / "groups.csv").write_text("path,group\ncat/0.png,a\n")


def remove_picture(root: Path) -> None:
    (root / "cat" / "0.png").unlink()


@pytest.mark.parametrize("change", [change_content, change_label, change_group, remove_picture])
def test_the_fingerprint_changes_with_what_is_learned_from(make_pictures, change):
    root = make_pictures()
    before = load_dataset(root).fingerprint
    change(root)
    assert load_dataset(root).fingerprint != before


def test_the_fingerprint_changes_with_the_crop_and_the_given_split(make_pictures):
    root = make_pictures(each=1)
    rows = ["cat/0.png,a,{}", "dog/0.png,b,train"]
    prints = []
    for split in ("train", "test"):
        manifest = write_manifest(
            root, *(row.format(split) for row in rows), header="path,label,split"
        )
        prints += [load_dataset(manifest, crop=crop).fingerprint for crop in ("none", (0, 0, 9, 9))]
    assert len(set(prints)) == 4


def test_a_record_of_the_data_set_keeps_the_bytes_identity(make_pictures):
    root = make_pictures(each=1)
    shutil.copy(root / "cat" / "0.png", root / "dog" / "0.png")
    first, second = load_dataset(root).pictures
    assert first.sha256 == second.sha256
    assert len(first.sha256) == 64


def test_a_name_that_is_no_text_is_refused_with_what_mends_it(tmp_path: Path) -> None:
    for name in (b"cat", b"caf\xe9"):
        folder = tmp_path / os.fsdecode(name)
        folder.mkdir()
        Image.new("RGB", (8, 8)).save(folder / "1.png")

    with pytest.raises(DataError, match=r"must be UTF-8.*rename"):
        load_dataset(tmp_path)
