import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from bench.runtime.preprocess import SUFFIXES, Geometry, PictureError, fit, open_rgb, prepare

RED, GREEN = (250, 5, 5), (5, 250, 5)


def photograph(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth shapes with noise: resizing rules that differ show on it."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = np.stack([np.sin(x / 9), np.cos(y / 7), np.sin((x + y) / 11)], axis=-1)
    noise = generator.integers(-40, 40, (height, width, 3))
    return Image.fromarray(np.clip(waves * 80 + 128 + noise, 0, 255).astype(np.uint8))


def encoded(image: Image.Image, format_: str, **how: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_, **how)
    return buffer.getvalue()


def palette_png(transparency: int | bytes | None = None) -> bytes:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([*RED, *GREEN])
    how = {} if transparency is None else {"transparency": transparency}
    return encoded(image, "PNG", **how)


def wide_grey(value: int) -> bytes:
    return encoded(Image.fromarray(np.full((4, 4), value, np.uint16)), "PNG")


def odd_exif(orientation: int) -> bytes:
    """EXIF whose first tag, a picture's width, is a text: cameras write such things."""
    tags = ((0x0100, 2, 2, 0x30), (0x0112, 3, 1, orientation))  # tag, type, count, value
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)


def unknown_dds() -> bytes:
    """A texture of no known pixel format, which Pillow recognises and cannot decode."""
    data = bytearray(encoded(Image.new("RGB", (4, 4)), "DDS"))
    data[80:84] = struct.pack("<I", 1)
    return bytes(data)


def bomb() -> bytes:
    """A few bytes that promise 60,000 x 60,000 pixels."""
    small = encoded(Image.new("1", (8, 8)), "PNG")
    header = struct.pack(">4sIIBBBBB", b"IHDR", 60_000, 60_000, 1, 0, 0, 0, 0)
    return small[:12] + header + struct.pack(">I", zlib.crc32(header)) + small[33:]


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("RGB", encoded(Image.new("RGB", (4, 4), RED), "PNG"), RED),
        ("8-bit grey", encoded(Image.new("L", (4, 4), 77), "PNG"), (77, 77, 77)),
        ("black and white", encoded(Image.new("1", (4, 4), 1), "PNG"), (255, 255, 255)),
        ("grey with alpha", encoded(Image.new("LA", (4, 4), (77, 9)), "PNG"), (77, 77, 77)),
        ("16-bit grey is scaled", wide_grey(40_000), (156, 156, 156)),
        ("dark 16-bit grey is scaled too", wide_grey(200), (0, 0, 0)),
        ("palette", palette_png(), GREEN),
        ("palette with one transparent colour", palette_png(1), GREEN),
        ("palette with an alpha of its own", palette_png(bytes([0, 128])), GREEN),
        ("alpha is dropped", encoded(Image.new("RGBA", (4, 4), (*RED, 0)), "PNG"), RED),
    ],
)
def test_every_mode_becomes_8_bit_rgb(name, data, expected):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = open_rgb(data)
    assert image.mode == "RGB"
    assert image.getpixel((2, 2)) == expected, name


def test_cmyk_becomes_rgb():
    data = encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100)
    red, green, blue = open_rgb(data).getpixel((4, 4))
    assert red > 200
    assert max(green, blue) < 60


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    upright = Image.new("RGB", (16, 8), RED)
    upright.paste(GREEN, (0, 0, 4, 4))
    stored = {
        1: [],
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }[orientation]
    image = upright
    for turn in stored:
        image = image.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = open_rgb(encoded(image, "PNG", exif=exif))
    assert np.array_equal(np.asarray(decoded), np.asarray(upright))


def test_a_picture_with_odd_exif_is_as_good_as_any():
    sideways = encoded(Image.new("RGB", (16, 8), RED), "PNG", exif=odd_exif(6))
    assert open_rgb(sideways).size == (8, 16)


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_every_listed_suffix_can_be_read(tmp_path, suffix):
    path = tmp_path / f"picture{suffix}"
    Image.new("RGB", (16, 16), RED).save(path)
    difference = np.abs(np.asarray(open_rgb(path), int) - RED)
    assert difference.max() <= 4  # JPEG and WebP lose a little


