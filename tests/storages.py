"""Storages of every kind, for rules that hold on each of them."""

from __future__ import annotations

from pathlib import Path

import pytest


def empty_storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty storage of the kind that the parameter names."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'bench.db'}"
    url: str = request.getfixturevalue("postgresql_url")
    return url


# Makes a fixture of a function that the parameter tells the kind of storage.
on_each_storage = pytest.fixture(params=["sqlite", "postgresql"])
