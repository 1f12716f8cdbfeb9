"""The rules by which a folder of recordings becomes a data set of pictures."""

import csv
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.data.reading import load_dataset
from bench.data.recordings import (
    Cutting,
    LeftOut,
    RenderSummary,
    clip_starts,
    is_silent,
    readable_suffixes,
    render_folder,
    spread,
)
from bench.errors import DataError, InputError

RATE = 8_000  # Hz
SECOND = Cutting(clip_s=1.0)


def tone(seconds: float) -> np.ndarray:
    time_s = np.arange(round(seconds * RATE)) / RATE
    return 0.5 * np.sin(2 * np.pi * 440.0 * time_s)


def silence(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * RATE))


# --- cutting --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("total", "starts", "reason"),
    [
        (100, [0], "exactly one clip"),
        (200, [0, 100], "two clips, no remainder"),
        (249, [0, 100], "a remainder below half a clip is dropped"),
        (250, [0, 100, 150], "half a clip is kept, at full length"),
        (399, [0, 100, 200, 299], "nearly a clip"),
        (50, [0], "half a clip is all there is, and is kept"),
        (49, [], "less than half a clip is all there is, and is dropped"),
        (0, [], "nothing"),
    ],
)
def test_a_recording_is_cut_into_clips_of_one_length(total, starts, reason):
    assert clip_starts(total, 100) == starts, reason


@pytest.mark.parametrize(
    ("count", "most", "chosen"),
    [
        (3, None, [0, 1, 2]),
        (3, 5, [0, 1, 2]),
        (3, 3, [0, 1, 2]),
        (9, 1, [4]),
        (9, 3, [1, 4, 7]),
        (10, 4, [1, 3, 6, 8]),
    ],
)
def test_chosen_clips_are_spread_evenly(count, most, chosen):
    assert spread(range(count), most) == chosen


@pytest.mark.parametrize(("peak", "silent"), [(0.0, True), (1e-4, True), (2e-4, False), (1, False)])
def test_silence_is_what_nowhere_exceeds_80_db_below_full_scale(peak, silent):
    assert is_silent(np.array([0.0, -peak, 0.0], dtype=np.float32)) is silent


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"clip_s": 0.0}, "--clip-s must be longer than 0 s"),
        ({"clip_s": float("nan")}, "--clip-s must be longer than 0 s"),
        ({"clip_s": float("inf")}, "--clip-s must be longer than 0 s"),
        ({"most_clips": 0}, "--most-clips is at least 1, not 0"),
    ],
)
def test_numbers_that_cut_nothing_are_refused(numbers, message):
    with pytest.raises(InputError, match=message):
        Cutting(**numbers)


# --- what a person is told ------------------------------------------------------------------


def summary(**facts: object) -> RenderSummary:
    usual = {"out_dir": "out", "classes": ("jazz",), "recordings": 2, "pictures": 4, "groups": 2}
    return RenderSummary(**usual | facts)


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({}, None),
        ({"silent_clips": 3}, "left out: 3 silent clips (no sample above -80 dB of full scale)"),
        (
            {"padded": 2, "shortest_s": 0.75},
            "padded with silence: 2 recordings shorter than a clip, the shortest 0.75 s",
        ),
        (
            {"left_out": tuple(LeftOut(f"jazz/{n}.m4a", "unknown format") for n in range(7))},
            "left out: 7 files of formats that the installed libsndfile does not read: "
            "jazz/0.m4a, jazz/1.m4a, jazz/2.m4a, jazz/3.m4a, jazz/4.m4a and 2 more; "
            "convert what is sound, say with ffmpeg -i FILE FILE.flac",
        ),
        (
            {"left_out": (LeftOut("jazz/a.wav", "too short", "0.10 s"),)},
            "left out: 1 recording shorter than half a clip: jazz/a.wav (0.10 s); "
            "give a shorter --clip-s",
        ),
    ],
)
def test_what_is_not_as_expected_is_one_line_a_kind(facts, said):
    assert summary(**facts).remarks() == (() if said is None else (said,))


