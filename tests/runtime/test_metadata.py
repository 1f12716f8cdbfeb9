import json

import pytest

from bench.errors import ModelFileError
from bench.runtime.metadata import ModelMetadata
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
    provenance={"study": "s", "scores": {"balanced_accuracy": 0.8}},
)


def document(**changes: object) -> dict[str, object]:
    return {**json.loads(FULL.to_props()["bench"]), **changes}


def geometry(**changes: object) -> dict[str, object]:
    return {**json.loads(FULL.to_props()["bench"])["geometry"], **changes}


def test_metadata_survives_the_way_into_the_file_and_back():
    assert ModelMetadata.from_props(FULL.to_props()) == FULL


def test_class_names_stand_plainly_beside_the_document():
    assert json.loads(FULL.to_props()["class_names"]) == ["blues", "metal", "Ünïcode"]


def test_a_crop_may_be_absent():
    props = {"bench": json.dumps(document(geometry=geometry(crop=None)))}
    assert ModelMetadata.from_props(props).geometry.crop is None


@pytest.mark.parametrize(
    ("props", "message"),
    [
        ({}, r"no `bench` metadata \(keys found: none\)"),
        ({"class_names": "[]"}, r"keys found: class_names"),
        ({"bench": "{"}, "is not JSON"),
        ({"bench": "[]"}, "must have schema 1, this has None"),
        ({"bench": json.dumps(document(schema=2))}, "must have schema 1, this has 2"),
        ({"bench": json.dumps(document(classes="abc"))}, "`classes` must be a list"),
        ({"bench": json.dumps(document(classes=[]))}, "`classes` must be distinct and at least"),
        ({"bench": json.dumps(document(classes=["a", "a"]))}, "`classes` must be distinct"),
        ({"bench": json.dumps(document(provenance=[]))}, "`provenance` must be an object"),
        ({"bench": json.dumps(document(geometry=None))}, "`geometry` must be an object"),
        ({"bench": json.dumps(document(geometry=geometry(tint=1)))}, "does not know `tint`"),
        ({"bench": json.dumps(document(geometry={}))}, "`image_size` must be a whole number"),
        ({"bench": json.dumps(document(geometry=geometry(image_size=0)))}, "not 0"),
        ({"bench": json.dumps(document(geometry=geometry(crop=[0, 0, 0, 5])))}, "`crop` must be"),
        ({"bench": json.dumps(document(geometry=geometry(crop_pct=1.5)))}, r"\(0, 1\], not 1.5"),
        ({"bench": json.dumps(document(geometry=geometry(resize="tile")))}, "squash, center-crop"),
        ({"bench": json.dumps(document(geometry=geometry(interpolation=3)))}, "bilinear, bicubic"),
    ],
)
def test_damage_is_named_and_the_remedy_given(props, message):
    with pytest.raises(ModelFileError, match=message) as caught:
        ModelMetadata.from_props(props)
    assert "bench promote" in str(caught.value)


def test_all_faults_of_one_file_are_told_together():
    damaged = document(classes=[], geometry=geometry(image_size=-1, crop_pct=0))
    with pytest.raises(ModelFileError) as caught:
        ModelMetadata.from_props({"bench": json.dumps(damaged)})
    for name in ("classes", "image_size", "crop_pct"):
        assert f"`{name}`" in str(caught.value)
