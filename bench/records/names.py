"""Words that records hold: the choices that there are, under the names they are stored as."""

from __future__ import annotations

from typing import Literal

# INTERRUPTED: it was running when its study's owner ended; the next owner takes it up again.
TrialState = Literal["RUNNING", "INTERRUPTED", "WAITING", "COMPLETE", "PRUNED", "FAIL"]
SourceKind = Literal["folder", "gtzan", "csv"]
Family = Literal["spectrogram", "photo"]
Policy = Literal["none", "light", "medium", "strong"]
ResizeRule = Literal["squash", "center-crop"]
FailureKind = Literal[
    "out of memory",
    "non-finite loss",
    "worker died",
    "time limit",
    "bad input",  # a picture that went, a size that a network cannot take
    "bad trial code",
    "workspace",  # a full or unwritable disk: the study's affair, not the trial's
]
BatchNormMode = Literal["frozen", "updating"]
Store = Literal["exact", "half"]
Role = Literal["best", "default"]
PairKind = Literal["identical", "copy", "cropped", "shifted"]
ShortcutFacet = Literal["size", "mode", "format", "frame"]
Precision = Literal["fp32", "fp16", "int8"]
# How pictures are shared out between training and testing; the order is that of docs/protocols.md.
Protocol = Literal["grouped", "gtzan-filtered", "file", "random"]
Box = tuple[int, int, int, int]

GTZAN_GENRES = (
    "blues",
    "classical",
    "country",
    "disco",
    "hiphop",
    "jazz",
    "metal",
    "pop",
    "reggae",
    "rock",
)
