from __future__ import annotations

import pytest

from bench.errors import InputError
from bench.models.backbones import BackboneSpec, describe_backbone
from bench.models.names import ALIASES

HALF = (0.5, 0.5, 0.5)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@pytest.mark.parametrize(
    ("name", "architecture", "image_size", "mean", "std"),
    [
        ("resnet50", "resnet50.a1_in1k", 224, IMAGENET_MEAN, IMAGENET_STD),
        ("xception", "legacy_xception.tf_in1k", 299, HALF, HALF),
        ("efficientnet_lite0", "tf_efficientnet_lite0.in1k", 224, HALF, HALF),
    ],
)
def test_a_short_name_stands_for_published_weights_with_their_own_normalisation(
    name: str, architecture: str, image_size: int, mean: object, std: object
) -> None:
    spec = describe_backbone(name)

    assert (spec.name, spec.architecture) == (name, architecture)
    assert (spec.image_size, spec.mean, spec.std) == (image_size, mean, std)


@pytest.mark.parametrize("name", ["test_resnet", "test_resnet.r160_in1k"])
def test_any_timm_name_works_with_and_without_its_tag(name: str) -> None:
    assert describe_backbone(name).image_size == 160


@pytest.mark.parametrize("name", [*ALIASES, "test_vit", "test_convnext"])
def test_the_interpolation_is_one_that_the_runtime_knows(name: str) -> None:
    assert describe_backbone(name).interpolation in ("bilinear", "bicubic")


@pytest.mark.parametrize(
    ("name", "fragments"),
    [
        ("resnet5O", ["'resnet5O'", "did you mean `resnet50`?"]),
        ("xeption", ["'xeption'", "did you mean `xception`?"]),
        ("qqqq", ["'qqqq'", "efficientnet_lite0", "timm.list_models()"]),
        ("test_resnet.r161_in1k", ["did you mean `test_resnet.r160_in1k`?"]),
        ("", ["unknown backbone ''"]),
    ],
)
def test_an_unknown_backbone_is_refused_with_the_nearest_name(
    name: str, fragments: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        describe_backbone(name)

    for fragment in fragments:
        assert fragment in str(caught.value)


@pytest.fixture
def spec() -> BackboneSpec:
    return describe_backbone("test_resnet")


@pytest.mark.parametrize(("asked", "given"), [(None, 160), (64, 64)])
def test_the_geometry_takes_the_backbones_own_size_unless_one_is_asked_for(
    spec: BackboneSpec, asked: int | None, given: int
) -> None:
    geometry = spec.geometry(image_size=asked, crop=(1, 2, 30, 40), resize="center-crop")

    assert geometry.image_size == given
    assert (geometry.crop, geometry.resize) == ((1, 2, 30, 40), "center-crop")
    assert (geometry.crop_pct, geometry.interpolation) == (spec.crop_pct, spec.interpolation)
