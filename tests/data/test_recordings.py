"""The rules by which a folder of recordings becomes a data set of pictures."""

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.data.recordings import clip_starts, render_folder
from bench.errors import DataError, InputError


def tone(frequency_hz: float, seconds: float, sample_rate: int) -> np.ndarray:
    time_s = np.arange(round(seconds * sample_rate)) / sample_rate
    return 0.5 * np.sin(2 * np.pi * frequency_hz * time_s)


@pytest.mark.parametrize(
    ("total", "starts", "reason"),
    [
        (100, [0], "exactly one clip"),
        (30, [0], "shorter than half a clip, and the only one"),
        (200, [0, 100], "two clips, no remainder"),
        (249, [0, 100], "a remainder below half a clip is dropped"),
        (250, [0, 100, 150], "half a clip is kept, at full length"),
        (399, [0, 100, 200, 299], "nearly a clip"),
    ],
)
def test_a_recording_is_cut_into_clips_of_one_length(total, starts, reason):
    assert clip_starts(total, 100) == starts, reason


def test_reading_sound_without_soundfile_names_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)  # Python's way to say "not importable"
    with pytest.raises(InputError, match=r"pip install 'bench\[audio\]'"):
        render_folder(tmp_path, tmp_path / "out")


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    soundfile = pytest.importorskip(
        "soundfile", reason="reading sound needs the optional extra `audio`"
    )
    folder = tmp_path / "sound"
    for label, name, seconds in [("jazz", "b.wav", 1.0), ("jazz", "a.flac", 2.0)]:
        (folder / label).mkdir(parents=True, exist_ok=True)
        mono = tone(440.0, seconds, 16_000)
        soundfile.write(folder / label / name, np.stack([mono, -0.5 * mono], axis=1), 16_000)
    (folder / "rock").mkdir()
    (folder / "rock" / "damaged.wav").write_bytes(b"not a recording")
    (folder / "rock" / "notes.txt").write_text("not sound")
    return folder


def test_a_folder_of_recordings_becomes_a_gtzan_folder_with_groups(recordings, tmp_path):
    out = tmp_path / "pictures"
    summary = render_folder(recordings, out, clip_s=1.0)
    assert (summary.classes, summary.recordings, summary.pictures) == (("jazz",), 2, 3)
    assert [line.split(":")[0] for line in summary.broken] == ["rock/damaged.wav"]
    with (out / "groups.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["path", "group"],
            ["jazz/jazz00000.png", "jazz/a.flac"],
            ["jazz/jazz00001.png", "jazz/a.flac"],
            ["jazz/jazz00002.png", "jazz/b.wav"],
        ]
    for number in range(3):
        with Image.open(out / "images_original" / "jazz" / f"jazz{number:05d}.png") as picture:
            assert (picture.mode, picture.size) == ("RGB", (432, 288))


def test_unreadable_recordings_alone_are_an_error_and_leave_nothing(recordings, tmp_path):
    for path in (recordings / "jazz").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match="none of the recordings can be read"):
        render_folder(recordings, tmp_path / "pictures")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sound"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "is not a folder"),
        (lambda root: (root / "jazz").mkdir(parents=True), "holds no <class>/<recording>"),
    ],
)
def test_a_folder_without_recordings_is_refused(recordings, tmp_path, make, message):
    make(tmp_path / "empty")
    with pytest.raises(DataError, match=message):
        render_folder(tmp_path / "empty", tmp_path / "out")


def test_a_clip_must_last(recordings, tmp_path):
    with pytest.raises(InputError, match="longer than 0 s"):
        render_folder(recordings, tmp_path / "out", clip_s=0.0)
