"""What an ONNX file says about itself: classes, geometry and where it came from.

The file's `metadata_props` hold one key, `bench`, with one JSON document (schema 1), and beside
it a plain `class_names` list for readers that know nothing of this project.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeGuard, get_args, get_type_hints

from bench.errors import ModelFileError
from bench.runtime.preprocess import Geometry

SCHEMA = 1
REMEDY = "export the model again with `bench promote`"

_HINTS = get_type_hints(Geometry)
_CHOICES = {name: get_args(_HINTS[name]) for name in ("resize", "interpolation")}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelMetadata:
    """The part of an ONNX file that a picture classifier needs besides its graph.

    classes: names in the order of the output's columns.
    provenance: free JSON values: weights, data set fingerprint, study, trial, scores, versions.
    """

    classes: tuple[str, ...]
    geometry: Geometry
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def to_props(self) -> dict[str, str]:
        """Return the keys and values to be written into the file's `metadata_props`."""
        document = {
            "schema": SCHEMA,
            "classes": list(self.classes),
            "geometry": asdict(self.geometry),
            "provenance": dict(self.provenance),
        }
        return {
            "bench": json.dumps(document, ensure_ascii=False),
            "class_names": json.dumps(list(self.classes), ensure_ascii=False),
        }

    @classmethod
    def from_props(cls, props: Mapping[str, str]) -> ModelMetadata:
        """Read `metadata_props`, as ONNX Runtime's `custom_metadata_map` gives them.

        Raises:
            ModelFileError: the key is missing, of another schema, or breaks the schema; all
                faults are told together.
        """
        document = _document_of(props)
        faults = [*_classes_faults(document), *_geometry_faults(document.get("geometry"))]
        if not isinstance(document.get("provenance", {}), dict):
            faults.append("`provenance` must be an object")
        if faults:
            raise ModelFileError(
                f"the model's `bench` metadata is damaged: {'; '.join(faults)}: {REMEDY}"
            )
        geometry = document["geometry"]
        crop = geometry.get("crop")
        return cls(
            classes=tuple(document["classes"]),
            geometry=Geometry(**{**geometry, "crop": None if crop is None else tuple(crop)}),
            provenance=document.get("provenance", {}),
        )


def _document_of(props: Mapping[str, str]) -> dict[str, Any]:
    if "bench" not in props:
        found = ", ".join(sorted(props)) or "none"
        raise ModelFileError(
            f"the model carries no `bench` metadata (keys found: {found}), so its classes and "
            f"picture geometry are unknown: {REMEDY}"
        )
    try:
        document = json.loads(props["bench"])
    except json.JSONDecodeError as error:
        raise ModelFileError(
            f"the model's `bench` metadata is not JSON ({error}): {REMEDY}"
        ) from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        schema = document.get("schema") if isinstance(document, dict) else None
        raise ModelFileError(
            f"the model's `bench` metadata must have schema {SCHEMA}, this has {schema!r}: "
            f"use the version of bench that wrote it, or {REMEDY}"
        )
    return document


def _classes_faults(document: Mapping[str, Any]) -> list[str]:
    classes = document.get("classes")
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        return [f"`classes` must be a list of names, not {classes!r}"]
    if not classes or len(set(classes)) != len(classes):
        return [f"`classes` must be distinct and at least one, not {classes!r}"]
    return []


def _geometry_faults(geometry: object) -> list[str]:
    if not isinstance(geometry, dict):
        return [f"`geometry` must be an object, not {geometry!r}"]
    faults = [f"`geometry` does not know `{name}`" for name in sorted(set(geometry) - set(_HINTS))]
    size = geometry.get("image_size")
    if not _is_whole(size) or size < 1:
        faults.append(f"`image_size` must be a whole number of pixels from 1, not {size!r}")
    crop = geometry.get("crop")
    if crop is not None and not _is_box(crop):
        faults.append(f"`crop` must be [left, top, right, bottom] or null, not {crop!r}")
    crop_pct = geometry.get("crop_pct", 0.875)
    if not isinstance(crop_pct, int | float) or not 0 < crop_pct <= 1:
        faults.append(f"`crop_pct` must be in (0, 1], not {crop_pct!r}")
    for name, choices in _CHOICES.items():
        if geometry.get(name, choices[0]) not in choices:
            faults.append(f"`{name}` must be one of {', '.join(choices)}, not {geometry[name]!r}")
    return faults


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_box(crop: object) -> bool:
    if not isinstance(crop, list) or len(crop) != 4 or not all(map(_is_whole, crop)):
        return False
    left, top, right, bottom = crop
    return bool(0 <= left < right and 0 <= top < bottom)
