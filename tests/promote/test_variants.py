"""Networks made by hand that tell colours, sound or fragile in 8 bits by construction."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from bench.errors import DataError, DeviceError, ModelFileError
from bench.promote import int8, variants
from bench.promote.precisions import VariantChoice
from bench.promote.promotion import evaluate
from bench.promote.variants import PictureParts, make_variants, split_pictures, why_refused
from bench.records import (
    Estimate,
    ModelRecord,
    Recipe,
    Split,
    StudyPlan,
    VariantCheck,
    VariantRecord,
)
from bench.runtime.metadata import ModelMetadata
from bench.runtime.predictor import Predictor
from bench.runtime.preprocess import Geometry
from bench.workspace import Workspace
from tests.graphs import graph_model
from tests.records import variant_check
from tests.tiny import BACKBONE, CLASSES, make_plan, write_pictures

SIZE = 32
TEMPERATURE = 1.25
INT8 = VariantChoice.parse("fp32,int8", 0.5)


def colour_network(file: Path, *, outlier: float, layers: int) -> None:
    """Tell blue, green and red by their means; `layers` convolutions and a matrix product.

    The first convolution has a fourth channel, `outlier` times as large as the colours, which the
    second one ignores. Rounded to 256 steps of the large channel, the colours between the two
    are gone.
    """
    first = np.zeros((4, 3, 1, 1), np.float32)
    first[:3, :, 0, 0] = np.eye(3)
    first[3] = outlier
    second = np.zeros((3, 4, 1, 1), np.float32)
    second[:, :3, 0, 0] = np.eye(3)
    same = np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)
    kernels = [first, second, *[same] * (layers - 2)]
    nodes = [
        helper.make_node("Transpose", ["image"], ["nchw"], "transpose", perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["nchw"], ["float"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["float", "scale"], ["x0"], "normalise"),
    ]
    weights = {"scale": np.float32(1 / 255).reshape(1)}
    for k, kernel in enumerate(kernels):
        weights[f"w{k}"] = kernel
        nodes.append(helper.make_node("Conv", [f"x{k}", f"w{k}"], [f"c{k}"], f"conv{k}"))
        nodes.append(helper.make_node("Relu", [f"c{k}"], [f"x{k + 1}"], f"relu{k}"))
    # Colours come as red, green, blue; classes are blue, green, red.
    weights["head"] = 25 * np.eye(3, dtype=np.float32)[::-1].copy()
    weights["temperature"] = np.asarray(TEMPERATURE, np.float32)
    nodes += [
        helper.make_node("GlobalAveragePool", [f"x{len(kernels)}"], ["pooled"], "pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], "flatten"),
        helper.make_node("MatMul", ["flat", "head"], ["logits"], "head"),
        helper.make_node("Div", ["logits", "temperature"], ["tempered"], "temper"),
        helper.make_node("Softmax", ["tempered"], ["probabilities"], "softmax", axis=1),
    ]
    metadata = ModelMetadata(
        classes=CLASSES,
        geometry=Geometry(image_size=SIZE),
        provenance={"trial": 3},
        temperature=TEMPERATURE,
    )
    model = graph_model(
        nodes,
        inputs={"image": (TensorProto.UINT8, ["batch", SIZE, SIZE, 3])},
        outputs={"probabilities": (TensorProto.FLOAT, ["batch", 3])},
        weights=weights,
        props=metadata.to_props(),
    )
    onnx.checker.check_model(model, full_check=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, file)


@dataclass(frozen=True)
class Place:
    """A study whose one model is a network made by hand."""

    plan: StudyPlan
    workspace: Workspace
    model: ModelRecord

    @property
    def folder(self) -> Path:
        return (self.workspace.root / self.model.path).parent

    @property
    def files(self) -> list[str]:
        return sorted(file.name for file in self.folder.iterdir())

    def make(self, choice: VariantChoice = INT8) -> tuple[VariantRecord, ...]:
        said: list[str] = []
        return make_variants(self.model, self.plan, self.workspace, choice, said.append).variants


MakePlace = Callable[..., Place]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def place(pictures: Path, tmp_path: Path) -> MakePlace:
    def build(*, outlier: float = 1.0, layers: int = 2) -> Place:
        plan = make_plan(pictures, tmp_path)
        file = tmp_path / "tiny" / "models" / "best" / "model.onnx"
        colour_network(file, outlier=outlier, layers=layers)
        predictions, scores = evaluate(file, plan)
        assert scores.balanced_accuracy == 1.0
        model = ModelRecord(
            name="best",
            study="tiny",
            role="best",
            trial=3,
            recipe=Recipe(backbone=BACKBONE),
            architecture="colours",
            weights="made by hand",
            image_size=SIZE,
            path=file.relative_to(tmp_path).as_posix(),
            size_bytes=file.stat().st_size,
            parameters=1,
            opset=20,
            parity=(),
            cv_mean=1.0,
            cv_sd=0.0,
            test=scores,
            predictions=predictions,
            train_curve=(),
            seconds=0.0,
            identity="made by hand",
        )
        return Place(plan, Workspace(tmp_path), model)

    return build


# --- the three outcomes ---------------------------------------------------------------------


def test_a_variant_that_answers_alike_is_offered_with_what_was_measured(place: MakePlace) -> None:
    here = place()

    (variant,) = here.make()

    assert variant.offered
    assert variant.float_layers == ()
    assert variant.layers == 3
    assert variant.method in ("MinMax", "Entropy", "Percentile")
    assert variant.check is not None
    parts = split_pictures(here.plan.split, here.plan.dataset.labels)
    assert variant.check.pictures == len(parts.comparison)
    assert variant.check.provider == "CPUExecutionProvider"
    assert (variant.check.top1_agreement, variant.check.difference_points) == (1.0, 0.0)
    assert variant.test is not None and variant.test.balanced_accuracy == 1.0
    assert here.files == ["model.int8.json", "model.int8.onnx", "model.onnx"]


def test_layers_stay_in_float32_where_that_keeps_the_answers(place: MakePlace) -> None:
    (variant,) = place(outlier=1e4, layers=5).make()

    assert variant.offered
    assert set(variant.float_layers) == {"conv0", "conv1"}
    assert variant.layers == 6


def test_a_variant_that_answers_otherwise_is_refused_and_removed(place: MakePlace) -> None:
    here = place(outlier=1e4, layers=2)

    (variant,) = here.make()

    assert not variant.offered
    assert variant.refused is not None
    assert "development pictures falls by" in variant.refused
    assert "allowed are 0.5 points" in variant.refused
    assert variant.check is not None and variant.check.difference_points < -30
    assert variant.test is None
    assert variant.size_bytes > 0
    assert here.files == ["model.int8.json", "model.onnx"]


@pytest.mark.parametrize("kind", [NotImplementedError, ModelFileError, DeviceError])
def test_a_variant_that_cannot_be_made_or_run_costs_nothing_else(
    place: MakePlace, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise kind("no such operator\nand more")

    monkeypatch.setattr(variants, "search_int8", fails)
    here = place()

    (variant,) = here.make()

    assert variant.refused is not None
    assert f"{kind.__name__}: no such operator and more" in variant.refused
    assert (variant.check, variant.size_bytes) == (None, 0)
    assert here.files == ["model.int8.json", "model.onnx"]


def test_a_calibration_method_that_fails_leaves_the_others(
    place: MakePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(model: Path, **options: Any) -> Any:
        if options["calibrate_method"].name != "Entropy":
            raise ValueError("too many bins for this range")
        return create(model, **options)

    create = int8.create_calibrator
    monkeypatch.setattr(int8, "create_calibrator", failing)

    (variant,) = place().make()

    assert (variant.offered, variant.method) == (True, "Entropy")


def test_a_float16_file_keeps_its_input_and_output_and_is_smaller(place: MakePlace) -> None:
    here = place(layers=40)

    (variant,) = here.make(VariantChoice.parse("fp16", 0.5))

    assert variant.offered, variant.refused
    graph = onnx.load(here.workspace.root / variant.path)
    onnx.checker.check_model(graph, full_check=True)
    kinds = {tensor.data_type for tensor in graph.graph.initializer}
    assert kinds == {TensorProto.FLOAT16}
    Predictor(here.workspace.root / variant.path, device="cpu")  # checks the signature
    assert variant.method == ""


# --- the file -------------------------------------------------------------------------------


def test_the_file_says_what_it_is_and_how_it_was_made(place: MakePlace) -> None:
    here = place(outlier=1e4, layers=5)
    (variant,) = here.make()

    metadata = Predictor(here.workspace.root / variant.path, device="cpu").metadata

    assert metadata.classes == CLASSES
    assert metadata.provenance["trial"] == 3
    assert metadata.temperature == TEMPERATURE
    assert metadata.provenance["precision"] == "int8"
    made = metadata.provenance["quantisation"]
    assert made["calibration"] == variant.method
    assert made["calibration_pictures"] == variant.calibration_pictures > 0
    assert made["float_layers"] == list(variant.float_layers)
    assert len(made["from_sha256"]) == 64


def test_an_int8_file_divides_by_the_same_temperature_unrounded(place: MakePlace) -> None:
    here = place()
    (variant,) = here.make()

    graph = onnx.load(here.workspace.root / variant.path).graph

    (softmax,) = (node for node in graph.node if node.op_type == "Softmax")
    (division,) = (node for node in graph.node if softmax.input[0] in node.output)
    (divisor,) = (t for t in graph.initializer if t.name == division.input[1])
    assert division.op_type == "Div"
    assert numpy_helper.to_array(divisor) == TEMPERATURE


def test_weights_are_signed_per_channel_and_activations_unsigned(place: MakePlace) -> None:
    here = place()
    (variant,) = here.make()

    graph = onnx.load(here.workspace.root / variant.path).graph

    stored = {tensor.name: tensor for tensor in graph.initializer}
    kinds = {name: tensor.data_type for name, tensor in stored.items()}
    rounded = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    assert rounded
    assert {kinds[node.input[2]] for node in rounded} == {TensorProto.UINT8}
    assert kinds["w0_quantized"] == TensorProto.INT8
    assert list(stored["w0_scale"].dims) == [4]
    (softmax,) = (node for node in graph.node if node.op_type == "Softmax")
    assert softmax.output == ["probabilities"]
    (normalise,) = (node for node in graph.node if node.op_type == "Mul")
    assert normalise.input[0] == "float"


# --- which pictures -------------------------------------------------------------------------


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every picture that is opened to make or judge a variant, in order."""
    seen: list[Path] = []

    def watching(source: Path, geometry: Geometry) -> npt.NDArray[np.uint8]:
        seen.append(source)
        return prepare(source, geometry)

    prepare = variants.prepare
    monkeypatch.setattr(variants, "prepare", watching)
    return seen


