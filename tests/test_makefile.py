"""What `make install` says while pip works for minutes."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("on_terminal", [False, True])
def test_pip_shows_its_progress_on_a_terminal_and_a_log_is_told_that_it_does_not(
    on_terminal: bool,
) -> None:
    # `make` names its terminal to what it runs, which may be these tests.
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    if on_terminal:
        environment["MAKE_TERMOUT"] = "/dev/tty"
    planned = subprocess.run(
        ["make", "--dry-run", "--always-make", "install"],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip

    told, _, installed = planned.partition("-m venv")
    assert "7 GB" in told and "minutes" in told
    assert planned.splitlines()[-1].endswith('source .venv/bin/activate, then make demo"')
    assert ("silent until it is done" in told) is not on_terminal
    commands = [line for line in installed.splitlines() if "pip install" in line]
    assert ["--quiet" in command for command in commands] == [not on_terminal] * 2