def test_arrays_are_pixels():
    rgb = np.asarray(photograph(7, 5))
    assert np.array_equal(np.asarray(open_rgb(rgb)), rgb)
    assert open_rgb(rgb[..., 0]).getpixel((1, 2)) == (rgb[2, 1, 0],) * 3


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"", "these bytes: not a picture"),
        (b"plain text", "these bytes: not a picture"),
        (encoded(photograph(64, 64), "PNG")[:-500], "not a picture that can be decoded"),
        (encoded(photograph(64, 64), "JPEG")[:-500], "not a picture that can be decoded"),
        ("absent.png", "no such file: absent.png"),
        (np.zeros((4, 4, 3), np.float32), "uint8"),
        (np.zeros((4, 4, 4), np.uint8), r"\(H, W, 3\)"),
        (np.zeros(4, np.uint8), r"\(H, W\)"),
        (np.zeros((0, 4, 3), np.uint8), "a pixel at least"),
        (bomb(), "not a picture that can be decoded"),
        (unknown_dds(), "not a picture that can be decoded"),
        (Image.new("F", (4, 4)), "floating-point pixels"),
        (
            Image.open(io.BytesIO(encoded(photograph(64, 64), "PNG")[:-500])),
            "this image: not a picture that can be decoded",
        ),
    ],
)
def test_what_is_not_a_whole_picture_is_refused(source, message):
    with pytest.raises(PictureError, match=message):
        open_rgb(source)


@pytest.mark.parametrize("size", [(320, 240), (240, 320), (224, 224), (257, 1001), (100, 80)])
@pytest.mark.parametrize(
    ("image_size", "crop_pct", "interpolation"),
    [
        (224, 0.875, "bicubic"),
        (299, 0.897, "bicubic"),
        (160, 0.95, "bilinear"),
        (96, 1.0, "bicubic"),
    ],
)
def test_center_crop_is_timms_evaluation_to_the_last_bit(size, image_size, crop_pct, interpolation):
    from timm.data import create_transform

    image = photograph(*size)
    transform = create_transform(
        (3, image_size, image_size),
        interpolation=interpolation,
        crop_pct=crop_pct,
        crop_mode="center",
        use_prefetcher=True,  # stops before the tensor: uint8, C x H x W
    )
    geometry = Geometry(
        image_size=image_size,
        resize="center-crop",
        crop_pct=crop_pct,
        interpolation=interpolation,
    )
    assert np.array_equal(fit(image, geometry), np.asarray(transform(image)).transpose(1, 2, 0))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_squash_keeps_the_whole_picture(interpolation):
    image = photograph(90, 40)
    resample = Image.Resampling[interpolation.upper()]
    fitted = fit(image, Geometry(image_size=32, interpolation=interpolation))
    assert np.array_equal(fitted, np.asarray(image.resize((32, 32), resample)))


def test_the_crop_is_cut_before_resizing():
    image = Image.new("RGB", (30, 20), "white")
    image.paste(RED, (10, 5, 20, 15))
    fitted = fit(image, Geometry(image_size=8, crop=(10, 5, 20, 15)))
    assert (fitted == RED).all()


@pytest.mark.parametrize("crop", [(0, 0, 31, 20), (0, 0, 30, 21)])
def test_a_crop_beyond_the_picture_is_refused(crop):
    said = (
        r"reaches beyond a picture of 30x20 pixels: the model was trained .* of at least "
        rf"{crop[2]}x{crop[3]} pixels; give pictures made in the same way"
    )
    with pytest.raises(PictureError, match=said):
        prepare(Image.new("RGB", (30, 20)), Geometry(image_size=8, crop=crop))


def test_a_thread_of_a_picture_is_refused_before_it_is_blown_up():
    thread = Image.new("RGB", (60_000, 1))
    with pytest.raises(PictureError, match="60000x1 pixels is too narrow"):
        prepare(thread, Geometry(image_size=224, resize="center-crop"))
    assert prepare(thread, Geometry(image_size=224)).shape == (224, 224, 3)


def test_prepared_pictures_are_square_uint8():
    prepared = prepare(encoded(photograph(33, 44), "PNG"), Geometry(image_size=16))
    assert (prepared.shape, prepared.dtype) == ((16, 16, 3), np.uint8)
