"""The exceptions that `bench` raises on purpose, drawn once.

    BenchError                      exit code 1: the work failed
    ├── InputError                  exit code 2: bad input or usage
    │   ├── DataError               the pictures, labels, groups or the split
    │   ├── SpaceError              a search space file
    │   ├── WeightsError            pretrained weights that cannot be had
    │   ├── StudyMismatchError      a study resumed with something changed
    │   ├── ModelFileError          an ONNX file that cannot be used
    │   └── DeviceError             a device or provider asked for and not there
    ├── StudyLockedError            another live process owns the study
    ├── WorkspaceError              the workspace's disk is full or cannot be written
    ├── StorageError                the database, or the study's lock in it, was lost on the way
    ├── ModelError                  one network cannot be shipped; others can
    │   ├── NonFiniteLossError      training diverged
    │   ├── ShortOfMemoryError      it cannot be trained in the memory that is free
    │   ├── ExportError             it cannot become an ONNX file
    │   └── ParityError             its exported file differs from the trained model
    ├── MeasurementError            a latency could not be measured
    ├── ReproductionError           a trial trained again does not give what was recorded
    └── InterruptedRun              exit code 130: stopped by the user, resumable

A message states the rule, the value that broke it, and the remedy. `cli.py` prints it as one
line and ends with `exit_code`; anything that is not a `BenchError` is a defect and keeps its
traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class BenchError(Exception):
    """Base of all errors that `bench` raises on purpose."""

    exit_code = 1


class InputError(BenchError):
    """The user gave something that cannot work; the message says what would."""

    exit_code = 2


class DataError(InputError):
    """The pictures, their labels or groups, or the split made of them."""


class SpaceError(InputError):
    """A search space that breaks the rules of its file format."""


class WeightsError(InputError):
    """Pretrained weights were asked for and cannot be had."""


class StudyMismatchError(InputError):
    """A study was resumed with another space, data set, split or setting."""


class ModelFileError(InputError):
    """A model file is missing, damaged, or not what it should be."""


class DeviceError(InputError):
    """A device or execution provider was asked for and is not there."""


class StudyLockedError(BenchError):
    """Another live process owns the study."""


class WorkspaceError(BenchError):
    """The workspace's disk is full or cannot be written."""


class StorageError(BenchError):
    """The database stopped answering, or let go of the study's lock, while it was at work."""


class ModelError(BenchError):
    """One network came to nothing, which keeps no other from being shipped."""


class NonFiniteLossError(ModelError):
    """The training loss became infinite or not a number."""


class ShortOfMemoryError(ModelError):
    """There is too little memory to train a network, even with two pictures a micro-batch."""


class ExportError(ModelError):
    """A network that torch cannot turn into an ONNX graph."""


class ParityError(ModelError):
    """The exported model's numbers differ from the trained model's."""


class MeasurementError(BenchError):
    """A latency could not be measured."""


class ReproductionError(BenchError):
    """A trial that was trained again does not give what was recorded of it."""


class InterruptedRun(BenchError):
    """The user stopped the run; everything finished so far is stored."""

    exit_code = 130


def together(failures: Sequence[BenchError]) -> BenchError:
    """One error, of the first one's class, that tells of all."""
    return type(failures[0])("; ".join(dict.fromkeys(map(str, failures))))


def one_line(error: BaseException) -> str:
    """The message of an error with its line breaks made spaces."""
    return " ".join(str(error).split())


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``' (did you mean `x`?)'`` for a near miss, otherwise an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean `{close[0]}`?)" if close else ""


def not_among(option: str, word: str, known: Sequence[str]) -> InputError:
    """The error of an option that takes one of two or more `known` words, and got another."""
    words = f"{', '.join(known[:-1])} or {known[-1]}"
    return InputError(f"{option} takes {words}, not {word!r}{did_you_mean(word, known)}")