@pytest.mark.parametrize(("groups", "told"), [(4, True), (3, False)])
def test_groups_of_one_picture_each_are_said_to_keep_nothing_together(groups, told):
    remarks = summary(groups=groups).remarks()
    assert any("--group-pattern" in line for line in remarks) == told


# --- a folder -------------------------------------------------------------------------------


def test_reading_sound_without_soundfile_names_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)  # Python's way to say "not importable"
    with pytest.raises(InputError, match=r"pip install 'bench\[audio\]'"):
        render_folder(tmp_path, tmp_path / "out")


Write = Callable[..., None]


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    return tmp_path / "sound"


@pytest.fixture
def write(audio: Path) -> Write:
    """Write a recording below `audio`, as mono, in the format of its suffix or a named one."""
    soundfile = pytest.importorskip(
        "soundfile", reason="reading sound needs the optional extra `audio`"
    )

    def write(name: str, *parts: np.ndarray, **options: str) -> None:
        (audio / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(audio / name, np.concatenate(parts), RATE, **options)

    return write


def rows_of(out: Path) -> list[tuple[str, ...]]:
    with (out / "groups.csv").open(newline="") as file:
        return [tuple(row) for row in csv.reader(file)]


def test_a_folder_of_recordings_becomes_a_gtzan_folder_with_groups(audio, write, tmp_path):
    write("jazz/b.wav", tone(1))
    write("jazz/a.flac", tone(2.5))
    write("rock/c.wav", tone(1))
    out = tmp_path / "pictures"
    made = render_folder(audio, out, SECOND)
    assert (made.classes, made.recordings, made.pictures, made.groups) == (
        ("jazz", "rock"),
        3,
        5,
        3,
    )
    assert made.remarks() == ()
    assert rows_of(out) == [
        ("path", "group", "start_s"),
        ("jazz/jazz00000.png", "jazz/a.flac", "0.0"),
        ("jazz/jazz00001.png", "jazz/a.flac", "1.0"),
        ("jazz/jazz00002.png", "jazz/a.flac", "1.5"),
        ("jazz/jazz00003.png", "jazz/b.wav", "0.0"),
        ("rock/rock00000.png", "rock/c.wav", "0.0"),
    ]
    for path, *_ in rows_of(out)[1:]:
        with Image.open(out / "images_original" / path) as picture:
            assert (picture.mode, picture.size) == ("RGB", (432, 288))


@pytest.mark.parametrize("name", [b"jazz/caf\xe9.wav", b"caf\xe9/b.wav"])
def test_a_name_that_is_no_text_is_refused_with_what_mends_it(name, audio, write, tmp_path):
    write("jazz/a.wav", tone(1))
    broken = audio / os.fsdecode(name)
    broken.parent.mkdir(exist_ok=True)
    shutil.copy(audio / "jazz" / "a.wav", broken)

    with pytest.raises(DataError, match=r"must be UTF-8, '.*caf\\udce9.*' is not: rename it"):
        render_folder(audio, tmp_path / "out", SECOND)

    assert not (tmp_path / "out").exists()


def test_a_left_out_file_can_be_told_whatever_its_name(audio, write, tmp_path):
    write("jazz/a.wav", tone(1))
    (audio / "jazz" / os.fsdecode(b"caf\xe9.txt")).touch()
    (left_out,) = render_folder(audio, tmp_path / "out", SECOND).left_out
    assert left_out.path == r"jazz/caf\udce9.txt"


def test_the_pictures_are_a_data_set_with_the_recordings_as_groups(audio, write, tmp_path):
    write("jazz/a.wav", tone(2))
    write("rock/b.wav", tone(2))
    render_folder(audio, tmp_path / "out", SECOND)
    dataset = load_dataset(tmp_path / "out", threads=1)
    assert dataset.kind == "gtzan"
    assert [picture.group for picture in dataset.pictures] == ["jazz/a.wav"] * 2 + [
        "rock/b.wav"
    ] * 2


@pytest.mark.parametrize(
    ("name", "format_", "subtype"),
    [
        ("a.WAV", "WAV", "PCM_16"),
        ("a.aiff", "AIFF", "PCM_16"),
        ("a.aif", "AIFF", "PCM_16"),
        ("a.au", "AU", "PCM_16"),
        ("a.caf", "CAF", "PCM_16"),
        ("a.ogg", "OGG", "VORBIS"),
        ("a.oga", "OGG", "VORBIS"),
        ("a.opus", "OGG", "OPUS"),
        ("a.sph", "NIST", "PCM_16"),
    ],
)
def test_what_libsndfile_reads_becomes_pictures(name, format_, subtype, audio, write, tmp_path):
    write(f"jazz/{name}", tone(2), format=format_, subtype=subtype)
    made = render_folder(audio, tmp_path / "out", SECOND)
    assert (made.pictures, made.left_out) == (2, ())


def test_suffixes_are_those_of_the_formats_that_are_there():
    class Soundfile:
        """A libsndfile of few formats."""

        @staticmethod
        def available_formats() -> dict[str, str]:
            return {"WAV": "", "OGG": "", "RAW": ""}

    assert readable_suffixes(Soundfile) == {".wav", ".ogg", ".oga", ".opus"}


def test_every_file_left_out_is_named_with_the_reason(audio, write, tmp_path):
    write("jazz/good.wav", tone(2))
    write("jazz/live/1999/deep.wav", tone(2))
    write("lost.wav", tone(2))
    write("jazz/short.wav", tone(0.4))
    write("jazz/empty.wav", silence(0))
    write("jazz/silent.wav", silence(2))
    write("jazz/nan.wav", np.full(RATE, np.nan), subtype="FLOAT")
    (audio / "jazz" / "damaged.wav").write_bytes(b"not a recording")
    (audio / "jazz" / "notes.txt").write_text("not sound")
    (audio / "jazz" / "song.m4a").write_bytes(b"AAC")
    (audio / "jazz" / "gone.wav").symlink_to("nowhere.wav")
    for hidden in (".DS_Store", "jazz/.hidden.wav", ".git/config", "jazz/.trash/old.wav"):
        (audio / hidden).parent.mkdir(exist_ok=True)
        (audio / hidden).touch()
    made = render_folder(audio, tmp_path / "out", SECOND)
    assert (made.recordings, made.pictures) == (1, 2)
    assert {(file.path, file.reason) for file in made.left_out} == {
        ("jazz/live/1999/deep.wav", "nested"),
        ("lost.wav", "in no class"),
        ("jazz/short.wav", "too short"),
        ("jazz/empty.wav", "unreadable"),
        ("jazz/silent.wav", "silent"),
        ("jazz/nan.wav", "unreadable"),
        ("jazz/damaged.wav", "unreadable"),
        ("jazz/gone.wav", "unreadable"),
        ("jazz/notes.txt", "unknown format"),
        ("jazz/song.m4a", "unknown format"),
    }
    assert len(made.remarks()) == 6  # a line a reason
    json.dumps(asdict(made))


def test_a_recording_shorter_than_a_clip_is_padded_and_keeps_the_time_scale(audio, write, tmp_path):
    write("jazz/short.wav", tone(0.5))
    write("jazz/whole.wav", tone(0.5), silence(0.5))
    made = render_folder(audio, tmp_path / "out", SECOND)
    short, whole = sorted((tmp_path / "out" / "images_original" / "jazz").iterdir())
    assert short.read_bytes() == whole.read_bytes()
    assert (made.padded, made.shortest_s) == (1, 0.5)


@pytest.mark.parametrize(("length_s", "padded"), [(0.98, 1), (0.995, 0), (1.0, 0)])
def test_padding_of_less_than_a_hundredth_of_a_clip_is_not_told(
    audio, write, tmp_path, length_s, padded
):
    write("jazz/a.wav", tone(length_s))
    made = render_folder(audio, tmp_path / "out", SECOND)
    assert (made.pictures, made.padded) == (1, padded)


def test_silent_clips_become_no_pictures(audio, write, tmp_path):
    write("jazz/a.wav", tone(1), silence(2), tone(1))
    made = render_folder(audio, tmp_path / "out", SECOND)
    assert [row[2] for row in rows_of(tmp_path / "out")] == ["start_s", "0.0", "3.0"]
    assert (made.pictures, made.silent_clips) == (2, 2)


def test_most_clips_chooses_among_the_audible_ones_of_each_recording(audio, write, tmp_path):
    write("jazz/a.wav", silence(3), tone(3))
    write("jazz/b.wav", tone(1))
    render_folder(audio, tmp_path / "out", Cutting(clip_s=1.0, most_clips=1))
    assert [row[1:] for row in rows_of(tmp_path / "out")[1:]] == [
        ("jazz/a.wav", "4.0"),
        ("jazz/b.wav", "0.0"),
    ]


def test_a_pattern_names_the_recording_that_files_are_pieces_of(audio, write, tmp_path):
    for name in ("jazz/song-1.wav", "jazz/song-2.wav", "rock/tune-1.wav"):
        write(name, tone(1))
    made = render_folder(audio, tmp_path / "out", SECOND, group_pattern=r"([^/]+)-\d+\.wav$")
    assert [row[1] for row in rows_of(tmp_path / "out")[1:]] == ["song", "song", "tune"]
    assert (made.groups, made.remarks()) == (2, ())


def test_a_pattern_that_does_not_name_every_recordings_group_is_refused(audio, write, tmp_path):
    write("jazz/song-1.wav", tone(1))
    write("jazz/other.wav", tone(1))
    with pytest.raises(DataError, match=r"every recording, .*1 of 2: jazz/other\.wav; widen"):
        render_folder(audio, tmp_path / "out", SECOND, group_pattern=r"([^/]+)-\d")


# --- what is refused ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["pop/a.m4a", "pop/b.m4a"], r"no recording lies in pop \(2 unknown format\)"),
        (["pop/live/a.wav"], r"no recording lies in pop \(1 nested\)"),
        (["pop/a.m4a", "rap/live/a.wav"], r"pop \(1 unknown format\), rap \(1 nested\)"),
        (["pop/.hidden"], r"pop \(empty\)"),
        (["pop/a.wav"], r"pop yields no picture: 1 recording that cannot be read: pop/a\.wav"),
    ],
)
def test_a_class_that_yields_nothing_is_refused_and_leaves_nothing(
    files, message, audio, write, tmp_path
):
    write("jazz/a.wav", tone(1))
    for name in files:
        (audio / name).parent.mkdir(parents=True, exist_ok=True)
        (audio / name).touch()
    with pytest.raises(DataError, match=message):
        render_folder(audio, tmp_path / "out", SECOND)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sound"]


