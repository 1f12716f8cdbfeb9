"""Recordings to pictures: a folder of sound becomes a data set laid out like GTZAN.

Shapes: T counts samples, C channels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from math import isfinite
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from bench.data.groups import groups_in_paths
from bench.data.paths import as_text, refuse_broken_names
from bench.data.spectrograms import (
    PictureRow,
    mel_spectrogram,
    render_gtzan_picture,
    save_picture,
    staged_folder,
    write_groups,
)
from bench.errors import DataError, InputError
from bench.steps import SILENT, Steps
from bench.words import counted, some

Sound = npt.NDArray[np.float32]
Item = TypeVar("Item")

SILENCE_DB = -80.0  # of full scale: below three steps of 16 bits

# The part of a clip from which padding is told: GTZAN's own 30 s lack some milliseconds.
_TOLD_PADDING = 0.01

# libsndfile's names of formats are suffixes, too; these are the others in use.
_OTHER_SUFFIXES: Mapping[str, tuple[str, ...]] = {
    "AIFF": (".aif", ".aifc"),
    "AU": (".snd",),
    "IRCAM": (".sf",),
    "NIST": (".sph",),
    "OGG": (".oga", ".opus"),
    "SVX": (".iff",),
}
_HEADERLESS = "RAW"  # says neither its rate nor its channels

Reason = Literal["unknown format", "nested", "in no class", "unreadable", "too short", "silent"]

# What one and several files left out for a reason are called, and what can be done about them.
_TOLD: Mapping[Reason, tuple[str, str, str]] = {
    "unknown format": (
        "file of a format that the installed libsndfile does not read",
        "files of formats that the installed libsndfile does not read",
        "convert what is sound, say with ffmpeg -i FILE FILE.flac",
    ),
    "nested": (
        "file in a folder below its class",
        "files in folders below their class",
        "move recordings straight into the folder of their class",
    ),
    "in no class": (
        "file in no class folder",
        "files in no class folder",
        "move recordings into one folder a class",
    ),
    "unreadable": (
        "recording that cannot be read",
        "recordings that cannot be read",
        "mend or replace what is damaged",
    ),
    "too short": (
        "recording shorter than half a clip",
        "recordings shorter than half a clip",
        "give a shorter --clip-s",
    ),
    "silent": (
        "recording that is silent throughout",
        "recordings that are silent throughout",
        "raise the level of what is not",
    ),
}


@dataclass(frozen=True, slots=True)
class Cutting:
    """How recordings are cut: clips of `clip_s` seconds, at most `most_clips` a recording.

    Raises:
        InputError: a number is out of range.
    """

    clip_s: float = 30.0
    most_clips: int | None = None

    def __post_init__(self) -> None:
        if not (self.clip_s > 0.0 and isfinite(self.clip_s)):
            raise InputError(f"--clip-s must be longer than 0 s, not {self.clip_s}: give, say, 30")
        if self.most_clips is not None and self.most_clips < 1:
            raise InputError(f"--most-clips is at least 1, not {self.most_clips}")


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file, relative to the folder of sound, that became no picture."""

    path: str
    reason: Reason
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.path} ({self.detail})" if self.detail else self.path


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderSummary:
    """What `render_folder` made.

    `recordings` counts those that became pictures, `padded` those of them that lack 1 % of a clip
    or more, the shortest of which lasts `shortest_s` seconds. `silent_clips` were left out of
    recordings that are audible elsewhere.
    """

    out_dir: str
    classes: tuple[str, ...]
    recordings: int
    pictures: int
    groups: int
    padded: int = 0
    shortest_s: float | None = None
    silent_clips: int = 0
    left_out: tuple[LeftOut, ...] = ()

    def remarks(self) -> tuple[str, ...]:
        """What a person should know of the pictures, a line each."""
        said = [f"left out: {line}" for line in _describe(self.left_out)]
        if self.silent_clips:
            clips = counted(self.silent_clips, "silent clip")
            said.append(f"left out: {clips} (no sample above {SILENCE_DB:g} dB of full scale)")
        if self.padded:
            recordings = counted(self.padded, "recording")
            said.append(
                f"padded with silence: {recordings} shorter than a clip, the shortest "
                f"{self.shortest_s:.2f} s"
            )
        if self.groups == self.pictures > 1:
            said.append(
                "every picture has a group of its own, so the groups keep nothing together: if "
                "these recordings are pieces of longer ones, name those with --group-pattern"
            )
        return tuple(said)


