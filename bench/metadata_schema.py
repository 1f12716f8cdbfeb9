"""The JSON Schema of what `bench` writes into its ONNX files, made from the types that write it.

python -m bench.metadata_schema > docs/onnx-metadata.schema.json
"""

from __future__ import annotations

from typing import Any

import msgspec

from bench.runtime.metadata import Document

TITLE = "The `bench` metadata of an ONNX file"


def metadata_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a `Document`."""
    schema = msgspec.json.schema(Document)
    dialect = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": dialect, "title": TITLE, **schema}


def as_text() -> str:
    """The schema as the file that is kept in `docs/`."""
    return msgspec.json.format(msgspec.json.encode(metadata_schema()), indent=2).decode() + "\n"


if __name__ == "__main__":
    print(as_text(), end="")
