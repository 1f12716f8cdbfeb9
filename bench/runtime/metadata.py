"""What an ONNX file says about itself: classes, preprocessing and where it came from.

The file's `metadata_props` hold one key, `bench`, with one JSON document, a `Document`, and
beside it a plain `class_names` list for readers that know nothing of this project.
`docs/onnx-metadata.md` explains every field and when `SCHEMA` changes.

What stands in a file is not trusted: all that shapes memory (sizes, boxes, ratios) has limits.
"""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import (
    Any,
    Final,
    Literal,
    NamedTuple,
    TypedDict,
    TypeGuard,
    cast,
    get_args,
    get_type_hints,
)

from bench.errors import ModelFileError
from bench.runtime.preprocess import Geometry

SCHEMA: Final = 2
KEY = "bench"
REMEDY = "export the model again with `bench promote`"

MOST_IMAGE_SIZE = 4096  # pixels a side: 48 MB a picture
MOST_CROP = 65_535  # pixels, the largest side of a JPEG
LEAST_CROP_PCT = 0.1  # the short side is scaled to image_size / crop_pct

_HINTS = get_type_hints(Geometry)
_CHOICES = {name: get_args(_HINTS[name]) for name in ("resize", "interpolation")}


class TensorSignature(NamedTuple):
    """An input or output of a graph; `kind` as ONNX Runtime writes it, "tensor(uint8)"."""

    name: str
    kind: str
    shape: Sequence[int | str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """What the graph takes and gives: the same in every file of this schema.

    decoding: upright (EXIF orientation applied), alpha dropped, 16-bit grey scaled to 8 bits.
    """

    input: Literal["image"] = "image"
    layout: Literal["NHWC"] = "NHWC"
    dtype: Literal["uint8"] = "uint8"
    colours: Literal["RGB"] = "RGB"
    decoding: Literal["upright 8-bit RGB"] = "upright 8-bit RGB"
    output: Literal["probabilities"] = "probabilities"


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalisation:
    """What the graph does to pixels scaled to 0..1: subtract `mean`, divide by `std`, by colour.

    It is inside the graph: a caller who normalises too gets wrong answers.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class Weights(TypedDict, total=False):
    """The starting weights: `detail` is a file's name, a package or an id."""

    kind: str
    detail: str
    digest: str


class Provenance(TypedDict, total=False):
    """Where a model came from. Every entry may be absent, and a reader keeps unknown ones.

    Scores are balanced accuracies; `cv` is over the folds of the search, `test` is of this file
    on the locked test set.
    """

    study: str
    trial: int
    role: str
    recipe: dict[str, str | int | float]
    architecture: str
    weights: Weights
    weights_license: str | None
    dataset: str
    dataset_fingerprint: str
    split_fingerprint: str
    synthetic_data: bool
    cv_balanced_accuracy: float | None
    cv_balanced_accuracy_sd: float | None
    test_balanced_accuracy: float
    test_pictures: int
    versions: dict[str, str]
    precision: str
    quantisation: dict[str, str | int | list[str] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """The JSON document under the key `bench`, as this version writes it."""

    schema: Literal[2]
    classes: tuple[str, ...]
    interface: Interface
    geometry: Geometry
    normalisation: Normalisation | None
    provenance: Provenance
    temperature: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelMetadata:
    """The part of an ONNX file that a picture classifier needs besides its graph.

    classes: names in the order of the output's columns.
    normalisation: for the record, as it happens in the graph; None in files that do not tell.
    temperature: for the record too, the graph divides the logits by it before the softmax; the
        graphs of files that do not tell divide by nothing, which is 1.
    """

    classes: tuple[str, ...]
    geometry: Geometry
    normalisation: Normalisation | None = None
    provenance: Provenance = field(default_factory=Provenance)
    temperature: float = 1.0

    def to_document(self) -> dict[str, Any]:
        """Return the JSON document as plain values."""
        return asdict(
            Document(
                schema=SCHEMA,
                classes=self.classes,
                interface=Interface(),
                geometry=self.geometry,
                normalisation=self.normalisation,
                provenance=self.provenance,
                temperature=self.temperature,
            )
        )

    def to_props(self) -> dict[str, str]:
        """Return the keys and values to be written into the file's `metadata_props`."""
        return {
            KEY: json.dumps(self.to_document(), ensure_ascii=False),
            "class_names": json.dumps(list(self.classes), ensure_ascii=False),
        }

    @classmethod
    def from_props(cls, props: Mapping[str, str], file: str | Path) -> ModelMetadata | None:
        """Read `metadata_props`; None where there is no key `bench`, so another program's file.

        Args:
            props: the file's metadata, as ONNX Runtime's `custom_metadata_map` gives it.
            file: what messages call it.

        Raises:
            ModelFileError: the document is of a later schema, or breaks the schema; all faults
                are told together.
        """
        if KEY not in props:
            return None
        document = _document_of(props[KEY], file)
        faults = [
            *_classes_faults(document.get("classes")),
            *_geometry_faults(document.get("geometry")),
            *_normalisation_faults(document.get("normalisation")),
            *_temperature_faults(document.get("temperature", 1.0)),
        ]
        if not isinstance(document.get("provenance", {}), dict):
            faults.append("`provenance` must be an object")
        if faults:
            raise ModelFileError(
                f"{file}: its `bench` metadata is damaged: {'; '.join(faults)}: {REMEDY}"
            )
        geometry, normalisation = document["geometry"], document.get("normalisation")
        crop = geometry.get("crop")
        return cls(
            classes=tuple(document["classes"]),
            geometry=Geometry(**{**geometry, "crop": None if crop is None else tuple(crop)}),
            normalisation=normalisation
            and Normalisation(mean=tuple(normalisation["mean"]), std=tuple(normalisation["std"])),
            provenance=document.get("provenance", {}),
            temperature=document.get("temperature", 1.0),
        )

    def check_signature(
        self,
        inputs: Sequence[TensorSignature],
        outputs: Sequence[TensorSignature],
        file: str | Path,
    ) -> None:
        """Hold a graph's inputs and outputs, behind the batch, against what is promised here.

        Raises:
            ModelFileError: the graph is not the one that this metadata was written for.
        """
        size = self.geometry.image_size
        promised = (
            [("image", "tensor(uint8)", ["any", size, size, 3])],
            [("probabilities", "tensor(float)", ["any", len(self.classes)])],
        )
        found = ([_any_batch(i) for i in inputs], [_any_batch(o) for o in outputs])
        if found != promised:
            raise ModelFileError(
                f"{file}: its metadata promises input {promised[0]} and output {promised[1]}, its "
                f"graph has {_short(found[0])} and {_short(found[1])}: {REMEDY}"
            )


def _any_batch(tensor: TensorSignature) -> tuple[str, str, list[int | str | None]]:
    """The signature with the name of a dynamic batch dimension, which is free, made "any"."""
    shape = [*tensor.shape]
    if shape and not isinstance(shape[0], int):
        shape[0] = "any"
    return tensor.name, tensor.kind, shape


def _document_of(text: str, file: str | Path) -> dict[str, Any]:
    """Return the document as one of the newest schema."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(
            f"{file}: its `bench` metadata is not JSON ({error}): {REMEDY}"
        ) from error
    schema = document.get("schema") if isinstance(document, dict) else None
    if not _is_whole(schema) or schema < 1:
        raise ModelFileError(
            f"{file}: its `bench` metadata must have a schema of 1 to {SCHEMA}, this has "
            f"{_short(schema)}: {REMEDY}"
        )
    if schema > SCHEMA:
        raise ModelFileError(
            f"{file}: its `bench` metadata has schema {_short(schema)}, and this version of bench "
            f"reads 1 to {SCHEMA}: install the version of bench that wrote the file, or {REMEDY}"
        )
    return _from_schema_1(document) if schema == 1 else document


def _from_schema_1(document: dict[str, Any]) -> dict[str, Any]:
    """Schema 1 kept the normalisation among the provenance, where no reader looked for it."""
    provenance = document.get("provenance", {})
    if not isinstance(provenance, dict):
        return document
    rest = {name: value for name, value in provenance.items() if name != "normalisation"}
    return {**document, "normalisation": provenance.get("normalisation"), "provenance": rest}


def _classes_faults(classes: object) -> list[str]:
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        return [f"`classes` must be a list of names, not {_short(classes)}"]
    if not classes or len(set(classes)) != len(classes):
        return [f"`classes` must be distinct and at least one, not {_short(classes)}"]
    if any("\ud800" <= character <= "\udfff" for name in classes for character in name):
        # Halves of characters, which JSON lets pass and nothing can print.
        return [f"`classes` must be whole characters, not {_short(classes)}"]
    return []


def _geometry_faults(geometry: object) -> list[str]:
    if not isinstance(geometry, dict):
        return [f"`geometry` must be an object, not {_short(geometry)}"]
    unknown = sorted(set(geometry) - set(_HINTS))
    faults = [f"`geometry` does not know `{_short(name)}`" for name in unknown]
    size = geometry.get("image_size")
    if not _is_whole(size) or not 1 <= size <= MOST_IMAGE_SIZE:
        faults.append(
            f"`image_size` must be a whole number of pixels from 1 to {MOST_IMAGE_SIZE}, not "
            f"{_short(size)}"
        )
    crop = geometry.get("crop")
    if crop is not None and not _is_box(crop):
        faults.append(
            f"`crop` must be [left, top, right, bottom] within {MOST_CROP} pixels or null, not "
            f"{_short(crop)}"
        )
    crop_pct = geometry.get("crop_pct", 0.875)
    if not _is_number(crop_pct) or not LEAST_CROP_PCT <= crop_pct <= 1:
        faults.append(f"`crop_pct` must be in [{LEAST_CROP_PCT}, 1], not {_short(crop_pct)}")
    for name, choices in _CHOICES.items():
        value = geometry.get(name, choices[0])
        if value not in choices:
            faults.append(f"`{name}` must be one of {', '.join(choices)}, not {_short(value)}")
    return faults


def _normalisation_faults(normalisation: object) -> list[str]:
    if normalisation is None:
        return []
    values = normalisation if isinstance(normalisation, dict) else {}
    return [
        f"`normalisation` must give `{name}` as three numbers, not {_short(values.get(name))}"
        for name in ("mean", "std")
        if not _is_list(values.get(name), 3) or not all(map(_is_number, values[name]))
    ]


def _temperature_faults(temperature: object) -> list[str]:
    if _is_number(temperature) and 0.0 < temperature < math.inf:
        return []
    return [f"`temperature` must be a positive number, not {_short(temperature)}"]


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, float) or _is_whole(value)


def _is_list(value: object, length: int) -> TypeGuard[list[object]]:
    return isinstance(value, list) and len(value) == length


def _is_box(crop: object) -> bool:
    if not _is_list(crop, 4) or not all(map(_is_whole, crop)):
        return False
    left, top, right, bottom = cast(list[int], crop)
    return 0 <= left < right <= MOST_CROP and 0 <= top < bottom <= MOST_CROP


_REPR = reprlib.Repr()
_REPR.maxstring = 80


def _short(value: object) -> str:
    """A value of any size, as a few readable characters."""
    return _REPR.repr(value)
