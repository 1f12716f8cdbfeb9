"""Smaller and faster variants of a verified float32 file, each behind a measured gate.

Which pictures decide. The float32 file was trained on every development picture, and the locked
test set must not select anything, so there are no unseen pictures to compare on. What the gate
asks is narrower than "how good is it": does the variant still answer as the float32 file does?
That is a paired comparison, and fair on pictures that both see alike. It is optimistic in one
way, because a network is surer of pictures it was trained on, so fewer of them stand near a
decision boundary; and strict in another, because the float32 file is right on nearly all of them,
so nearly every changed answer counts as a loss.

Three sets of pictures never meet, nor do their groups, because they are made of whole folds:

- the search part (the leading folds): calibration pictures are drawn from it, and the choice
  between calibration methods and of layers that stay in float32 is made on it;
- the comparison part (all other folds): looked at once, by the gate, after that choice;
- the locked test set: scored by an offered variant's file alone, after the gate.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import onnx

from bench.data.unchanged import refuse_changed_pictures
from bench.errors import DataError, one_line
from bench.metrics import balanced_accuracy
from bench.promote.fp16 import to_float16
from bench.promote.int8 import search_int8
from bench.promote.precisions import PRECISIONS, VariantChoice
from bench.promote.promotion import evaluate
from bench.records import (
    ModelRecord,
    Precision,
    Split,
    StudyPlan,
    VariantCheck,
    VariantRecord,
    fingerprint_of,
    from_json,
    to_json,
)
from bench.runtime.cuda import cuda_works
from bench.runtime.metadata import ModelMetadata, Provenance
from bench.runtime.predictor import Predictor
from bench.runtime.preprocess import PictureError, prepare
from bench.runtime.session import Device
from bench.statistics.answers import Answers, Integers, Unit, groups_of
from bench.statistics.comparisons import on_test_pictures
from bench.words import counted
from bench.workspace import Workspace, write_atomic

CALIBRATION_PICTURES = 128
SEARCH_PICTURES = 512
COMPARISON_PICTURES = 2048
_SEED = 0
_BATCH = 32
# Bumped when variants are made in another way, so that old ones are made again.
_FORMAT = 1

Images = npt.NDArray[np.uint8]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureParts:
    """Indices of development pictures by what they are for; see the module's docstring."""

    calibration: tuple[int, ...]
    search: tuple[int, ...]
    comparison: tuple[int, ...]


def make_variants(
    model: ModelRecord, plan: StudyPlan, workspace: Workspace, choice: VariantChoice, say: Say
) -> ModelRecord:
    """Make, judge and test the variants asked for; return the record with all that are there.

    A variant of this very float32 file that is finished, offered or refused, is kept, also where
    it was asked for by an earlier run; one of an earlier float32 file is removed.

    Raises:
        DataError: a picture is gone or no longer the one that the study was begun with.
    """
    wanted = choice.on(cuda=cuda_works()[0])
    file = workspace.root / model.path
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    identity = fingerprint_of((_FORMAT, model.identity, sha256, plan.split.fingerprint))
    source: _Source | None = None
    variants = []
    for precision in PRECISIONS[1:]:
        place = _Place(file, precision)
        finished = place.read(identity)
        same = finished is not None and finished.tolerance_points == choice.tolerance_points
        if precision in wanted and not same:
            place.clear()
            say(f"making {precision} of {model.name}")
            draft = VariantRecord(
                precision=precision,
                path=place.file.relative_to(workspace.root).as_posix(),
                size_bytes=0,
                tolerance_points=choice.tolerance_points,
                identity=identity,
            )
            source = source or _Source.of(file, sha256, plan)
            finished = _make(source, draft, place.file)
            place.finish(finished)
            say(f"{precision} of {model.name}: {_verdict(finished)}")
        if finished is None:
            place.clear()
        else:
            variants.append(finished)
    return replace(model, variants=tuple(variants))


def split_pictures(split: Split, labels: Sequence[int]) -> PictureParts:
    """Share out the development pictures by whole folds, so that no group stands on two sides.

    The search part takes leading folds until it holds enough calibration pictures, and at most
    half of the folds. Of large parts a draw is taken, the classes in turn, with a fixed seed.
    """
    leading = 1
    while (
        leading < len(split.folds) // 2
        and sum(map(len, split.folds[:leading])) < CALIBRATION_PICTURES
    ):
        leading += 1
    search = _draw(_joined(split.folds[:leading]), labels, SEARCH_PICTURES)
    return PictureParts(
        calibration=search[:CALIBRATION_PICTURES],
        search=search,
        comparison=_draw(_joined(split.folds[leading:]), labels, COMPARISON_PICTURES),
    )