def render_folder(
    audio_dir: Path,
    out_dir: Path,
    cutting: Cutting | None = None,
    *,
    group_pattern: str | None = None,
    steps: Steps = SILENT,
) -> RenderSummary:
    """Turn `<audio_dir>/<class>/<recording>` into a picture data set laid out like GTZAN.

    Every recording is mixed to mono and cut into clips (`clip_starts`), each of which becomes
    `<out_dir>/images_original/<class>/<class>NNNNN.png`. A recording between half a clip and a
    whole one is padded with silence, so that all pictures have one time scale. Clips without a
    sample above -80 dB of full scale are left out: there is nothing to be seen in them but noise.

    `<out_dir>/groups.csv` names each picture's group and the second at which its clip starts,
    with paths relative to `images_original`. The group is the recording, or what the first
    capture group of `group_pattern` finds in `<class>/<recording>`. The folder appears whole or
    not at all.

    Raises:
        InputError: the library soundfile is not installed.
        DataError: a class yields no picture, `group_pattern` does not name every recording's
            group, a name is not UTF-8, or `out_dir` already holds something.
    """
    cutting = cutting or Cutting()
    soundfile = _load_soundfile()
    by_class, left_out = _find_recordings(audio_dir, readable_suffixes(soundfile))
    groups = _name_groups(by_class, group_pattern)
    with staged_folder(out_dir) as staging:
        done = _Rendering(soundfile, cutting, groups, staging, left_out)
        for number, (label, recordings) in enumerate(by_class.items(), start=1):
            steps.begin(
                f"drawing {label}, class {number} of {len(by_class)}: "
                f"{counted(len(recordings), 'recording')}",
                len(recordings),
            )
            pictures = 0
            for recording in recordings:
                pictures += done.draw(label, recording, pictures)
                steps.advance()
            if not pictures:
                why = "; ".join(_describe(_of_class(label, done.left_out)))
                raise DataError(
                    f"{label} yields no picture: {why}; or move the class out of {audio_dir}"
                )
        write_groups(staging, done.rows)
    return RenderSummary(
        out_dir=str(out_dir),
        classes=tuple(by_class),
        recordings=done.recordings,
        pictures=len(done.rows),
        groups=len({row.group for row in done.rows}),
        padded=len(done.padded_s),
        shortest_s=min(done.padded_s, default=None),
        silent_clips=done.silent_clips,
        left_out=tuple(done.left_out),
    )


@dataclass(slots=True)
class _Rendering:
    """A folder being filled with pictures, and what is counted on the way."""

    soundfile: Any
    cutting: Cutting
    groups: Mapping[str, str]  # of each <class>/<recording>
    root: Path
    left_out: list[LeftOut]
    rows: list[PictureRow] = field(default_factory=list)
    recordings: int = 0
    padded_s: list[float] = field(default_factory=list)
    silent_clips: int = 0

    def draw(self, label: str, recording: Path, first: int) -> int:
        """Save the pictures of a recording, numbered from `first`; return how many they are."""
        name = f"{label}/{recording.name}"
        try:
            cut = _cut_recording(self.soundfile, recording, self.cutting)
        except _NoPictureError as error:
            self.left_out.append(LeftOut(name, error.reason, error.detail))
            return 0
        for number, (start_s, clip_t) in enumerate(cut.clips(), start=first):
            picture = render_gtzan_picture(mel_spectrogram(clip_t, cut.sample_rate))
            path = save_picture(picture, self.root, label, number)
            self.rows.append(PictureRow(path, self.groups[name], start_s))
        self.recordings += 1
        self.silent_clips += cut.silent_clips
        if cut.length - cut.mono_t.size >= _TOLD_PADDING * cut.length:
            self.padded_s.append(cut.mono_t.size / cut.sample_rate)
        return len(cut.starts)


