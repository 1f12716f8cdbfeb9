"""The command line, run in this process."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

import cli


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


Bench = Callable[..., Outcome]


def bench_heard_by(capture: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Return a function that runs `bench` with its arguments, and says what came of it."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)

    def run(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["bench", *arguments])
        code = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        said = capture.readouterr()
        return Outcome(code, said.out, said.err)

    return run
