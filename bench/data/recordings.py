"""Recordings to pictures: a folder of sound becomes a data set laid out like GTZAN."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from PIL import Image

from bench.data.spectrograms import (
    mel_spectrogram,
    render_gtzan_picture,
    save_picture,
    staged_folder,
    write_groups,
)
from bench.errors import DataError, InputError

AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".mp3"})


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderSummary:
    """What `render_folder` made; `broken` says "<file>: <reason>" for each file left out."""

    out_dir: str
    classes: tuple[str, ...]
    recordings: int
    pictures: int
    broken: tuple[str, ...] = ()


def render_folder(audio_dir: Path, out_dir: Path, clip_s: float = 30.0) -> RenderSummary:
    """Turn `<audio_dir>/<class>/<recording>` into a picture data set laid out like GTZAN.

    Every recording is mixed to mono and cut into clips of `clip_s` seconds, each of which
    becomes `<out_dir>/images_original/<class>/<class>NNNNN.png`. `<out_dir>/groups.csv` names
    the recording of each picture as its group, with paths relative to `images_original`.
    The folder appears whole or not at all.

    Raises:
        InputError: the library soundfile is not installed, or `clip_s` is not positive.
        DataError: no recording can be read, or `out_dir` already holds something.
    """
    if not clip_s > 0.0:
        raise InputError(f"a clip must last longer than 0 s, got {clip_s}: give, say, 30")
    soundfile = _load_soundfile()
    recordings = _find_recordings(audio_dir)
    groups: list[tuple[str, str]] = []
    broken: list[str] = []
    counts = dict.fromkeys(sorted({recording.parent.name for recording in recordings}), 0)
    with staged_folder(out_dir) as staging:
        for recording in recordings:
            label = recording.parent.name
            group = f"{label}/{recording.name}"
            try:
                pictures = _draw_recording(soundfile, recording, clip_s)
            except (soundfile.SoundFileError, DataError) as error:
                broken.append(f"{group}: {error}")
                continue
            for picture in pictures:
                path = save_picture(picture, staging, label, counts[label])
                groups.append((path, group))
                counts[label] += 1
        if not groups:
            raise DataError(f"none of the recordings can be read; the first: {broken[0]}")
        write_groups(staging, groups)
    return RenderSummary(
        out_dir=str(out_dir),
        classes=tuple(label for label, count in counts.items() if count),
        recordings=len(recordings) - len(broken),
        pictures=len(groups),
        broken=tuple(broken),
    )


def _load_soundfile() -> Any:
    try:
        return import_module("soundfile")
    except (ImportError, OSError) as error:  # OSError: its C library is missing
        raise InputError(
            f"reading sound needs the library soundfile, which cannot be loaded ({error}): "
            "pip install 'bench[audio]'"
        ) from error


def _find_recordings(audio_dir: Path) -> list[Path]:
    if not audio_dir.is_dir():
        raise DataError(f"{audio_dir} is not a folder: give one that holds <class>/<recording>")
    recordings = sorted(
        path
        for path in audio_dir.glob("*/*")
        if path.suffix.lower() in AUDIO_SUFFIXES and not path.name.startswith(".")
    )
    if not recordings:
        kinds = ", ".join(sorted(AUDIO_SUFFIXES))
        raise DataError(
            f"{audio_dir} holds no <class>/<recording> ({kinds}): sort the recordings into one "
            "folder a class"
        )
    return recordings


def _draw_recording(soundfile: Any, path: Path, clip_s: float) -> list[Image.Image]:
    channels, sample_rate = soundfile.read(path, dtype="float32", always_2d=True)
    if len(channels) == 0:
        raise DataError("holds no sound")
    mono = channels.mean(axis=1)
    length = max(1, round(clip_s * sample_rate))
    return [
        render_gtzan_picture(mel_spectrogram(mono[start : start + length], sample_rate))
        for start in clip_starts(mono.size, length)
    ]


def clip_starts(total: int, length: int) -> list[int]:
    """Return the first samples of the clips of `length` samples in a recording of `total`.

    Clips follow one another. A remainder of at least half a clip becomes a clip of full length
    that ends with the recording, so that all pictures have one time scale; a shorter one is
    dropped. A recording shorter than a clip is one clip.
    """
    if total <= length:
        return [0]
    starts = list(range(0, total - length + 1, length))
    remainder = total - len(starts) * length
    return [*starts, total - length] if 2 * remainder >= length else starts
