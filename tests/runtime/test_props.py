from pathlib import Path

import numpy as np
import onnx
import pytest

from bench.runtime.props import read_props
from tests.runtime.conftest import METADATA


def test_metadata_are_read_as_onnx_reads_them(make_model):
    path: Path = make_model(props={**METADATA.to_props(), "other": "é" * 200, "empty": ""})
    assert read_props(path) == {prop.key: prop.value for prop in onnx.load(path).metadata_props}


def test_a_file_without_metadata_has_none(make_model):
    assert read_props(make_model(props={})) == {}


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 64, b"\x72\xff\xff\xff\xff\x7f", b"not a model"]
)
def test_what_is_no_model_says_nothing(tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert read_props(path) == {}


def test_no_damage_makes_an_error(make_model):
    path: Path = make_model()
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(whole[: generator.integers(1, len(whole))])
        damaged[generator.integers(len(damaged))] = generator.integers(256)
        path.write_bytes(damaged)
        read_props(path)
