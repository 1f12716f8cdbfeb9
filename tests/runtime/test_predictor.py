import io
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto
from PIL import Image

from bench.errors import DataError, InputError, ModelFileError
from bench.runtime.predictor import Prediction, Predictor, find_pictures
from bench.runtime.preprocess import Geometry

COLOURS = {"red": (200, 10, 10), "green": (10, 200, 10), "blue": (10, 10, 200)}


def picture(colour: str, size: tuple[int, int] = (20, 12)) -> Image.Image:
    return Image.new("RGB", size, COLOURS[colour])


def png(colour: str) -> bytes:
    buffer = io.BytesIO()
    picture(colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def predictor(make_model):
    return Predictor(make_model(), device="cpu", threads=1)


def test_a_predictor_tells_what_it_is(predictor, metadata):
    assert predictor.classes == ("red", "green", "blue")
    assert predictor.metadata == metadata
    assert (predictor.device, predictor.provider) == ("cpu", "CPUExecutionProvider")


def test_every_kind_of_source_gives_the_same_answer(predictor, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png("green"))
    sources = [path, str(path), png("green"), picture("green"), np.asarray(picture("green"))]
    predictions = predictor.predict(sources)
    assert [p.label for p in predictions] == ["green"] * 5
    assert len({tuple(p.probabilities.values()) for p in predictions}) == 1
    assert [p.source for p in predictions] == [str(path), str(path), None, None, None]
    for source in sources:
        assert [p.label for p in predictor.predict(source)] == ["green"]


def test_a_stack_of_arrays_is_many_pictures(predictor):
    stack_nhwc = np.stack([np.asarray(picture(colour)) for colour in COLOURS])
    assert [p.label for p in predictor.predict(stack_nhwc)] == list(COLOURS)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 100])
def test_order_and_answers_do_not_depend_on_the_batch_size(predictor, batch_size):
    colours = ["red", "blue", "green", "green", "red", "blue", "blue"]
    predictions = predictor.predict(map(picture, colours), batch_size=batch_size)
    assert [p.label for p in predictions] == colours


def test_one_broken_picture_does_not_cost_the_others(predictor, tmp_path):
    files = [tmp_path / name for name in ("a.png", "broken.png", "b.png")]
    for file, data in zip(files, (png("red"), b"not a picture", png("blue")), strict=True):
        file.write_bytes(data)

    predictions, broken = predictor.predict_readable(files)

    assert [(p.source, p.label) for p in predictions] == [
        (str(files[0]), "red"),
        (str(files[2]), "blue"),
    ]
    assert [str(files[1]) in str(error) for error in broken] == [True]
    assert predictor.predict_readable(files[:1]) == (predictions[:1], ())


def test_no_pictures_no_predictions(predictor):
    assert predictor.predict([]) == []
    assert predictor.probabilities(np.empty((0, 8, 8, 3), np.uint8)).shape == (0, 3)


def test_probabilities_are_the_softmax_of_the_graph(predictor):
    images_nhwc = np.zeros((2, 8, 8, 3), np.uint8)
    images_nhwc[1, ..., 2] = 64
    e = np.e
    expected = [[1 / 3, 1 / 3, 1 / 3], [1 / (2 + e), 1 / (2 + e), e / (2 + e)]]
    np.testing.assert_allclose(predictor.probabilities(images_nhwc), expected, rtol=1e-6)


def test_top_ranks_the_classes():
    prediction = Prediction(
        source=None, label="b", probability=0.6, probabilities={"a": 0.1, "b": 0.6, "c": 0.3}
    )
    assert prediction.top(2) == (("b", 0.6), ("c", 0.3))
    assert len(prediction.top(10)) == 3


@pytest.mark.parametrize(
    "images",
    [np.zeros((1, 8, 8, 3), np.float32), np.zeros((1, 9, 8, 3), np.uint8), np.zeros(3, np.uint8)],
)
def test_unprepared_arrays_are_refused(predictor, images):
    with pytest.raises(DataError, match="prepared pictures must be uint8"):
        predictor.probabilities(images)


def test_a_picture_that_cannot_be_used_is_named(make_model, metadata, tmp_path):
    cropping = replace(metadata, geometry=Geometry(image_size=8, crop=(0, 0, 50, 50)))
    predictor = Predictor(make_model(props=cropping.to_props()), device="cpu", threads=1)
    small, broken = tmp_path / "small.png", tmp_path / "broken.png"
    small.write_bytes(png("red"))
    broken.write_bytes(png("red")[:40])
    for path, message in [(small, "the crop box"), (broken, "not a picture")]:
        with pytest.raises(DataError, match=message) as caught:
            predictor.predict(path)
        assert str(caught.value).startswith(f"{path}: {message[:3]}")


