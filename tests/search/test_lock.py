from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.errors import StudyLockedError
from bench.search.lock import own

# Holds the lock until its standard input ends.
OWNER = """
import sys
from pathlib import Path
from bench.search.lock import own

with own("pets", Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def owner(file: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock."""
    command = [sys.executable, "-c", OWNER, str(file)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "pets" / "owner.lock"


def test_a_second_owner_is_refused_and_told_who_the_first_one_is(file: Path) -> None:
    with owner(file) as process, pytest.raises(StudyLockedError) as caught, own("pets", file):
        pass

    message = str(caught.value)
    for fragment in ("'pets'", f"process {process.pid} on {socket.gethostname()}", "--study"):
        assert fragment in message


def test_the_lock_of_a_killed_owner_is_free(file: Path) -> None:
    with owner(file) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()

        with own("pets", file):
            assert f'"pid": {os.getpid()}' in file.read_text()


def test_the_lock_is_free_again_when_its_owner_is_done_even_by_an_error(file: Path) -> None:
    with pytest.raises(RuntimeError), own("pets", file):
        raise RuntimeError

    with own("pets", file):
        pass


def test_two_studies_have_two_locks(tmp_path: Path) -> None:
    with own("pets", tmp_path / "pets.lock"), own("genres", tmp_path / "genres.lock"):
        pass


def test_a_refusal_leaves_the_owners_name_in_the_file(file: Path) -> None:
    with owner(file) as process:
        before = file.read_text()
        for _ in range(2):
            with pytest.raises(StudyLockedError), own("pets", file):
                pass

        assert file.read_text() == before
        assert str(process.pid) in before
