"""Records as JSON, and their fingerprints."""

from __future__ import annotations

import hashlib
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")


def to_json(record: object, *, indent: int = 0) -> bytes:
    """Encode a record (or a tuple of records) as JSON."""
    encoded = msgspec.json.encode(record)
    return msgspec.json.format(encoded, indent=indent) if indent else encoded


def from_json(data: bytes | str, kind: type[T]) -> T:
    """Decode and validate JSON as a record.

    Raises:
        msgspec.ValidationError: the JSON does not have the shape of `kind`.
    """
    return msgspec.json.decode(data, type=kind)


def to_builtins(record: object) -> Any:
    """Turn a record into dicts, lists, strings and numbers."""
    return msgspec.to_builtins(record)


def fingerprint_of(record: object) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of a record's JSON with sorted keys."""
    encoded = msgspec.json.encode(msgspec.to_builtins(record), order="sorted")
    return hashlib.sha256(encoded).hexdigest()[:16]
