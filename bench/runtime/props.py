"""What an ONNX file says of itself, read without its graph: before a session can be opened.

An ONNX file is one protocol buffer (https://protobuf.dev/programming-guides/encoding): fields one
after another, each a tag (number and wire type) and its value. The graph is one such field, and is
stepped over by its length.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import BinaryIO

_METADATA_PROPS, _KEY, _VALUE = 14, 1, 2  # numbers of fields of ModelProto and its entries
_VARINT, _FIXED_64, _BYTES, _FIXED_32 = 0, 1, 2, 5
_MOST_BYTES = 2**24  # of one entry; nothing of this project comes near
_MOST_SEEK = 2**62
_MOST_DIGITS = 10  # bytes of a 64-bit number, 7 bits each


def read_props(path: Path) -> dict[str, str]:
    """The file's `metadata_props`; what cannot be read as such is left out, without an error.

    Whether the file is damaged is for ONNX Runtime to say.
    """
    props = {}
    with path.open("rb") as stream:
        for entry in _fields(stream, _METADATA_PROPS):
            key, value = (b"".join(_fields(BytesIO(entry), number)) for number in (_KEY, _VALUE))
            props[key.decode(errors="replace")] = value.decode(errors="replace")
    return props


def _fields(stream: BinaryIO, wanted: int) -> list[bytes]:
    """The values of all fields of one number that hold bytes, as far as the stream is whole."""
    found = []
    while (tag := _number(stream)) is not None:
        number, wire_type = tag >> 3, tag & 7
        if wire_type == _VARINT:
            _number(stream)
        elif wire_type == _BYTES:
            length = _number(stream) or 0
            if length > _MOST_SEEK:
                break
            if number == wanted and length <= _MOST_BYTES:
                found.append(stream.read(length))
            else:
                stream.seek(length, 1)
        elif wire_type in (_FIXED_64, _FIXED_32):
            stream.seek(8 if wire_type == _FIXED_64 else 4, 1)
        else:
            break  # no such wire type: these bytes are something else
    return found


def _number(stream: BinaryIO) -> int | None:
    """The next variable-length number; None at the end, or where there is no such number."""
    number = 0
    for digit in range(_MOST_DIGITS):
        byte = stream.read(1)
        if not byte:
            return None
        number |= (byte[0] & 0x7F) << (7 * digit)
        if byte[0] < 0x80:
            return number
    return None