def _load_soundfile() -> Any:
    try:
        return import_module("soundfile")
    except (ImportError, OSError) as error:  # OSError: its C library is missing
        raise InputError(
            f"reading sound needs the library soundfile, which cannot be loaded ({error}): "
            "pip install 'bench[audio]'"
        ) from error


def _names(by_class: Mapping[str, Sequence[Path]]) -> list[str]:
    """The `<class>/<recording>` of all."""
    return [f"{label}/{path.name}" for label, paths in by_class.items() for path in paths]


def _name_groups(by_class: Mapping[str, Sequence[Path]], pattern: str | None) -> dict[str, str]:
    names = _names(by_class)
    if pattern is None:
        return {name: name for name in names}
    return dict(zip(names, groups_in_paths(names, pattern, "recording"), strict=True))


def _of_class(label: str, left_out: Iterable[LeftOut]) -> list[LeftOut]:
    return [file for file in left_out if file.path.startswith(f"{label}/")]


def _describe(left_out: Sequence[LeftOut]) -> tuple[str, ...]:
    """Put what was left out into words, a line for each reason."""
    lines = []
    for reason, (one, several, remedy) in _TOLD.items():
        files = [str(file) for file in left_out if file.reason == reason]
        if files:
            lines.append(f"{counted(len(files), one, several)}: {some(files)}; {remedy}")
    return tuple(lines)


# --- finding --------------------------------------------------------------------------------


def readable_suffixes(soundfile: Any) -> frozenset[str]:
    """Return the suffixes, such as `.wav`, of the formats that the installed libsndfile reads."""
    formats = set(soundfile.available_formats()) - {_HEADERLESS}
    return frozenset(
        suffix
        for name in formats
        for suffix in (f".{name.lower()}", *_OTHER_SUFFIXES.get(name, ()))
    )


