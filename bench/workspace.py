"""The run folder: where things lie, how they are written, and what machine wrote them."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import re
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from bench.errors import InputError
from bench.records import Environment

_PACKAGES = (
    "bench",
    "torch",
    "torchvision",
    "timm",
    "optuna",
    "scikit-learn",
    "numpy",
    "pillow",
    "onnx",
    "onnxscript",
    "onnxruntime-gpu",
    "onnxruntime",
    "sqlalchemy",
)

# What is wrong with the disk, or with the right to write on it, rather than with us.
DISK_ERRORS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG}
)

_STUDY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# Names in the workspace that are not a study's.
_RESERVED = frozenset(
    {"artifacts", "bench.db", "bench.db-shm", "bench.db-wal", "cache", "latency", "report"}
)


@dataclass(frozen=True, slots=True)
class Workspace:
    """A run folder.

    bench.db                      the database (unless `--storage` names another)
    artifacts/                    pictures that optuna-dashboard shows
    cache/                        what can be computed again
    latency/                      what `bench latency` measured, call by call
    <study>/trials/<n>/           out-of-fold predictions of finished folds
    <study>/protocols/<name>/<n>/ the same of a trial that another protocol's split was tried on
    <study>/models/<name>/        a promoted model
    <study>/report/               report.md, report.json, figures/
    """

    root: Path

    def create(self) -> Workspace:
        """Make the folder.

        Raises:
            InputError: it cannot be made or written to.
        """
        make_folder(self.root, "the workspace", "give another with --workspace or BENCH_WORKSPACE")
        return self

    @property
    def default_storage(self) -> str:
        """The URL of `database`, with what a URL reserves in the path (`%`, say) quoted."""
        from sqlalchemy import URL

        return URL.create("sqlite", database=str(self.database)).render_as_string()

    @property
    def database(self) -> Path:
        return self.root / "bench.db"

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def readings(self) -> Path:
        """Where it is kept what files of pictures were found to be."""
        return self.cache / "readings"

    @property
    def duplicates(self) -> Path:
        """Where the duplicates found in data sets are kept."""
        return self.cache / "duplicates"

    @property
    def latencies(self) -> Path:
        return self.root / "latency"

    @property
    def demo(self) -> Path:
        return self.cache / "demo"

    def study(self, name: str) -> Path:
        return self.root / check_study_name(name)

    def trial(self, study: str, number: int, further_protocol: str | None = None) -> Path:
        """Where the folds of a trial lie, or those of its recipe under a further protocol."""
        place = Path("protocols") / further_protocol if further_protocol else Path("trials")
        return self.study(study) / place / f"{number:05d}"

    def model(self, study: str, name: str) -> Path:
        return self.study(study) / "models" / name

    def report(self, study: str) -> Path:
        return self.study(study) / "report"

    @property
    def joint_report(self) -> Path:
        """Where a report of several studies goes."""
        return self.root / "report"


def check_study_name(name: str) -> str:
    """Return `name` when it can be a folder of the workspace.

    Raises:
        InputError: it cannot.
    """
    if not _STUDY_NAME.fullmatch(name) or name in _RESERVED:
        raise InputError(
            f"a study's name is letters, digits, '.', '_' and '-', begins with a letter or digit "
            f"and is none of {', '.join(sorted(_RESERVED))}; not {name!r}"
        )
    return name


def as_study_name(text: str) -> str:
    """Turn any text (a folder's name) into a valid study name."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._") or "study"
    return f"{name}-study" if name in _RESERVED else name


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary sibling that replaces `target` when the block succeeds.

    What exists under its final name is therefore complete, and a stage that finds it there need
    not run again.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    # Hosts that share a workspace can share process ids too.
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.part")
    try:
        yield temporary
        _flush(temporary)
        temporary.replace(target)
        _flush(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Force a file or a folder's entries to the disk, so that a rename outlives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path, what: str, remedy: str) -> None:
    """Make a folder that files are going to be written into.

    Raises:
        InputError: it cannot be made or written to; `what` and `remedy` are words of the message.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"{what} {folder} cannot be written to ({error.strerror}): {remedy}"
        ) from error


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold an exclusive lock that other processes wait for; the kernel frees it at death."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@contextmanager
def locked_if_free(file: Path) -> Iterator[bool]:
    """Hold a lock as `locked` does, unless another holds it: whether it is held is yielded."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def write_atomic(target: Path, data: bytes) -> None:
    """Write a file so that it is either the old one or the new one, whole."""
    with atomic_path(target) as temporary:
        temporary.write_bytes(data)


def usable_cores() -> int:
    """CPU cores that this process may run on (not those of the whole machine)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe_environment(gpu: str | None) -> Environment:
    """Describe the machine and the versions in use."""
    from bench.runtime.machine import cpu_name

    return Environment(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        cpu=cpu_name(),
        cores=usable_cores(),
        memory_bytes=_memory_bytes(),
        gpu=gpu,
        python=platform.python_version(),
        platform=platform.platform(),
        versions=package_versions(),
    )


def package_versions(packages: Iterable[str] = _PACKAGES) -> dict[str, str]:
    """Versions of those packages that are installed; by default of all that results depend on."""
    versions = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