def compare(
    source: Path,
    variant: Path,
    batches: Iterator[tuple[Images, Sequence[int]]],
    groups_n: Integers,
    unit: Unit,
    device: Device,
) -> VariantCheck:
    """Run both files on the same pictures.

    Args:
        source: the float32 file, which runs on the CPU.
        variant: the other file.
        batches: (N, S, S, 3) pictures with their N classes.
        groups_n: the group of each picture, in all batches.
        unit: what a group is.
        device: where the variant runs.
    """
    ours, theirs = Predictor(source, device="cpu"), Predictor(variant, device=device)
    expected, actual = [], []
    labels: list[int] = []
    for images_nhwc, batch_labels in batches:
        expected.append(_classes(ours.probabilities(images_nhwc)))
        actual.append(_classes(theirs.probabilities(images_nhwc)))
        labels.extend(batch_labels)
    labels_n, expected_n, actual_n = np.asarray(labels), np.hstack(expected), np.hstack(actual)
    right, still_right = expected_n == labels_n, actual_n == labels_n
    _, class_pictures_k = np.unique(labels_n, return_counts=True)
    mine, before = (
        _answers(labels_n, answered_n, groups_n, unit) for answered_n in (actual_n, expected_n)
    )
    return VariantCheck(
        provider=theirs.provider,
        pictures=len(labels_n),
        top1_agreement=float((expected_n == actual_n).mean()),
        fp32_balanced_accuracy=balanced_accuracy(labels_n, expected_n),
        balanced_accuracy=balanced_accuracy(labels_n, actual_n),
        lost=int((right & ~still_right).sum()),
        gained=int((~right & still_right).sum()),
        class_pictures=tuple(class_pictures_k.tolist()),
        difference=on_test_pictures(mine, before).difference,
    )


def _answers(labels_n: Integers, answered_n: Integers, groups_n: Integers, unit: Unit) -> Answers:
    """Answers without their probabilities; the last column is for those that name no class (-1)."""
    columns = int(max(labels_n.max(), answered_n.max())) + 2
    return Answers.of(labels_n, np.eye(columns)[answered_n], groups_n, unit)


def _classes(probabilities_nk: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """The most probable class of each row; -1 where a row holds no numbers."""
    finite = np.isfinite(probabilities_nk).all(axis=1)
    return np.where(finite, np.nan_to_num(probabilities_nk).argmax(axis=1), -1)


def why_refused(check: VariantCheck, tolerance_points: float) -> str | None:
    """The gate: None lets the variant pass."""
    if -check.difference_points <= tolerance_points:
        return None
    interval = check.interval_points
    sure = f"95 %: {interval[0]:+.2f} to {interval[1]:+.2f}; " if interval else ""
    return (
        f"balanced accuracy on {check.pictures} development pictures falls by "
        f"{-check.difference_points:.2f} points ({sure}{counted(check.lost, 'answer')} lost, "
        f"{check.gained} gained{_worth(check)}, same class on {check.top1_agreement:.1%}); "
        f"allowed are {tolerance_points:g} points"
    )


def _worth(check: VariantCheck) -> str:
    points = check.answer_points
    return "" if points is None else f", one is worth up to {points:.2g} points"


# --- making one -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """A float32 file, and the pictures that its variants are made and judged with."""

    file: Path
    sha256: str
    metadata: ModelMetadata
    plan: StudyPlan
    parts: PictureParts

    @classmethod
    def of(cls, file: Path, sha256: str, plan: StudyPlan) -> _Source:
        """Open a float32 file.

        Raises:
            DataError: pictures are gone or are not those that it was trained on.
        """
        parts = split_pictures(plan.split, plan.dataset.labels)
        refuse_changed_pictures(plan.dataset, (*parts.search, *parts.comparison))
        return cls(
            file=file,
            sha256=sha256,
            metadata=Predictor(file, device="cpu").metadata,
            plan=plan,
            parts=parts,
        )

    def pictures(self, indices: Sequence[int]) -> Iterator[tuple[Images, Sequence[int]]]:
        """Yield batches of pictures, through the file's own preprocessing, with their classes."""
        dataset, geometry = self.plan.dataset, self.metadata.geometry
        for at in range(0, len(indices), _BATCH):
            batch = indices[at : at + _BATCH]
            try:
                images = [prepare(dataset.picture_path(index), geometry) for index in batch]
            except PictureError as error:
                raise DataError(f"{error}: put the picture back, or begin a new study") from error
            yield np.stack(images), [dataset.pictures[index].label for index in batch]


def _make(source: _Source, draft: VariantRecord, target: Path) -> VariantRecord:
    """Convert, compare, and put the file in its place if it passes; complete the draft."""
    started = time.perf_counter()
    device: Device = "cuda" if draft.precision == "fp16" and cuda_works()[0] else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "variant.onnx"
        try:
            record = _convert(source, draft, file)
            comparison = source.parts.comparison
            groups_n, unit = groups_of(source.plan.dataset, comparison)
            check = compare(source.file, file, source.pictures(comparison), groups_n, unit, device)
        except (DataError, OSError):
            raise
        except Exception as error:
            # ONNX Runtime's tools fail on operators they do not know, with any class of error; a
            # variant that cannot be made or run must not keep the float32 file from being shipped.
            reason = f"it could not be made or run: {type(error).__name__}: {one_line(error)}"
            return replace(draft, refused=reason, seconds=time.perf_counter() - started)
        record = replace(
            record,
            check=check,
            size_bytes=file.stat().st_size,
            refused=why_refused(check, draft.tolerance_points),
        )
        if record.offered:
            write_atomic(target, file.read_bytes())
            _, scores = evaluate(target, source.plan, device=device)
            record = replace(record, test=scores)
    return replace(record, seconds=time.perf_counter() - started)


def _convert(source: _Source, draft: VariantRecord, file: Path) -> VariantRecord:
    """Write the variant, which says what it is; the draft learns how it was made."""
    if draft.precision == "fp16":
        record, model = draft, to_float16(source.file)
    else:
        record, model = _quantised(source, draft, file.parent)
    _describe(model, source, record)
    onnx.save(model, file)
    return record


def _quantised(
    source: _Source, draft: VariantRecord, folder: Path
) -> tuple[VariantRecord, onnx.ModelProto]:
    calibration = len(source.parts.calibration)
    images, labels = zip(*source.pictures(source.parts.search), strict=True)
    search_nhwc = np.concatenate(images)
    found = search_int8(
        source.file,
        calibration_nhwc=search_nhwc[:calibration],
        search_nhwc=search_nhwc,
        labels_n=np.concatenate(labels),
        tolerance_points=draft.tolerance_points,
        folder=folder,
    )
    record = replace(
        draft,
        method=found.settings.method,
        calibration_pictures=calibration,
        layers=found.layers,
        float_layers=found.settings.float_layers,
    )
    return record, onnx.load(found.file)


def _describe(model: onnx.ModelProto, source: _Source, record: VariantRecord) -> None:
    """Let the file say what it is; none of the tools' own marks is kept."""
    made: dict[str, Any] = {"from_sha256": source.sha256}
    if record.precision == "int8":
        made |= {
            "form": "static QDQ, activations uint8, weights int8 per channel",
            "calibration": record.method,
            "calibration_pictures": record.calibration_pictures,
            "float_layers": list(record.float_layers),
        }
    own = source.metadata
    # The float32 file's score on the test set is not this one's.
    of_the_source = ("test_balanced_accuracy", "test_pictures")
    kept = {name: value for name, value in own.provenance.items() if name not in of_the_source}
    provenance = cast(Provenance, {**kept, "precision": record.precision, "quantisation": made})
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, replace(own, provenance=provenance).to_props())


