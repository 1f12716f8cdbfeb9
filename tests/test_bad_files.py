"""Model files and pictures that cannot be used: one clear message, whichever command meets them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto
from PIL import Image

from bench.errors import BenchError, DataError, ModelFileError
from bench.runtime.metadata import ModelMetadata
from bench.runtime.preprocess import Geometry
from tests.command import Bench, Outcome, bench_heard_by
from tests.runtime.conftest import METADATA, colour_classifier
from tests.runtime.test_preprocess import bomb

PNG = b"\x89PNG\r\n\x1a\n" + bytes(200)


def good() -> onnx.ModelProto:
    return colour_classifier(props=METADATA.to_props())


def raw(model: onnx.ModelProto) -> bytes:
    data: bytes = model.SerializeToString()
    return data


def saying(metadata: ModelMetadata) -> bytes:
    return raw(colour_classifier(props=metadata.to_props()))


def saying_text(document: str) -> bytes:
    return raw(colour_classifier(props={"bench": document}))


def saying_also(**changes: Any) -> bytes:
    return saying_text(json.dumps({**METADATA.to_document(), **changes}))


def geometry(**changes: Any) -> Geometry:
    return replace(METADATA.geometry, **changes)


def with_weights_in(location: str) -> bytes:
    model = good()
    (weight,) = (t for t in model.graph.initializer if t.name == "weight")
    length = len(weight.raw_data)
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("length", str(length))):
        entry = weight.external_data.add()
        entry.key, entry.value = key, value
    return raw(model)


@dataclass(frozen=True)
class Bad:
    """A file's content (None: no such file), what is said of it, and who minds."""

    content: Callable[[], bytes] | None
    message: str
    remedy: str = "export"
    commands: tuple[str, ...] = ("predict", "inspect", "latency")


FILES = {
    "missing": Bad(None, "does not exist", ""),
    "empty": Bad(lambda: b"", "is empty"),
    "truncated": Bad(lambda: raw(good())[:150], "damaged or not an ONNX model"),
    "its last bytes missing": Bad(lambda: raw(good())[:-5], "damaged or not an ONNX model"),
    "a picture": Bad(lambda: PNG, "damaged or not an ONNX model"),
    "a text": Bad(lambda: b"Dear reader,\n", "damaged or not an ONNX model"),
    "a name that is no text": Bad(
        lambda: raw(good()).replace(b"probabilities", b"\xff\xffobabilities"), "utf-8"
    ),
    "metadata that is no text": Bad(
        lambda: raw(good()).replace(b'"schema"', b'"sch\xffma"'), "utf-8"
    ),
    "an input of no known type": Bad(
        lambda: raw(colour_classifier(dtype=127, props={})), "damaged or not an ONNX model"
    ),
    "half a character in a class": Bad(
        lambda: saying_also(classes=["red", "green", "\ud800"]), "`classes`"
    ),
    # Any classifier can be measured and described.
    "no metadata": Bad(
        lambda: raw(colour_classifier(props={})),
        "carries no `bench` metadata",
        commands=("predict",),
    ),
    "another input type": Bad(
        lambda: raw(colour_classifier(dtype=TensorProto.FLOAT, props=METADATA.to_props())),
        "its metadata promises input",
    ),
    "another number of classes": Bad(
        lambda: saying(replace(METADATA, classes=("a", "b"))), "its metadata promises input"
    ),
    "another size": Bad(
        lambda: saying(replace(METADATA, geometry=geometry(image_size=9))), "promises input"
    ),
    "metadata that is not JSON": Bad(lambda: saying_text('{"schema": 2,'), "is not JSON"),
    "metadata that is a list": Bad(lambda: saying_text("[]"), "must have a schema"),
    "metadata nested without end": Bad(lambda: saying_text("[" * 50_000), "is not JSON"),
    "metadata of the future": Bad(lambda: saying_also(schema=3), "has schema 3"),
    "a huge input": Bad(
        lambda: saying(replace(METADATA, geometry=geometry(image_size=10**9))), "`image_size`"
    ),
    "a huge crop": Bad(
        lambda: saying(replace(METADATA, geometry=geometry(crop=(0, 0, 10**12, 1)))), "`crop`"
    ),
    "a tiny share": Bad(
        lambda: saying(replace(METADATA, geometry=geometry(crop_pct=1e-12))), "`crop_pct`"
    ),
    "a path for a crop": Bad(
        lambda: saying_also(geometry={"image_size": 8, "crop": "../../etc/passwd"}), "`crop`"
    ),
    "weights in a missing file": Bad(lambda: with_weights_in("gone.data"), "in another file"),
    "weights above its folder": Bad(
        lambda: with_weights_in("../../../../../../etc/passwd"), "in another file"
    ),
    "weights at an absolute path": Bad(lambda: with_weights_in("/etc/passwd"), "in another file"),
    "weights behind a link": Bad(lambda: with_weights_in("link.data"), "in another file"),
}


