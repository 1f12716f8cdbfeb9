"""Find the picture that a list means: by its path, or by the name of a GTZAN excerpt."""

from __future__ import annotations

import re

from bench.errors import DataError
from bench.records import Dataset

# `blues.00029`, `blues/blues.00029.wav` and `blues/blues00029.png` are one excerpt.
_EXCERPT = re.compile(r"(?:.*/)?([A-Za-z]+)\.?(\d{5})(?:\.[A-Za-z]\w*)?")


def excerpt_key(name: str) -> str | None:
    """`blues00029` for any of the ways in which GTZAN's excerpts are named; None for others."""
    found = _EXCERPT.fullmatch(name)
    return f"{found[1].lower()}{found[2]}" if found else None


class PictureNames:
    """The pictures of a data set by path, and by excerpt where they are named like GTZAN's."""

    def __init__(self, dataset: Dataset) -> None:
        self._broken = {picture.path for picture in dataset.broken}
        self._paths = [picture.path for picture in dataset.pictures]
        self._by_path = {path: index for index, path in enumerate(self._paths)}
        self._by_key: dict[str, list[int]] = {}
        for index, path in enumerate(self._paths):
            key = excerpt_key(path)
            if key is not None:
                self._by_key.setdefault(key, []).append(index)
        self._broken_keys = {excerpt_key(path) for path in self._broken} - {None}

    def find(self, name: str) -> int | None:
        """Index of the picture that `name` means; None where there is none.

        Raises:
            DataError: several pictures bear the name.
        """
        path = name.removeprefix("./")
        if path in self._by_path:
            return self._by_path[path]
        found = self._by_key.get(excerpt_key(name) or "", [])
        if len(found) > 1:
            raise DataError(
                f"{name!r} means {self._paths[found[0]]} as well as {self._paths[found[1]]}: "
                "give paths relative to the data set's folder"
            )
        return found[0] if found else None

    def is_broken(self, name: str) -> bool:
        """Whether `name` means a file that is there and was left out because it is broken."""
        return name.removeprefix("./") in self._broken or excerpt_key(name) in self._broken_keys
