"""What the commands say that no record says."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench import console
from bench.workspace import Workspace


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


@pytest.mark.parametrize(
    ("folder", "environment", "option"),
    [
        ("runs", {}, ""),
        ("my runs", {}, " --workspace 'my runs'"),
        ("x", {"BENCH_WORKSPACE": "x"}, ""),
    ],
)
def test_the_next_command_finds_the_same_run_folder(
    folder: str,
    environment: dict[str, str],
    option: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("BENCH_WORKSPACE", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    report: Any = SimpleNamespace(
        study="pets", dataset=SimpleNamespace(synthetic=False), notes=(), models=(), trials=()
    )

    console.print_summary(report, Workspace(Path.cwd() / folder))

    told = capsys.readouterr().err.strip()
    assert told == f"next: bench report pets{option}   ·   bench dashboard{option}"


def test_what_was_pruned_or_refused_is_told_below_the_table_of_models(
    capsys: pytest.CaptureFixture[str],
) -> None:
    refused = SimpleNamespace(precision="int8", test=None, refused="it answers otherwise", path="")
    model = SimpleNamespace(
        name="default", role="default", trial=4, cv_mean=None, cv_sd=None, path="pets/model.onnx",
        test=SimpleNamespace(balanced_accuracy=0.5), architecture_key="key", further_seeds=(),
        variants=(refused,),
    )  # fmt: skip
    report: Any = SimpleNamespace(
        study="pets", dataset=SimpleNamespace(synthetic=False), notes=(), models=(model,),
        latencies=(),
    )  # fmt: skip

    console.print_summary(report, Workspace(Path.cwd() / "runs"))

    _, main, variant, *below = capsys.readouterr().out.splitlines()
    assert main.split() == [
        "default",
        console.NOTHING,
        "0.500",
        console.NOTHING,
        "runs/pets/model.onnx",
    ]
    assert variant.split() == ["int8", "not", "offered"]
    assert below == [
        "default: trial 4 was pruned, so it has no cross-validated score",
        "default, int8 is not offered: it answers otherwise",
    ]
