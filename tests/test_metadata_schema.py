from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from bench.metadata_schema import as_text, metadata_schema
from bench.runtime.metadata import SCHEMA, Document, ModelMetadata, Normalisation, Provenance
from bench.runtime.preprocess import Geometry

DOCS = Path(__file__).parent.parent / "docs"
METADATA = ModelMetadata(
    classes=("a", "b"),
    geometry=Geometry(image_size=96, crop=(0, 0, 5, 5)),
    normalisation=Normalisation(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    provenance=Provenance(study="s", trial=3, cv_balanced_accuracy=None, synthetic_data=True),
)


def test_the_schema_in_the_docs_is_that_of_the_types() -> None:
    """After a change: make schema."""
    assert (DOCS / "onnx-metadata.schema.json").read_text("utf-8") == as_text()


def test_the_schema_is_of_the_version_that_is_written() -> None:
    document = metadata_schema()["$defs"]["Document"]

    assert document["properties"]["schema"] == {"enum": [SCHEMA]}


def test_what_is_written_keeps_the_schema() -> None:
    document = json.loads(METADATA.to_props()["bench"])

    assert msgspec.convert(document, Document).classes == ("a", "b")


def test_what_breaks_the_types_breaks_the_schema() -> None:
    """The check above can fail."""
    document = {**json.loads(METADATA.to_props()["bench"]), "classes": [1]}

    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(document, Document)


@pytest.mark.parametrize("kind", ["Document", "Geometry", "Interface", "Normalisation"])
def test_the_docs_explain_every_field(kind: str) -> None:
    text = (DOCS / "onnx-metadata.md").read_text("utf-8")
    fields = metadata_schema()["$defs"][kind]["properties"]

    assert [name for name in fields if f"`{name}`" not in text] == []


def test_the_docs_explain_every_entry_of_the_provenance() -> None:
    text = (DOCS / "onnx-metadata.md").read_text("utf-8")

    assert [name for name in Provenance.__annotations__ if f"`{name}`" not in text] == []
