"""The runtime where nothing but onnxruntime, numpy and Pillow is installed."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import subprocess
import venv
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import torch
from PIL import Image

from bench.models.backbones import describe_backbone
from bench.models.export import ServingModel, export
from bench.models.staged import StagedModel, build_model
from bench.records import WeightSource
from bench.runtime.metadata import ModelMetadata
from bench.runtime.predictor import Predictor, find_pictures
from bench.runtime.preprocess import prepare
from tests.tiny import BACKBONE, CLASSES, coloured_noise, write_pictures

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
# The versions of this environment: another Pillow may resize otherwise.
PACKAGES = [
    f"onnxruntime=={onnxruntime.__version__}",
    f"numpy=={np.__version__}",
    f"pillow=={importlib.metadata.version('pillow')}",
]

# What a user's program does; it prints the probabilities of each way of asking.
PROGRAM = """
import json, sys
from pathlib import Path
import numpy as np
from PIL import Image
import bench
from bench import Predictor

model, folder = sys.argv[1:]
predictor = Predictor(model, threads=1)
files = sorted(Path(folder).rglob("*.png"))
ways = {
    "a folder": predictor.predict(folder),
    "files": predictor.predict([str(file) for file in files]),
    "files one by one": [p for file in files for p in predictor.predict(file)],
    "bytes": predictor.predict([file.read_bytes() for file in files], batch_size=1),
    "arrays": predictor.predict([np.asarray(Image.open(file)) for file in files], batch_size=7),
    "pictures": predictor.predict(map(Image.open, files)),
}
unwanted = {"torch", "timm", "optuna", "msgspec", "onnx", "typer", "rich", "scipy", "sklearn"}
print(json.dumps({
    "answers": {way: [list(p.probabilities.values()) for p in ps] for way, ps in ways.items()},
    "loaded": sorted(unwanted & set(sys.modules)),
    "typed": (Path(bench.__file__).parent / "py.typed").exists(),
    "place": bench.__file__,
}))
"""


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment with the runtime's packages and the project.

    Called with -I, so that a PYTHONPATH of these tests does not reach into it.
    """
    folder = tmp_path_factory.mktemp("torch-free")
    venv.create(folder / "env", with_pip=True, symlinks=True)
    python = folder / "env" / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*pip, *PACKAGES], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"the packages cannot be installed: {done.stderr.strip()[-300:]}")
    subprocess.run([*pip, "setuptools>=77"], capture_output=True, check=True)
    run(*pip, "--no-deps", "--no-build-isolation", source_tree(folder / "source"), cwd=folder)
    return python


def source_tree(target: Path) -> Path:
    """A copy of what is installed: a build leaves files beside its sources."""
    for package in ("bench", "reports", "search_spaces"):
        shutil.copytree(
            ROOT / package, target / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("cli.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, target)
    return target


@pytest.fixture(scope="module")
def model() -> StagedModel:
    spec = describe_backbone(BACKBONE)
    source = WeightSource(kind="random")
    model = build_model(spec, source, classes=len(CLASSES), image_size=32, seed=0).eval()
    # Far apart answers: a fresh network's, all nearly alike, would agree with any other's.
    images_nhwc, _ = coloured_noise(each=4, side=32)
    with torch.no_grad():
        logits_nk = model(torch.from_numpy(images_nhwc).permute(0, 3, 1, 2).float())
        factor_k = 2 / logits_nk.std(dim=0)
        head = model.classifier
        assert isinstance(head, torch.nn.Linear)
        head.weight.mul_(factor_k[:, None])
        head.bias.copy_((head.bias - logits_nk.mean(dim=0)) * factor_k)
    return model


def test_it_predicts_as_the_training_environment_does(
    python: Path, model: StagedModel, tmp_path: Path
) -> None:
    geometry = model.spec.geometry(image_size=32, crop=(2, 2, 38, 36), resize="center-crop")
    file, pictures = tmp_path / "model.onnx", write_pictures(tmp_path / "pictures")
    export(ServingModel(model), ModelMetadata(classes=CLASSES, geometry=geometry), file)
    files = find_pictures(pictures)
    images_nhwc = np.stack([prepare(picture, geometry) for picture in files])
    here = [list(p.probabilities.values()) for p in Predictor(file, device="cpu").predict(files)]

    told = json.loads(run(python, "-I", "-c", PROGRAM, file, pictures, cwd=tmp_path))

    assert str(python.parents[1]) in told["place"]
    assert (told["loaded"], told["typed"]) == ([], True)
    assert len(told["answers"]) == 6
    for way, rows in told["answers"].items():
        assert_same(np.asarray(rows), np.asarray(here), way)
        assert_same(
            np.asarray(rows), model.probabilities(torch.from_numpy(images_nhwc)).numpy(), way
        )


def assert_same(
    actual_nk: npt.NDArray[np.float64], expected_nk: npt.NDArray[np.floating], way: str
) -> None:
    assert actual_nk.shape == expected_nk.shape, way
    assert len(set(expected_nk.argmax(axis=1))) > 1
    np.testing.assert_array_equal(actual_nk.argmax(axis=1), expected_nk.argmax(axis=1), way)
    np.testing.assert_allclose(actual_nk, expected_nk, rtol=0, atol=1e-5, err_msg=way)


def test_a_picture_that_cannot_be_used_is_told_there_too(python: Path, tmp_path: Path) -> None:
    """The runtime's errors need no more than its answers do."""
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    code = "from bench import Predictor; Predictor('a.png')"
    done = subprocess.run(
        [python, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "ModelFileError: a.png is damaged or not an ONNX model" in done.stderr


def test_the_command_says_in_one_line_what_it_lacks(python: Path, tmp_path: Path) -> None:
    told = subprocess.run(
        [python.with_name("bench"), "--help"], capture_output=True, text=True, cwd=tmp_path
    )

    assert told.returncode == 1
    assert told.stderr.startswith("error: the commands need all of bench: ")
    assert len(told.stderr.splitlines()) == 1
