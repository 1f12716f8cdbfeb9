"""Names of backbones, known without importing timm."""

from __future__ import annotations

import pytest
import timm
from timm.models import _registry

from bench.errors import InputError
from bench.models.names import ALIASES, check_backbone_name, timm_names


def test_the_names_read_from_the_sources_are_those_that_timm_registers() -> None:
    assert set(timm.list_models()) <= timm_names()
    assert timm_names() == set(_registry._model_entrypoints)


@pytest.mark.parametrize("name", [*ALIASES, "resnet18", "resnet18.a1_in1k"])
def test_a_known_name_becomes_timms(name: str) -> None:
    assert check_backbone_name(name) == ALIASES.get(name, name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nope", r"unknown backbone 'nope'.*: use one of resnet50, xception"),
        ("resnet5O", r"did you mean `resnet50`"),
        ("efficientnet_light0", r"did you mean `efficientnet_lite0`"),
    ],
)
def test_an_unknown_name_is_refused_with_what_it_may_have_meant(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_backbone_name(name)