@pytest.fixture
def bench(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> Bench:
    """Run the command line in an empty folder; what native libraries print is heard too."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return bench_heard_by(capfd, monkeypatch)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "red.png"
    Image.new("RGB", (9, 9), (200, 10, 10)).save(path)
    return path


def everything_below(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def refused(told: Outcome, kind: type[BenchError], *fragments: str) -> None:
    assert told.code == kind.exit_code
    assert told.out == ""
    assert "Traceback" not in told.err
    assert told.err.startswith("error: ")
    assert told.err.count("\n") == 1
    for fragment in fragments:
        assert fragment in told.err


@pytest.mark.parametrize(
    ("name", "command"),
    [
        # A measurement is a fresh process, which takes a second or more to start.
        pytest.param(name, command, marks=pytest.mark.slow if command == "latency" else ())
        for name, bad in FILES.items()
        for command in bad.commands
    ],
)
def test_a_model_file_that_cannot_be_used_is_refused(
    bench: Bench, picture: Path, tmp_path: Path, name: str, command: str
) -> None:
    bad = FILES[name]
    (tmp_path / "models").mkdir()
    file = tmp_path / "models" / "bad.onnx"
    if bad.content is not None:
        file.write_bytes(bad.content())
    (file.parent / "link.data").symlink_to("/etc/passwd")
    before = everything_below(tmp_path)
    more = {"predict": [str(picture)], "inspect": [], "latency": ["--quick", "--batch", "1"]}

    told = bench(command, str(file), *more[command])

    refused(told, ModelFileError, str(file), bad.message, bad.remedy)
    assert everything_below(tmp_path) == before


def test_the_file_that_all_the_bad_ones_were_made_of_is_good(
    bench: Bench, picture: Path, tmp_path: Path
) -> None:
    file = tmp_path / "good.onnx"
    onnx.save(good(), file)

    assert bench("inspect", str(file)).code == 0
    told = bench("predict", str(file), str(picture), "--device", "cpu")
    assert (told.code, told.out.split(": ")[1][:3]) == (0, "red")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (PNG, "not a picture that can be decoded"),
        (b"", "not a picture that can be decoded"),
        (bomb(), "not a picture that can be decoded"),
        (None, "holds no picture"),
    ],
    ids=["truncated", "empty", "a decompression bomb", "a folder without pictures"],
)
def test_a_picture_that_cannot_be_used_is_refused_and_the_others_are_predicted(
    bench: Bench, picture: Path, tmp_path: Path, content: bytes | None, message: str
) -> None:
    model, bad = tmp_path / "good.onnx", tmp_path / "bad.png"
    onnx.save(good(), model)
    if content is None:
        bad.mkdir()
    else:
        bad.write_bytes(content)

    refused(bench("predict", str(model), str(bad), "--device", "cpu"), DataError, str(bad), message)
    both = bench("predict", str(model), str(picture), str(bad), "--device", "cpu")
    assert both.code == DataError.exit_code
    if content is not None:
        assert both.out.startswith(f"{picture}: red")


# --- bench inspect ----------------------------------------------------------------------------


def test_inspect_prints_all_that_a_file_says(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "good.onnx"
    onnx.save(good(), file)

    plain, as_json = bench("inspect", str(file)), bench("inspect", str(file), "--json")

    document = json.loads(as_json.out)
    assert document["bench"] == METADATA.to_document() | {"classes": [*METADATA.classes]}
    assert document["operators"] == {"Cast": 1, "ReduceMean": 1, "MatMul": 1, "Softmax": 1}
    assert document["parameters"] == 11
    for said in ("image: tensor(uint8) [batch, 8, 8, 3]", "red, green, blue", "study", "tiny"):
        assert said in plain.out


def test_inspect_says_that_bench_did_not_make_a_file(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "foreign.onnx"
    onnx.save(colour_classifier(props={"author": "acme"}), file)

    told = bench("inspect", str(file))

    assert told.code == 0
    assert "no `bench` metadata" in told.out
    assert "acme" in told.out
    assert json.loads(bench("inspect", str(file), "--json").out)["bench"] is None


def test_a_file_cannot_drive_the_terminal(bench: Bench, picture: Path, tmp_path: Path) -> None:
    hostile = "\x1b]0;owned\x07[bold]"
    file = tmp_path / "hostile.onnx"
    file.write_bytes(saying(replace(METADATA, classes=(hostile, "green", "blue"))))

    for command in (["inspect", str(file)], ["predict", str(file), str(picture)]):
        told = bench(*command)
        assert told.code == 0
        assert "\\x1b]0;owned\\x07[bold]" in told.out
        assert "\x1b" not in told.out
