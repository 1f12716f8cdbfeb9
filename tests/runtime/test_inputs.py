import numpy as np
import pytest
from onnx import TensorProto
from PIL import Image

from bench.errors import ModelFileError
from bench.runtime.inputs import concrete_shape, made_picture, random_input
from bench.runtime.preprocess import Geometry, prepare
from bench.runtime.session import open_session


@pytest.mark.parametrize(
    ("how", "shape", "dtype"),
    [
        ({}, (4, 8, 8, 3), np.uint8),
        ({"dtype": TensorProto.FLOAT}, (4, 8, 8, 3), np.float32),
        ({"dtype": TensorProto.FLOAT16}, (4, 8, 8, 3), np.float16),
        ({"shape": (4, 8, 8, 3)}, (4, 8, 8, 3), np.uint8),
    ],
)
def test_the_input_is_what_the_model_takes_and_the_same_each_time(make_model, how, shape, dtype):
    session = open_session(make_model(**how), device="cpu", threads=1).session
    first, again = random_input(session, 4), random_input(session, 4)
    assert first["image"].shape == shape
    assert first["image"].dtype == dtype
    assert (first["image"] == again["image"]).all()
    assert session.run(None, first)[0].shape == (4, 3)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"shape": (2, 8, 8, 3)}, "fixed at batch 2"),
        ({"shape": ("batch", "height", 8, 3)}, "height or width open: .* --image-size"),
        ({"dtype": TensorProto.INT32}, r"not tensor\(int32\)"),
    ],
)
def test_a_model_that_no_random_picture_fits_is_refused(make_model, how, message):
    session = open_session(make_model(**how), device="cpu", threads=1).session
    with pytest.raises(ModelFileError, match=message):
        random_input(session, 4)


@pytest.mark.parametrize(
    ("shape", "image_size", "expected"),
    [
        (("n", 3, 8, 8), None, (2, 3, 8, 8)),
        (("n", 8, 8, 1), None, (2, 8, 8, 1)),
        ((2, 3, 8, 8), None, (2, 3, 8, 8)),
        (("n", 3, "h", "w"), 32, (2, 3, 32, 32)),
        ((None, None, None, 3), 32, (2, 32, 32, 3)),
        (("n", 3, 8, 8), 8, (2, 3, 8, 8)),
    ],
)
def test_colours_may_stand_first_or_last_and_what_is_open_is_filled(shape, image_size, expected):
    assert concrete_shape("pixels", shape, 2, image_size) == expected


@pytest.mark.parametrize(
    ("shape", "image_size", "message"),
    [
        (("n", 3, 8, 8), 16, "cannot be of 16 pixels"),
        (("n", "h", "w", "c"), 16, r"\(N, C, H, W\) or \(N, H, W, C\)"),
        (("n", 10), None, "must be a batch of pictures"),
        ((), None, "must be a batch of pictures"),
    ],
)
def test_what_is_no_batch_of_pictures_is_refused(shape, image_size, message):
    with pytest.raises(ModelFileError, match=message):
        concrete_shape("pixels", shape, 2, image_size)


@pytest.mark.parametrize(
    ("geometry", "size", "kind"),
    [
        (Geometry(image_size=32, crop=(5, 6, 40, 50)), (40, 50), "PNG"),
        (Geometry(image_size=32), (32, 32), "PNG"),
        (Geometry(image_size=28, resize="center-crop", crop_pct=0.875), (32, 32), "JPEG"),
    ],
)
def test_a_made_picture_fits_the_geometry(tmp_path, geometry, size, kind):
    file = made_picture(geometry, tmp_path)
    with Image.open(file) as image:
        assert (image.size, image.format) == (size, kind)
    pixels = prepare(file, geometry)
    assert pixels.shape == (geometry.image_size, geometry.image_size, 3)
    assert pixels.std() > 10  # something to decode
