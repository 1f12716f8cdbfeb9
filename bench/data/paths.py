"""Names on disk as text, which a file system does not ask for: to it they are bytes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from bench.errors import DataError


def as_text(path: Path) -> str:
    """A path that can be printed and stored whatever its bytes are."""
    return path.as_posix().encode("utf-8", "backslashreplace").decode("utf-8")


def refuse_broken_names(root: Path, paths: Iterable[str]) -> None:
    """Refuse a folder or a file in it whose name is no text: names are stored and exported as such.

    Raises:
        DataError: one is not UTF-8.
    """
    for path in (root.as_posix(), *paths):
        try:
            path.encode()
        except UnicodeEncodeError:
            raise DataError(
                f"{as_text(root)}: names of folders and files must be UTF-8, {path!a} is not: "
                "rename it (convmv -f latin1 -t utf8 does a whole tree)"
            ) from None
