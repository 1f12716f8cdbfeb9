"""`bench`: tune picture classifiers, export them to ONNX, and measure what they do.

Importing this package is light: names are resolved on first use, so that the command line
answers at once and `bench.runtime` works where torch and optuna are not installed. To search from
Python, use `bench.pipeline`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.results import load_study_report
    from bench.runtime.predictor import Prediction, Predictor

__version__ = "0.1.0"

_EXPORTS = {
    "load_study_report": "bench.results",
    "Predictor": "bench.runtime.predictor",
    "Prediction": "bench.runtime.predictor",
}

__all__ = ["Prediction", "Predictor", "__version__", "load_study_report"]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'bench' has no attribute {name!r}")