def _find_recordings(
    audio_dir: Path, suffixes: frozenset[str]
) -> tuple[dict[str, list[Path]], list[LeftOut]]:
    """Return the recordings of each class, and the files that cannot be any; hidden ones aside.

    Raises:
        DataError: there is no class folder, or one without a recording, or a name is not UTF-8.
    """
    if not audio_dir.is_dir():
        raise DataError(f"{audio_dir} is not a folder: give one that holds <class>/<recording>")
    by_class: dict[str, list[Path]] = {}
    left_out: list[LeftOut] = []
    for entry in sorted(audio_dir.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            by_class[entry.name] = []
        for file in _files_of(entry):
            path = file.relative_to(audio_dir)
            reason = _why_no_recording(path, suffixes)
            if reason is None:
                by_class[entry.name].append(file)
            else:
                left_out.append(LeftOut(as_text(path), reason))
    if not by_class:
        raise DataError(f"{audio_dir} holds no class folder: sort recordings into one a class")
    refuse_broken_names(audio_dir, (*by_class, *_names(by_class)))
    _refuse_empty_classes(audio_dir, by_class, left_out, suffixes)
    return by_class, left_out


def _files_of(entry: Path) -> list[Path]:
    if not entry.is_dir():
        return [entry]
    return sorted(
        path
        for path in entry.rglob("*")
        if not path.is_dir()
        and not any(part.startswith(".") for part in path.relative_to(entry).parts)
    )


def _why_no_recording(path: Path, suffixes: frozenset[str]) -> Reason | None:
    if path.suffix.lower() not in suffixes:
        return "unknown format"
    match len(path.parts):
        case 1:
            return "in no class"
        case 2:
            return None
        case _:
            return "nested"


def _refuse_empty_classes(
    audio_dir: Path,
    by_class: Mapping[str, Sequence[Path]],
    left_out: Sequence[LeftOut],
    suffixes: frozenset[str],
) -> None:
    empty = []
    for label, recordings in by_class.items():
        if not recordings:
            reasons = Counter(file.reason for file in _of_class(label, left_out))
            held = [f"{count:,} {reason}" for reason, count in reasons.items()]
            empty.append(f"{label} ({', '.join(held) or 'empty'})")
    if empty:
        raise DataError(
            f"{audio_dir}: no recording lies in {some(empty)}; a class folder holds its recordings "
            "itself, in a format that the installed libsndfile reads "
            f"({', '.join(sorted(suffixes))}): convert others, say with ffmpeg -i FILE FILE.flac, "
            "move up what is nested, or move the class away"
        )


# --- one recording --------------------------------------------------------------------------


class _NoPictureError(Exception):
    """A recording that cannot become a picture."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class _Cut:
    """One recording (T,), and the first samples of those of its clips that become pictures."""

    mono_t: Sound
    sample_rate: int
    length: int  # of a clip, in samples
    starts: tuple[int, ...]
    silent_clips: int

    def clips(self) -> Iterator[tuple[float, Sound]]:
        """Yield the second at which each clip starts, and its samples."""
        for start in self.starts:
            clip_t = self.mono_t[start : start + self.length]
            yield (
                round(start / self.sample_rate, 6),  # a microsecond is less than a sample
                np.pad(clip_t, (0, self.length - clip_t.size)),
            )


def _cut_recording(soundfile: Any, path: Path, cutting: Cutting) -> _Cut:
    mono_t, sample_rate = _read_mono(soundfile, path)
    length = max(1, round(cutting.clip_s * sample_rate))
    starts = clip_starts(mono_t.size, length)
    if not starts:
        raise _NoPictureError("too short", f"{mono_t.size / sample_rate:.2f} s")
    audible = [start for start in starts if not is_silent(mono_t[start : start + length])]
    if not audible:
        raise _NoPictureError("silent")
    return _Cut(
        mono_t=mono_t,
        sample_rate=sample_rate,
        length=length,
        starts=tuple(spread(audible, cutting.most_clips)),
        silent_clips=len(starts) - len(audible),
    )


def _read_mono(soundfile: Any, path: Path) -> tuple[Sound, int]:
    try:
        channels_tc, sample_rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        # libsndfile's own words, where there are any, leave out the path.
        said = getattr(error, "error_string", "") or str(error)
        raise _NoPictureError("unreadable", said.rstrip(".")) from error
    if len(channels_tc) == 0:
        raise _NoPictureError("unreadable", "holds no sound")
    if not np.isfinite(channels_tc).all():
        raise _NoPictureError("unreadable", "holds NaN or infinity")
    return channels_tc.mean(axis=1), sample_rate


def clip_starts(total: int, length: int) -> list[int]:
    """Return the first samples of the clips of `length` samples in a recording of `total`.

    Clips follow one another. A remainder of at least half a clip becomes a clip of full length
    that ends with the recording, so that all pictures have one time scale; a shorter one is
    dropped. A recording shorter than a clip is a remainder, too, with nothing before it.
    """
    starts = list(range(0, total - length + 1, length))
    remainder = total - len(starts) * length
    return [*starts, max(0, total - length)] if 2 * remainder >= length else starts


def is_silent(clip_t: Sound) -> bool:
    """Whether no sample lies above -80 dB of full scale."""
    return bool(np.abs(clip_t).max() <= 10.0 ** (SILENCE_DB / 20.0))


def spread(items: Sequence[Item], most: int | None) -> list[Item]:
    """Return at most so many of `items`, each from the middle of an equal share of them."""
    if most is None or len(items) <= most:
        return list(items)
    return [items[(2 * share + 1) * len(items) // (2 * most)] for share in range(most)]
