"""The drawn tree of exceptions is the real one."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from bench import errors
from bench.errors import BenchError, did_you_mean

SOURCE = Path(errors.__file__).parent
_LINE = re.compile(r"^    (?P<indent>[│├└─ ]*)(?P<name>[A-Z]\w+) {2,}(?P<text>\S.*)$")


def drawn_tree() -> dict[str, tuple[str | None, str]]:
    """Read the parent and the remark of each class from the drawing in the docstring."""
    assert errors.__doc__ is not None
    tree: dict[str, tuple[str | None, str]] = {}
    above: list[str] = []
    for line in errors.__doc__.splitlines():
        found = _LINE.match(line)
        if found is None:
            continue
        depth = len(found["indent"]) // 4
        above[depth:] = [found["name"]]
        tree[found["name"]] = (above[depth - 1] if depth else None, found["text"])
    return tree


def real_tree() -> dict[str, str | None]:
    def below(kind: type[BenchError]) -> dict[str, str | None]:
        children = [child for child in kind.__subclasses__() if child.__module__ == "bench.errors"]
        tree: dict[str, str | None] = {child.__name__: kind.__name__ for child in children}
        for child in children:
            tree |= below(child)
        return tree

    return {"BenchError": None, **below(BenchError)}


def test_the_drawn_tree_is_the_real_one():
    assert {name: parent for name, (parent, _) in drawn_tree().items()} == real_tree()
    assert len(real_tree()) > 5


def test_every_class_has_the_exit_code_drawn_beside_it_or_above_it():
    tree = drawn_tree()
    for name in tree:
        at: str | None = name
        while at is not None and "exit code" not in tree[at][1]:
            at = tree[at][0]
        assert at is not None
        drawn = re.search(r"exit code (\d+)", tree[at][1])
        assert drawn is not None
        assert getattr(errors, name).exit_code == int(drawn[1]), name


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("BenchError", 1),
        ("InputError", 2),
        ("DataError", 2),
        ("ParityError", 1),
        ("InterruptedRun", 130),
    ],
)
def test_exit_codes_are_those_of_the_command_line(name, code):
    assert getattr(errors, name).exit_code == code


def test_no_other_module_adds_a_class_to_the_tree():
    names = set(real_tree())
    for file in sorted(SOURCE.rglob("*.py")):
        if file.name == "errors.py":
            continue
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
                assert not bases & names, f"{file.name}: {node.name}"


@pytest.mark.parametrize(
    ("word", "known", "hint"),
    [
        ("lerning_rate", ["freeze_depth", "learning_rate"], " (did you mean `learning_rate`?)"),
        ("zzz", ["freeze_depth", "learning_rate"], ""),
        ("x", [], ""),
        ("label", iter(["lable"]), " (did you mean `lable`?)"),
    ],
)
def test_a_near_miss_earns_a_hint(word, known, hint):
    assert did_you_mean(word, known) == hint
