from __future__ import annotations

from tests.exported import exported, other_model, pictures_nhwc

__all__ = ["exported", "other_model", "pictures_nhwc"]
