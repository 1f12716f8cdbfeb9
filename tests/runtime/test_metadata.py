import json
from dataclasses import replace

import pytest

from bench.errors import ModelFileError
from bench.runtime.metadata import SCHEMA, ModelMetadata, Normalisation
from bench.runtime.preprocess import Geometry

FULL = ModelMetadata(
    classes=("blues", "metal", "Ünïcode"),
    geometry=Geometry(
        image_size=299,
        crop=(54, 35, 390, 253),
        resize="center-crop",
        crop_pct=0.9,
        interpolation="bilinear",
    ),
    normalisation=Normalisation(mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2)),
    provenance={"study": "s", "weights": {"kind": "package", "detail": "p", "digest": ""}},
    temperature=1.25,
)


def document(**changes: object) -> dict[str, object]:
    return {**json.loads(FULL.to_props()["bench"]), **changes}


def geometry(**changes: object) -> dict[str, object]:
    return {**json.loads(FULL.to_props()["bench"])["geometry"], **changes}


def read(**changes: object) -> ModelMetadata:
    metadata = ModelMetadata.from_props({"bench": json.dumps(document(**changes))}, "m.onnx")
    assert metadata is not None
    return metadata


def test_metadata_survives_the_way_into_the_file_and_back():
    assert ModelMetadata.from_props(FULL.to_props(), "m.onnx") == FULL


def test_class_names_stand_plainly_beside_the_document():
    assert json.loads(FULL.to_props()["class_names"]) == ["blues", "metal", "Ünïcode"]


def test_a_file_of_another_program_has_no_metadata_and_that_is_no_error():
    assert ModelMetadata.from_props({"class_names": "[]"}, "m.onnx") is None


def test_a_crop_and_a_normalisation_may_be_absent():
    metadata = read(geometry=geometry(crop=None), normalisation=None)
    assert (metadata.geometry.crop, metadata.normalisation) == (None, None)


def test_provenance_that_is_not_known_is_kept():
    assert read(provenance={"colour of the sky": "blue"}).provenance == {
        "colour of the sky": "blue"
    }


# --- versions ---------------------------------------------------------------------------------


def test_the_schema_is_written():
    assert document()["schema"] == SCHEMA == 2


def test_schema_1_is_still_read():
    """A document as bench 0.1.0 wrote it, with the normalisation among the provenance."""
    first = {
        "schema": 1,
        "classes": ["blues", "metal", "Ünïcode"],
        "geometry": geometry(),
        "provenance": {
            "study": "s",
            "normalisation": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2]},
            "weights": {"kind": "package", "detail": "p", "digest": ""},
        },
    }
    metadata = ModelMetadata.from_props({"bench": json.dumps(first)}, "m.onnx")
    assert metadata == replace(FULL, temperature=1.0)
    del first["provenance"]
    assert ModelMetadata.from_props({"bench": json.dumps(first)}, "m.onnx") is not None


def test_a_file_from_before_there_was_a_temperature_has_1():
    old = document()
    del old["temperature"]
    metadata = ModelMetadata.from_props({"bench": json.dumps(old)}, "m.onnx")
    assert metadata == replace(FULL, temperature=1.0)


def test_a_later_schema_is_refused_with_both_numbers_and_two_ways_out():
    with pytest.raises(ModelFileError) as caught:
        read(schema=SCHEMA + 1)
    for fragment in ("m.onnx", "has schema 3", "reads 1 to 2", "install", "bench promote"):
        assert fragment in str(caught.value)


# --- damage -----------------------------------------------------------------------------------

DAMAGE = [
    ("{", "is not JSON"),
    ('{"schema": 1' + "0" * 5000 + "}", "is not JSON"),
    ("[" * 100_000, "is not JSON"),
    ("[]", "schema of 1 to 2, this has None"),
    ({"schema": "2"}, "schema of 1 to 2, this has '2'"),
    ({"schema": 0}, "schema of 1 to 2, this has 0"),
    ({"schema": 10**30}, "has schema 1000000000"),
    ({"classes": "abc"}, "`classes` must be a list"),
    ({"classes": []}, "`classes` must be distinct and at least"),
    ({"classes": ["a", "a"]}, "`classes` must be distinct"),
    ({"provenance": []}, "`provenance` must be an object"),
    ({"geometry": None}, "`geometry` must be an object"),
    ({"geometry": geometry(tint=1)}, "does not know `'tint'`"),
    ({"geometry": {}}, "`image_size` must be a whole number"),
    ({"geometry": geometry(image_size=0)}, "from 1 to 4096, not 0"),
    ({"geometry": geometry(image_size=10**9)}, "from 1 to 4096, not 1000000000"),
    ({"geometry": geometry(image_size=True)}, "from 1 to 4096, not True"),
    ({"geometry": geometry(crop=[0, 0, 0, 5])}, "`crop` must be"),
    ({"geometry": geometry(crop=[-1, 0, 5, 5])}, "`crop` must be"),
    ({"geometry": geometry(crop=[0, 0, 10**9, 5])}, "within 65535 pixels"),
    ({"geometry": geometry(crop="../../etc/passwd")}, "`crop` must be"),
    ({"geometry": geometry(crop_pct=1.5)}, r"\[0.1, 1\], not 1.5"),
    ({"geometry": geometry(crop_pct=1e-9)}, r"\[0.1, 1\], not 1e-09"),
    ({"geometry": geometry(crop_pct=float("nan"))}, r"\[0.1, 1\], not nan"),
    ({"geometry": geometry(resize="tile")}, "squash, center-crop"),
    ({"geometry": geometry(interpolation=[3])}, "bilinear, bicubic"),
    ({"temperature": 0}, "`temperature` must be a positive number, not 0"),
    ({"temperature": float("inf")}, "`temperature` must be a positive number, not inf"),
    ({"temperature": float("nan")}, "`temperature` must be a positive number, not nan"),
    ({"temperature": "1"}, "`temperature` must be a positive number, not '1'"),
    ({"normalisation": {"mean": [0.5] * 3}}, "give `std` as three numbers"),
    ({"normalisation": {"mean": [0.5] * 2, "std": ["a"] * 3}}, "give `mean` as three numbers"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE)
def test_damage_is_named_with_the_file_and_the_remedy(damage, message):
    text = damage if isinstance(damage, str) else json.dumps(document(**damage))
    with pytest.raises(ModelFileError, match=message) as caught:
        ModelMetadata.from_props({"bench": text}, "m.onnx")
    assert str(caught.value).startswith("m.onnx: ")
    assert "bench promote" in str(caught.value)
    assert len(str(caught.value)) < 500


def test_all_faults_of_one_file_are_told_together():
    with pytest.raises(ModelFileError) as caught:
        read(classes=[], geometry=geometry(image_size=-1, crop_pct=0), normalisation=[])
    for name in ("classes", "image_size", "crop_pct", "normalisation"):
        assert f"`{name}`" in str(caught.value)
