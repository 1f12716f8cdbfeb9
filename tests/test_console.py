"""What the commands say that no record says."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from bench import console


def comparison(interval: tuple[float, float] | None, verdict: str) -> Any:
    """What is printed of a comparison; measuring one takes processes."""
    row = SimpleNamespace(
        model="a", provider="CPU", precision="fp32", device="cpu", scope="model", batch_size=1,
        threads=1,
    )  # fmt: skip
    return SimpleNamespace(first=row, second=row, ratio=1.5, interval=interval, verdict=verdict)


@pytest.mark.parametrize(
    ("interval", "verdict", "remedied"),
    [((1.4, 1.6), "the first is slower", False), (None, "too few processes to tell", True)],
)
def test_ratios_of_too_few_processes_come_with_the_remedy(
    capsys: pytest.CaptureFixture[str],
    interval: tuple[float, float] | None,
    verdict: str,
    remedied: bool,
) -> None:
    console.print_ratios([comparison(interval, verdict)])

    said = capsys.readouterr()
    assert verdict in said.out
    assert ("measure without --quick" in said.err) == remedied
