"""Classify pictures with a shipped ONNX file, which needs nothing beside itself.

    predictor = Predictor("model.onnx")
    for prediction in predictor.predict(["a.png", "b.jpg"]):
        print(prediction.source, prediction.label, prediction.probability)

Shapes: N pictures, H and W pixels, C classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from bench.errors import DataError, InputError, ModelFileError, one_line
from bench.runtime.metadata import REMEDY, ModelMetadata
from bench.runtime.preprocess import SUFFIXES, PictureError, PictureSource, prepare
from bench.runtime.session import Device, OpenedSession, open_session, resolve_device

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What the model says of one picture.

    source: the file's path, or None where the picture was given as bytes, image or array.
    probabilities: by class, in the model's order of classes.
    """

    source: str | None
    label: str
    probability: float
    probabilities: dict[str, float]

    def top(self, k: int) -> tuple[tuple[str, float], ...]:
        """The `k` most probable classes with their probabilities, most probable first."""
        ranked = sorted(self.probabilities.items(), key=lambda pair: pair[1], reverse=True)
        return tuple(ranked[:k])


class Predictor:
    """A model file, opened once, that classifies pictures.

    Threads may share a predictor: ONNX Runtime's `run` is thread-safe, and nothing here changes
    after construction. Memory is bounded by the batch size, however many pictures there are.

    device: "auto" takes CUDA where it really works, otherwise the CPU.
    threads: intra-operator threads; None takes one for each physical core.

    Raises:
        ModelFileError: the file cannot be used, or was not exported by `bench`.
        DeviceError: "cuda" was asked for and does not work here.
    """

    def __init__(
        self,
        model_path: str | Path,
        *,
        device: Literal["auto"] | Device = "auto",
        threads: int | None = None,
    ) -> None:
        self._take(
            open_session(model_path, device=resolve_device(device), threads=threads), model_path
        )

    @classmethod
    def from_session(cls, opened: OpenedSession, model_path: str | Path) -> Predictor:
        """Predict through a session that is open already, with options of its own.

        Raises:
            ModelFileError: the file was not exported by `bench`.
        """
        predictor = cls.__new__(cls)
        predictor._take(opened, model_path)
        return predictor

    def _take(self, opened: OpenedSession, model_path: str | Path) -> None:
        if opened.metadata is None:
            raise ModelFileError(
                f"{model_path} carries no `bench` metadata, so its classes and picture geometry "
                f"are unknown: {REMEDY} (`bench inspect` shows what the file holds)"
            )
        self._opened = opened
        self._path = model_path
        self._metadata = opened.metadata

    @property
    def metadata(self) -> ModelMetadata:
        return self._metadata

    @property
    def classes(self) -> tuple[str, ...]:
        return self._metadata.classes

    @property
    def device(self) -> Device:
        return self._opened.device

    @property
    def provider(self) -> str:
        """The execution provider that was proved to run the network."""
        return self._opened.provider

    def predict(
        self, sources: PictureSource | Iterable[PictureSource], *, batch_size: int = 32
    ) -> list[Prediction]:
        """Classify one picture or many, in their order.

        sources: paths, encoded bytes, Pillow images, or uint8 arrays of shape (H, W, 3) or
            (H, W), of any size; or an iterable of these, or a stack of arrays (N, H, W, 3). The
            path of a folder stands for all pictures below it (see `find_pictures`), so there can
            be more predictions than sources; `Prediction.source` tells them apart.
        batch_size: how many pictures are decoded, held and run at a time.

        Raises:
            DataError: a picture cannot be decoded or does not fit the model's geometry, or a
                folder holds none.
            ModelFileError: the network fails to run.
            InputError: `batch_size` is below 1.
        """
        if batch_size < 1:
            raise InputError(f"a batch holds at least one picture, not {batch_size}")
        predictions: list[Prediction] = []
        for batch in _batches(_each(sources), batch_size):
            images_nhwc = np.stack([self._prepare(source) for source in batch])
            for source, row in zip(batch, self.probabilities(images_nhwc), strict=True):
                predictions.append(self._prediction(source, row))
        return predictions

    def predict_readable(
        self, files: Sequence[str | Path]
    ) -> tuple[list[Prediction], tuple[DataError, ...]]:
        """Classify the files that can be read; return what is wrong with the others beside it.

        Raises:
            ModelFileError: the network fails to run.
        """
        try:
            return self.predict(files), ()
        except DataError:
            pass  # one of a batch is broken, which must not cost the others
        predictions: list[Prediction] = []
        broken: list[DataError] = []
        for file in files:
            try:
                predictions += self.predict(file)
            except DataError as error:
                broken.append(error)
        return predictions, tuple(broken)

    def probabilities(self, images_nhwc: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Run the network on prepared pictures: (N, H, W, 3) uint8 -> (N, C) float32.

        Raises:
            DataError: the array is not uint8, or not of the model's size.
            ModelFileError: the network fails to run.
        """
        size = self._metadata.geometry.image_size
        if images_nhwc.dtype != np.uint8 or images_nhwc.shape[1:] != (size, size, 3):
            raise DataError(
                f"prepared pictures must be uint8 of shape (N, {size}, {size}, 3), these are "
                f"{images_nhwc.dtype} of {images_nhwc.shape}: pass pictures to `predict`, or "
                "through `bench.runtime.preprocess.prepare`"
            )
        if len(images_nhwc) == 0:
            return np.empty((0, len(self.classes)), np.float32)
        output: npt.NDArray[np.float32]
        try:
            (output,) = self._opened.session.run(["probabilities"], {"image": images_nhwc})
        except Exception as error:  # ONNX Runtime's errors share no base but Exception
            raise ModelFileError(
                f"{self._path} failed to run on {self.provider} with a batch of "
                f"{len(images_nhwc)} ({one_line(error)}): try a smaller batch size, or {REMEDY}"
            ) from error
        return output

    def _prepare(self, source: PictureSource) -> npt.NDArray[np.uint8]:
        try:
            return prepare(source, self._metadata.geometry)
        except PictureError as error:
            name = _name_of(source)
            where = f"{name}: " if name is not None and name not in str(error) else ""
            raise DataError(f"{where}{error}") from error

    def _prediction(self, source: PictureSource, row_c: npt.NDArray[np.float32]) -> Prediction:
        best = int(row_c.argmax())
        return Prediction(
            source=_name_of(source),
            label=self.classes[best],
            probability=float(row_c[best]),
            probabilities=dict(zip(self.classes, row_c.tolist(), strict=True)),
        )


def find_pictures(path: str | Path) -> list[Path]:
    """A file as itself, a folder as all pictures below it, sorted; hidden files are left out.

    Raises:
        DataError: the path does not exist, or the folder holds no picture.
    """
    root = Path(path)
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise DataError(f"no such file or folder: {root}")
    found = sorted(
        file
        for file in root.rglob("*")
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
    )
    if not found:
        raise DataError(f"{root} holds no picture (looked for {', '.join(sorted(SUFFIXES))})")
    return found


def _each(sources: PictureSource | Iterable[PictureSource]) -> Iterator[PictureSource]:
    """One picture after the other, folders opened up."""
    if isinstance(sources, np.ndarray):
        sources = sources if sources.ndim > 3 else (sources,)
    elif isinstance(sources, str | Path | bytes | Image.Image):
        sources = (sources,)
    for source in sources:
        if isinstance(source, str | Path) and Path(source).is_dir():
            yield from find_pictures(source)
        else:
            yield source


def _batches(items: Iterable[T], size: int) -> Iterator[Sequence[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _name_of(source: PictureSource) -> str | None:
    return str(source) if isinstance(source, str | Path) else None