def test_a_class_of_recordings_too_short_for_a_clip_names_the_remedy(audio, write, tmp_path):
    write("jazz/a.wav", tone(1))
    with pytest.raises(DataError, match=r"half a clip: jazz/a\.wav \(1\.00 s\); .*--clip-s"):
        render_folder(audio, tmp_path / "out")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "is not a folder"),
        (lambda folder: folder.mkdir(), "holds no class folder"),
    ],
)
def test_a_folder_without_classes_is_refused(write, tmp_path, make, message):
    make(tmp_path / "empty")
    with pytest.raises(DataError, match=message):
        render_folder(tmp_path / "empty", tmp_path / "out")


def test_each_class_is_a_step_with_a_part_a_recording(audio, write, tmp_path):
    class Heard:
        def __init__(self) -> None:
            self.said: list[object] = []

        def begin(self, what: str, parts: int | None = None) -> None:
            self.said.append((what, parts))

        def advance(self) -> None:
            self.said.append("one more")

    write("jazz/a.wav", tone(1))
    write("jazz/b.wav", silence(1))
    write("rock/c.wav", tone(1))
    heard = Heard()
    render_folder(audio, tmp_path / "out", SECOND, steps=heard)
    assert heard.said == [
        ("drawing jazz, class 1 of 2: 2 recordings", 2),
        "one more",
        "one more",
        ("drawing rock, class 2 of 2: 1 recording", 1),
        "one more",
    ]