def test_a_variant_is_made_and_judged_without_opening_a_test_picture(
    place: MakePlace, opened: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(*_: Any, **__: Any) -> None:
        raise AssertionError("the test set was opened for a variant that is refused")

    here = place(outlier=1e4, layers=2)
    monkeypatch.setattr(variants, "evaluate", locked)

    here.make()

    test = {here.plan.dataset.picture_path(index) for index in here.plan.split.test}
    assert opened
    assert not test & set(opened)


def test_calibration_sees_the_search_part_and_nothing_else(
    place: MakePlace, opened: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def watching(*arguments: Any, **options: Any) -> Any:
        calibrated.append((list(opened), options["calibration_nhwc"]))
        return search(*arguments, **options)

    calibrated: list[tuple[list[Path], npt.NDArray[np.uint8]]] = []
    search = variants.search_int8
    monkeypatch.setattr(variants, "search_int8", watching)
    here = place()

    here.make()

    ((before, images),) = calibrated
    plan = here.plan
    parts = split_pictures(plan.split, plan.dataset.labels)
    assert before == [plan.dataset.picture_path(index) for index in parts.search]
    assert len(images) == len(parts.calibration)
    after = opened[len(before) :]
    assert after == [plan.dataset.picture_path(index) for index in parts.comparison]


def numbered(sizes: Sequence[int]) -> Split:
    """Folds of these sizes, numbered through, behind a test picture."""
    start, folds = 1, []
    for size in sizes:
        folds.append(tuple(range(start, start + size)))
        start += size
    return Split(dataset_fingerprint="", seed=0, test=(0,), folds=tuple(folds))


@pytest.mark.parametrize(
    ("sizes", "searched"),
    [
        ((20, 20), 1),
        ((20, 20, 20), 1),  # never more than half of the folds
        ((20, 20, 20, 20, 20), 2),
        ((200, 200, 200, 200, 200), 1),  # one is enough for calibration
        ((100, 100, 100, 100, 100), 2),
    ],
)
def test_pictures_are_shared_out_by_whole_folds(sizes: tuple[int, ...], searched: int) -> None:
    split = numbered(sizes)

    parts = split_pictures(split, [0] * (sum(sizes) + 1))

    leading = {index for fold in split.folds[:searched] for index in fold}
    others = {index for fold in split.folds[searched:] for index in fold}
    assert set(parts.search) == leading
    assert set(parts.calibration) == set(parts.search[: variants.CALIBRATION_PICTURES])
    assert set(parts.comparison) == others


def test_a_draw_takes_the_classes_in_turn_and_the_same_ones_each_time() -> None:
    split = numbered((3000, 3000))
    labels = [0] + [0, 1, 1, 1] * 1500

    parts = split_pictures(split, labels)

    assert isinstance(parts, PictureParts)
    assert len(parts.calibration) == variants.CALIBRATION_PICTURES
    assert sum(labels[index] for index in parts.calibration) == len(parts.calibration) / 2
    assert len(parts.search) == variants.SEARCH_PICTURES
    assert len(parts.comparison) == variants.COMPARISON_PICTURES
    assert parts == split_pictures(split, labels)


@pytest.mark.parametrize("fault", ["cannot be read", "has changed"])
def test_nothing_is_made_with_other_pictures_than_the_study_was_begun_with(
    place: MakePlace, tmp_path: Path, fault: str
) -> None:
    here = place()
    root = shutil.copytree(here.plan.dataset.root, tmp_path / "copied")
    plan = replace(here.plan, dataset=replace(here.plan.dataset, root=str(root)))
    (compared, *_) = split_pictures(plan.split, plan.dataset.labels).comparison
    picture = plan.dataset.picture_path(compared)
    picture.unlink()
    if fault == "has changed":
        Image.new("RGB", (48, 48)).save(picture)

    with pytest.raises(DataError, match=f"{fault}.*put the old pictures back"):
        replace(here, plan=plan).make()


def test_a_picture_that_is_gone_in_between_is_told_as_such(
    place: MakePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = place()
    dataset = replace(here.plan.dataset, root=str(here.folder))
    monkeypatch.setattr(variants, "refuse_changed_pictures", lambda *_: None)

    with pytest.raises(DataError, match="put the picture back"):
        replace(here, plan=replace(here.plan, dataset=dataset)).make()


# --- the gate -------------------------------------------------------------------------------


def check(fp32: float, variant: float) -> VariantCheck:
    return variant_check(
        fp32_balanced_accuracy=fp32, balanced_accuracy=variant, pictures=1000, lost=60, gained=40,
        top1_agreement=0.9,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("fp32", "variant", "tolerance", "passes"),
    [
        (0.9, 0.9, 0.0, True),
        (0.9, 0.95, 0.0, True),
        (0.75, 0.5, 25.0, True),
        (0.9, 0.896, 0.5, True),
        (0.9, 0.894, 0.5, False),
        (0.9, 0.899, 0.0, False),
    ],
)
def test_the_gate_compares_points_of_balanced_accuracy(
    fp32: float, variant: float, tolerance: float, passes: bool
) -> None:
    assert (why_refused(check(fp32, variant), tolerance) is None) == passes


def test_a_refusal_gives_the_figures() -> None:
    told = why_refused(check(0.9, 0.88), 0.5)

    assert told is not None
    for figure in ("1000 development pictures", "2.00 points", "60", "40", "90.0%", "0.5 points"):
        assert figure in told
    assert "worth" not in told  # a record of before classes were counted


@pytest.mark.parametrize(("lost", "said"), [(1, "1 answer lost"), (2, "2 answers lost")])
def test_a_number_of_answers_agrees_with_its_noun(lost: int, said: str) -> None:
    assert f"({said}, " in (why_refused(replace(check(0.9, 0.88), lost=lost), 0.5) or "")


def test_a_refusal_says_how_sure_it_is_and_what_one_answer_is_worth() -> None:
    difference = Estimate(value=-0.02, interval=(-0.051, 0.011))
    told = why_refused(
        replace(check(0.9, 0.88), class_pictures=(100, 40, 860), difference=difference), 0.5
    )

    assert told is not None
    assert "95 %: -5.10 to +1.10" in told
    assert "one is worth up to 0.83 points" in told


class Fixed:
    """Stands for an opened file: its answers are given."""

    provider = "test"

    def __init__(self, rows: Sequence[Sequence[float]]) -> None:
        self._rows = np.asarray(rows, np.float32)

    def probabilities(self, _: object) -> npt.NDArray[np.float32]:
        return self._rows


def test_a_comparison_counts_answers_lost_and_gained_and_rows_without_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fp32 = [[0.9, 0.1], [0.9, 0.1], [0.2, 0.8], [0.7, 0.3]]
    other = [[0.8, 0.2], [np.nan, np.nan], [0.6, 0.4], [0.1, 0.9]]
    files = {"fp32": Fixed(fp32), "other": Fixed(other)}
    monkeypatch.setattr(variants, "Predictor", lambda file, device: files[str(file)])

    def batches() -> Iterator[tuple[npt.NDArray[np.uint8], Sequence[int]]]:
        yield np.zeros((4, 1, 1, 3), np.uint8), [0, 0, 1, 1]

    groups_n = np.arange(4)
    found = variants.compare(Path("fp32"), Path("other"), batches(), groups_n, "pictures", "cpu")

    assert (found.lost, found.gained, found.pictures) == (2, 1, 4)
    assert found.top1_agreement == 0.25
    assert found.fp32_balanced_accuracy == 0.75
    assert found.balanced_accuracy == 0.5
    assert (found.class_pictures, found.answer_points) == ((2, 2), 25.0)
    assert found.difference is not None
    assert found.difference.value == pytest.approx(-0.25)


# --- once and no more -----------------------------------------------------------------------


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A line for each variant that is made."""
    lines: list[str] = []

    def watching(source: Any, draft: VariantRecord, target: Path) -> VariantRecord:
        lines.append(draft.precision)
        return make(source, draft, target)

    make = variants._make
    monkeypatch.setattr(variants, "_make", watching)
    return lines


@pytest.mark.parametrize("outlier", [1.0, 1e4], ids=["offered", "refused"])
def test_a_finished_variant_is_not_made_again(
    place: MakePlace, made: list[str], outlier: float
) -> None:
    here = place(outlier=outlier)

    first, again = here.make(), here.make()

    assert made == ["int8"]
    assert first == again


@pytest.mark.parametrize("change", ["tolerance", "training", "float32 file", "damage", "removal"])
def test_a_variant_of_something_else_is_made_again(
    place: MakePlace, made: list[str], change: str
) -> None:
    here, choice = place(), INT8
    here.make()
    file = here.folder / "model.int8.onnx"
    if change == "tolerance":
        choice = VariantChoice.parse("fp32,int8", 1.0)
    elif change == "training":
        here = replace(here, model=replace(here.model, identity="another"))
    elif change == "float32 file":
        colour_network(here.folder / "model.onnx", outlier=2.0, layers=2)
    elif change == "damage":
        file.write_bytes(file.read_bytes()[:-1])
    else:
        file.unlink()

    (variant,) = here.make(choice)

    assert made == ["int8", "int8"]
    assert variant.offered


def test_what_an_earlier_run_asked_for_stays_while_its_float32_file_does(
    place: MakePlace,
) -> None:
    here, nothing_more = place(), VariantChoice.parse("fp32", 0.5)
    first = here.make()

    assert here.make(nothing_more) == first

    colour_network(here.folder / "model.onnx", outlier=2.0, layers=2)
    assert here.make(nothing_more) == ()
    assert here.files == ["model.onnx"]


@pytest.mark.parametrize("killed_in", ["search_int8", "compare", "evaluate"])
def test_a_run_that_is_killed_leaves_nothing_that_counts_as_finished(
    place: MakePlace, monkeypatch: pytest.MonkeyPatch, killed_in: str
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    here = place()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(variants, killed_in, killed)
        here.make()

    assert "model.int8.json" not in here.files
    assert here.make(VariantChoice.parse("fp32", 0.5)) == ()
    assert here.files == ["model.onnx"]
    assert here.make()[0].offered
