"""Names of backbones, known without torch: importing timm, which asks for it, takes seconds."""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from bench.errors import InputError, did_you_mean

# Short names for the networks that the project is about; any other timm name works as it is.
ALIASES = {
    "resnet50": "resnet50.a1_in1k",
    "xception": "legacy_xception.tf_in1k",
    "efficientnet_lite0": "tf_efficientnet_lite0.in1k",
}

# How timm's sources name what they register: a decorated function, or a table of old names.
_REGISTERED = re.compile(r"^@register_model\s*\n(?:@.*\n)*def (\w+)\(", re.MULTILINE)
_RENAMED = re.compile(r"^register_model_deprecations\(__name__, \{(.*?)^\}\)", re.M | re.S)
_OLD_NAME = re.compile(r"""^\s*['"](\w+)['"]\s*:""", re.MULTILINE)


@cache
def timm_names() -> frozenset[str]:
    """The names of all networks of the installed timm, read from its sources, which are not run."""
    spec = find_spec("timm")
    assert spec is not None and spec.submodule_search_locations is not None  # a dependency
    names: set[str] = set()
    for folder in spec.submodule_search_locations:
        for file in (Path(folder) / "models").rglob("*.py"):
            source = file.read_text("utf-8")
            names.update(_REGISTERED.findall(source))
            for table in _RENAMED.findall(source):
                names.update(_OLD_NAME.findall(table))
    return frozenset(names)


def check_backbone_name(name: str) -> str:
    """Return the timm name of a backbone, `NETWORK` or `NETWORK.WEIGHTS`.

    Raises:
        InputError: timm does not know the network.
    """
    architecture = ALIASES.get(name, name)
    if architecture.partition(".")[0] not in timm_names():
        raise InputError(
            f"unknown backbone {name!r}{did_you_mean(name, [*ALIASES, *sorted(timm_names())])}: "
            f"use one of {', '.join(ALIASES)} or any name that timm.list_models() prints"
        )
    return architecture