def _verdict(variant: VariantRecord) -> str:
    if variant.refused is not None:
        return f"not offered: {variant.refused}"
    assert variant.check is not None
    return (
        f"offered: {variant.check.difference_points:+.2f} points on {variant.check.pictures} "
        f"development pictures ({counted(variant.check.lost, 'answer')} lost, "
        f"{variant.check.gained} gained{_worth(variant.check)}), "
        f"same class on {variant.check.top1_agreement:.1%}"
    )


# --- files ----------------------------------------------------------------------------------


class _Place:
    """Where a variant lies: beside its float32 file, and a record that is written last."""

    def __init__(self, source: Path, precision: Precision) -> None:
        self.file = source.with_name(f"{source.stem}.{precision}.onnx")
        self._mark = source.with_name(f"{source.stem}.{precision}.json")

    def read(self, identity: str) -> VariantRecord | None:
        """The finished variant of this identity; a refused one has no file."""
        try:
            record = from_json(self._mark.read_bytes(), VariantRecord)
        except (OSError, ValueError):
            return None
        if record.identity != identity:
            return None
        if record.refused is not None:
            return record
        whole = self.file.exists() and self.file.stat().st_size == record.size_bytes
        return record if whole else None

    def clear(self) -> None:
        self._mark.unlink(missing_ok=True)  # first: what stands there is no longer finished
        self.file.unlink(missing_ok=True)

    def finish(self, record: VariantRecord) -> None:
        write_atomic(self._mark, to_json(record, indent=2))


def _joined(folds: Sequence[Sequence[int]]) -> list[int]:
    return sorted(index for fold in folds for index in fold)


def _draw(indices: Sequence[int], labels: Sequence[int], most: int) -> tuple[int, ...]:
    """At most `most` of the indices, shuffled, the classes in turn."""
    shuffled = np.random.default_rng(_SEED).permutation(np.asarray(indices)).tolist()
    seen: Counter[int] = Counter()
    turns = []
    for index in shuffled:
        turns.append((seen[labels[index]], index))
        seen[labels[index]] += 1
    in_turn = sorted(turns, key=lambda pair: pair[0])
    return tuple(index for _, index in in_turn[:most])
