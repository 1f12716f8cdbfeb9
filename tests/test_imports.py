"""The order of imports: stages look back, never forward, and light things stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = ("bench", "reports", "search_spaces", "cli")

# A part may import its own modules and the parts of the lines above its own.
ORDER: tuple[tuple[str, ...], ...] = (
    ("bench.errors", "bench.bootstrap", "bench.words", "bench.steps"),
    ("bench.records", "bench.runtime"),
    ("bench.workspace",),
    (
        "bench.data",
        "bench.space",
        "bench.metrics",
        "bench.statistics",
        "bench.models",
        "bench.database",
        "bench.listener",
        "bench.doctor",
        "bench.inspection",
        "bench.metadata_schema",
    ),
    ("bench.latency", "bench.ownership", "bench.training"),
    ("bench.search",),
    ("bench.promote", "bench.results", "bench.progress"),
    ("bench.planning",),
    ("bench.pipeline", "bench.reproduce"),
    ("bench.console",),
)

RUNTIME_MAY = {"numpy", "PIL", "onnxruntime", "bench.errors", "bench.runtime"}
REPORTS_MAY = (
    "bench.records",
    "bench.latency.ratios",
    "bench.words",
    "bench.runtime",
    "bench.statistics",
    "bench.workspace",
    "bench.errors",
    "reports",
)
HEAVY = ("torch", "optuna", "sqlalchemy", "sklearn", "numpy")


def source_files() -> dict[str, Path]:
    """Return the file of each of our modules, by dotted name."""
    files = [ROOT / "cli.py"]
    for package in OURS[:3]:
        files += sorted((ROOT / package).rglob("*.py"))
    named = {}
    for file in files:
        parts = file.relative_to(ROOT).with_suffix("").parts
        named[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return named


FILES = source_files()


def imports_of(name: str) -> set[str]:
    """Return every module that a module imports, at its top or within a function."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(FILES[name].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module is not None, f"{name}: a relative import"
            modules = {f"{node.module}.{alias.name}" for alias in node.names} & FILES.keys()
            found |= modules or {node.module}
    return found


def is_within(module: str, part: str) -> bool:
    return module == part or module.startswith(f"{part}.")


def place_of(module: str) -> tuple[int, str] | None:
    """Return the line of `ORDER` and the part that a module belongs to."""
    for line, parts in enumerate(ORDER):
        for part in parts:
            if is_within(module, part):
                return line, part
    return None


def modules_within(package: str) -> list[str]:
    return [name for name in FILES if is_within(name, package)]


def steps() -> Iterator[tuple[str, str]]:
    """Yield (module, imported module) for the imports among the parts of `bench`."""
    for name in modules_within("bench"):
        if name == "bench":  # its exports are resolved on first use
            continue
        for imported in sorted(imports_of(name)):
            if is_within(imported, "bench") and imported != "bench":
                yield name, imported


def test_every_module_of_bench_has_a_place_in_the_order():
    assert [name for name in modules_within("bench") if place_of(name) is None] == ["bench"]


def test_every_part_of_the_order_exists():
    assert [part for line in ORDER for part in line if part not in FILES] == []


def test_no_stage_imports_a_later_one_or_one_beside_it():
    wrong = []
    for name, imported in steps():
        here, there = place_of(name), place_of(imported)
        assert here is not None and there is not None
        if here[1] != there[1] and there[0] >= here[0]:
            wrong.append(f"{name} imports {imported}")
    assert wrong == []


def test_nobody_imports_the_command_line():
    importers = [name for name in FILES if any(is_within(i, "cli") for i in imports_of(name))]
    assert importers == []


def test_bench_imports_neither_the_reports_nor_the_other_way_round_more_than_records():
    for name in modules_within("bench"):
        assert not any(is_within(imported, "reports") for imported in imports_of(name)), name
    for name in modules_within("reports"):
        ours = [i for i in imports_of(name) if i.partition(".")[0] in OURS]
        wrong = [i for i in ours if not any(is_within(i, part) for part in REPORTS_MAY)]
        assert wrong == [], name


@pytest.mark.parametrize("name", modules_within("reports"))
def test_the_reports_import_neither_torch_nor_optuna(name):
    assert not {i.partition(".")[0] for i in imports_of(name)} & {"torch", "optuna", "timm"}


@pytest.mark.parametrize("name", modules_within("bench.runtime"))
def test_the_runtime_imports_numpy_pillow_and_onnxruntime_alone(name):
    foreign = [
        imported
        for imported in sorted(imports_of(name))
        if imported.partition(".")[0] not in sys.stdlib_module_names
        and not any(is_within(imported, allowed) for allowed in RUNTIME_MAY)
    ]
    assert foreign == []


def loaded_by(statement: str, watched: tuple[str, ...]) -> list[str]:
    """Run a statement in a fresh interpreter and return which of `watched` it loaded."""
    code = f"import sys; {statement}; print(*[m for m in {watched!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


@pytest.mark.parametrize(
    ("statement", "not_loaded"),
    [
        ("import bench, cli", HEAVY),
        # What a faulty command line is refused with, and the first line of a search.
        ("import bench.search.options, bench.progress", (*HEAVY[:4], "scipy", "timm")),
        ("import bench.runtime.predictor, bench.runtime.measure", (*HEAVY[:4], "msgspec", "timm")),
        ("import bench.records, bench.workspace", (*HEAVY, "scipy")),
        # What it imports before onnxruntime would not be seen in a cold start.
        ("import bench.runtime.measure, bench.runtime.child", ("numpy", "onnxruntime", "PIL")),
        ("import bench.latency.rivals", ("torch", "openvino", "numpy", "onnxruntime")),
        ("import reports.markdown", ("torch", "optuna", "sqlalchemy", "timm")),
    ],
)
def test_what_is_light_loads_nothing_heavy(statement, not_loaded):
    assert loaded_by(statement, not_loaded) == []


def test_a_loaded_module_would_be_seen():
    """The check above can fail."""
    assert loaded_by("import numpy", HEAVY) == ["numpy"]


def test_the_public_names_of_bench_are_found_on_first_use():
    assert loaded_by("import bench; bench.Predictor", ("bench.runtime.predictor", "torch")) == [
        "bench.runtime.predictor"
    ]