def test_a_folder_stands_for_the_pictures_below_it(predictor, tmp_path):
    for name in ("b/green.png", "a/red.png"):
        (tmp_path / "pictures" / name).parent.mkdir(parents=True)
        (tmp_path / "pictures" / name).write_bytes(png(name[2:-4]))
    for folder in (tmp_path / "pictures", str(tmp_path / "pictures")):
        predictions = predictor.predict([picture("blue"), folder])
        assert [p.label for p in predictions] == ["blue", "red", "green"]
        assert [p.source for p in predictor.predict(folder)] == [
            str(tmp_path / "pictures/a/red.png"),
            str(tmp_path / "pictures/b/green.png"),
        ]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no picture"):
        predictor.predict(tmp_path / "empty")


@pytest.mark.parametrize("batch_size", [0, -3])
def test_a_batch_holds_at_least_one_picture(predictor, batch_size):
    with pytest.raises(InputError, match=f"at least one picture, not {batch_size}"):
        predictor.predict(picture("red"), batch_size=batch_size)


def test_threads_that_share_a_predictor_get_what_one_thread_gets(predictor):
    """Pictures, batch sizes and kinds of source differ from call to call, at the same time."""
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (3 + n, 9, 3), dtype=np.uint8) for n in range(24)]

    def answers(first: int) -> list[Prediction]:
        mixed = [Image.fromarray(p) if first % 2 else p for p in pictures[first:]]
        return predictor.predict(mixed, batch_size=1 + first % 5)

    alone = [answers(first) for first in range(24)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(answers, [*range(24)] * 10))
    assert together == alone * 10


def test_a_network_that_fails_to_run_is_told_without_a_traceback(predictor, monkeypatch):
    class Failing:
        """As a session does that runs out of the GPU's memory."""

        def run(self, *_: object) -> None:
            raise RuntimeError("[ONNXRuntimeError] : 6 :\nout of memory")

    monkeypatch.setattr(predictor, "_opened", replace(predictor._opened, session=Failing()))
    with pytest.raises(
        ModelFileError, match=r"model\.onnx failed to run on CPU.* with a batch of 1 "
    ):
        predictor.predict(picture("red"))


@pytest.mark.parametrize(
    "how",
    [
        {"dtype": TensorProto.FLOAT},
        {"shape": ("batch", 9, 9, 3)},
        {"shape": ("batch", "height", "width", 3)},
        {"shape": (4, 8, 8, 3)},
    ],
)
def test_a_graph_that_contradicts_its_metadata_is_refused(make_model, metadata, how):
    with pytest.raises(ModelFileError, match="its metadata promises"):
        Predictor(make_model(props=metadata.to_props(), **how), device="cpu")


def test_a_model_without_metadata_is_refused(make_model):
    with pytest.raises(ModelFileError, match="bench promote"):
        Predictor(make_model(props={}), device="cpu")


def test_folders_give_their_pictures_sorted(tmp_path):
    for name in ["b/2.PNG", "b/1.jpg", "a.tiff", "b/notes.txt", "b/._1.jpg", "c.jpg/x.webp"]:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    found = [path.relative_to(tmp_path).as_posix() for path in find_pictures(tmp_path)]
    assert found == ["a.tiff", "b/1.jpg", "b/2.PNG", "c.jpg/x.webp"]
    assert find_pictures(tmp_path / "b/notes.txt") == [tmp_path / "b/notes.txt"]


def test_a_folder_without_pictures_is_an_error(tmp_path):
    with pytest.raises(DataError, match="holds no picture"):
        find_pictures(tmp_path)
    with pytest.raises(DataError, match="no such file or folder"):
        find_pictures(tmp_path / "absent")


def test_the_runtime_imports_nothing_but_numpy_pillow_and_onnxruntime(make_model):
    code = (
        "import sys; from bench import Predictor; import bench.runtime.measure; "
        "Predictor(sys.argv[1], device='cpu'); "
        "heavy = {'torch', 'timm', 'optuna', 'msgspec', 'onnx', 'typer', 'rich', 'scipy'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    child = subprocess.run(
        [sys.executable, "-c", code, str(make_model())], capture_output=True, text=True, check=True
    )
    assert (child.stdout.strip(), child.stderr) == ("[]", "")
