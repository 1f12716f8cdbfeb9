"""One live owner a study: a lock file that the kernel releases when its owner dies."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from bench.errors import StudyLockedError


@contextmanager
def own(study: str, file: Path) -> Iterator[None]:
    """Hold a study's lock.

    Raises:
        StudyLockedError: another live process holds it; the message says which.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            raise StudyLockedError(
                f"the study {study!r} is being run by {_owner(stream.read())}: wait for it, stop "
                "it, or give another name with --study"
            ) from None
        stream.truncate(0)
        json.dump(
            {
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "since": datetime.now(UTC).isoformat(timespec="seconds"),
            },
            stream,
        )
        stream.flush()
        yield


def _owner(text: str) -> str:
    try:
        owner = json.loads(text)
        return f"process {owner['pid']} on {owner['host']} since {owner['since']}"
    except (ValueError, KeyError):
        return "another process"
