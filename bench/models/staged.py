"""A network in five leading parts and a head, which can be frozen and cut between its parts.

    images 0..255 ─ normalise ─ part 1 ─ part 2 ─ part 3 ─ part 4 ─ part 5 ─ classifier ─ logits

Boundary k lies behind part k: boundary 0 is the picture itself and boundary 5 the pooled
features. What lies before a boundary can be computed once when it is frozen.

Shapes: N pictures, C channels, F pooled features, K classes.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from bench.errors import InputError
from bench.models.backbones import BackboneSpec
from bench.models.weights import load_network
from bench.records import BatchNormMode, WeightSource

PARTS = 5

# Where timm's feature_info names inner modules, the ends of parts 1 to 4 are given here.
_BOUNDARIES = {"legacy_xception": ("act2", "block3", "block7", "block11")}

# Pooling right behind a boundary goes before it: it has nothing to train and shrinks the output.
_POOLING = (nn.MaxPool2d, nn.AvgPool2d, nn.Identity)


class StagedModel(nn.Module):
    """A timm network whose leading parts can be frozen, run, and left out.

    `cuttable` says whether the network runs as a chain of its modules. Where it does not, only
    the boundaries 0 and 5 can be cut at; freezing works at every depth all the same.
    """

    scale: torch.Tensor
    bias: torch.Tensor

    def __init__(self, network: nn.Module, spec: BackboneSpec, image_size: int) -> None:
        super().__init__()
        self.network = network
        self.spec = spec
        std = torch.tensor(spec.std).view(1, 3, 1, 1)
        mean = torch.tensor(spec.mean).view(1, 3, 1, 1)
        self.register_buffer("scale", 1.0 / (255.0 * std), persistent=False)
        self.register_buffer("bias", -mean / std, persistent=False)
        self._chain = _verified_chain(network, image_size)
        self._ends = _part_ends(network, list(self._chain), spec.architecture)
        self._part_of = self._assign_parameters()
        self._depth = 0
        self._batch_norm: BatchNormMode = "updating"

    @property
    def cuttable(self) -> bool:
        return bool(self._chain)

    @property
    def classifier(self) -> nn.Module:
        head = self.network.get_classifier()  # type: ignore[operator]
        assert isinstance(head, nn.Module)
        return head

    def boundary(self, freeze_depth: int) -> int:
        """The deepest boundary at which everything before is frozen and a cut is possible."""
        return freeze_depth if self.cuttable or freeze_depth == PARTS else 0

    @torch.no_grad()
    def probabilities(self, images_nhwc: torch.Tensor) -> torch.Tensor:
        """(N, S, S, 3) uint8 pictures -> (N, K) class probabilities, in eval mode."""
        self.eval()
        return torch.softmax(self(images_nhwc.permute(0, 3, 1, 2).float()), dim=1)

    # --- running ----------------------------------------------------------------------------

    def forward(self, images_nchw: torch.Tensor) -> torch.Tensor:
        """(N, 3, S, S) float pixels in 0..255 -> (N, K) logits."""
        return self.suffix(images_nchw, 0)

    def prefix(self, images_nchw: torch.Tensor, boundary: int) -> torch.Tensor:
        """Pictures -> activations at a boundary; at 5 these are (N, F) pooled features."""
        return self.between(images_nchw, 0, boundary)

    def suffix(self, activations: torch.Tensor, boundary: int) -> torch.Tensor:
        """Activations at a boundary -> (N, K) logits."""
        logits: torch.Tensor = self.classifier(self.between(activations, boundary, PARTS))
        return logits

    def between(self, activations: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """Run the parts from boundary `start` to boundary `stop`.

        Raises:
            ValueError: the network cannot be cut there.
        """
        if start == stop:
            return activations
        if start == 0:
            activations = activations * self.scale + self.bias
        if self.cuttable:
            names = list(self._chain)
            first = self._ends[start - 1] if start else 0
            for name in names[first : self._ends[stop - 1]]:
                activations = self._chain[name](activations)
        elif (start, stop) == (0, PARTS):
            activations = self.network.forward_features(activations)  # type: ignore[operator]
        else:
            raise ValueError(f"{self.spec.name} cannot be cut between {start} and {stop}")
        if stop == PARTS:
            activations = self.network.forward_head(  # type: ignore[operator]
                activations, pre_logits=True
            )
        return activations

    @torch.no_grad()
    def elements_at_boundaries(self, image_size: int) -> tuple[int, ...]:
        """Numbers that one picture's activation has at each boundary that can be cut at.

        Boundaries that cannot be cut at count as endless, so nobody stores them.
        """
        parameter = next(self.network.parameters())
        activations = parameter.new_zeros(2, 3, image_size, image_size)
        sizes = [activations[0].numel()]
        boundaries = range(1, PARTS + 1) if self.cuttable else (PARTS,)
        sizes += [sys.maxsize] * (PARTS - len(boundaries))
        was_training, at = self.training, 0
        self.eval()
        for boundary in boundaries:
            activations = self.between(activations, at, boundary)
            sizes.append(activations[0].numel())
            at = boundary
        self.train(was_training)
        return tuple(sizes)

    def body_fingerprint(self) -> str:
        """Identity of everything but the classifier, by the content of its tensors."""
        head = {id(tensor) for tensor in self.classifier.parameters()}
        digest = hashlib.sha256(self.spec.architecture.encode())
        digest.update(repr((list(self._chain), self._ends)).encode())
        for name, tensor in [*self.network.named_parameters(), *self.network.named_buffers()]:
            if id(tensor) not in head:
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    # --- freezing ---------------------------------------------------------------------------

    def freeze(self, depth: int, batch_norm: BatchNormMode) -> None:
        """Freeze the first `depth` parts (5: everything but the classifier).

        Raises:
            ValueError: `depth` is not 0..5.
        """
        if not 0 <= depth <= PARTS:
            raise ValueError(f"a freezing depth lies in 0..{PARTS}, not {depth}")
        self._depth, self._batch_norm = depth, batch_norm
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(self._part_of[name] >= depth)
        self.train(self.training)

    def train(self, mode: bool = True) -> StagedModel:
        """Set training mode, leaving frozen parts (dropout and batch norm too) in eval mode."""
        super().train(mode)
        if mode and hasattr(self, "_part_of"):
            for module in self._modules_kept_in_eval():
                module.eval()
        return self

    def parameter_groups(
        self, *, learning_rate: float, head_lr_factor: float, weight_decay: float
    ) -> list[dict[str, object]]:
        """Optimiser groups: body and head, with no decay on vectors (biases, norms)."""
        head = {id(parameter) for parameter in self.classifier.parameters()}
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for parameter in self.parameters():
            if parameter.requires_grad:
                key = (id(parameter) in head, parameter.ndim > 1)
                groups.setdefault(key, []).append(parameter)
        return [
            {
                "params": parameters,
                "lr": learning_rate * (head_lr_factor if in_head else 1.0),
                "weight_decay": weight_decay if decays else 0.0,
            }
            for (in_head, decays), parameters in groups.items()
        ]

    def _modules_kept_in_eval(self) -> Iterator[nn.Module]:
        if self.cuttable and self._depth:
            # Links without parameters (activations, pooling, dropout) freeze with their part.
            yield from list(self._chain.values())[: self._ends[self._depth - 1]]
        for module in self.network.modules():
            parameters = list(module.parameters())
            frozen = bool(parameters) and not any(p.requires_grad for p in parameters)
            fixed_norm = self._batch_norm == "frozen" and isinstance(module, _BatchNorm)
            if frozen or fixed_norm:
                yield module

    def _assign_parameters(self) -> dict[str, int]:
        """Number the part (0..4, and 5 for the classifier) that each parameter belongs to."""
        head = {id(parameter) for parameter in self.classifier.parameters()}
        part_of_module = self._part_of_chain() if self.cuttable else self._part_of_groups()
        parts = {}
        for name, parameter in self.network.named_parameters():
            parts[name] = PARTS if id(parameter) in head else part_of_module(name)
        return parts

    def _part_of_chain(self) -> Callable[[str], int]:
        names = list(self._chain)

        def part(parameter: str) -> int:
            for index, name in enumerate(names):
                if parameter == name or parameter.startswith(f"{name}."):
                    return next(k for k, end in enumerate(self._ends) if index < end)
            return PARTS - 1

        return part

    def _part_of_groups(self) -> Callable[[str], int]:
        from timm.models import group_parameters

        matcher = self.network.group_matcher(coarse=True)  # type: ignore[operator]
        groups: dict[int, list[str]] = group_parameters(self.network, matcher)
        order = {name: rank for rank, key in enumerate(sorted(groups)) for name in groups[key]}
        # The last group holds the final norm and the head.
        body = max(len(groups) - 1, 1)
        return lambda parameter: min(order[parameter] * PARTS // body, PARTS - 1)


def build_model(
    spec: BackboneSpec, source: WeightSource, *, classes: int, image_size: int, seed: int
) -> StagedModel:
    """Build a backbone with loaded weights and a head initialised from `seed`.

    Raises:
        InputError: the network cannot take pictures of this size.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = load_network(spec, source, classes=classes, image_size=image_size)
        return StagedModel(network, spec, image_size)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"{spec.name} cannot take pictures of {image_size} pixels ({error}): try --image-size "
            f"{spec.image_size}, for which it was made"
        ) from error


# --- chains ---------------------------------------------------------------------------------


@torch.no_grad()
def _verified_chain(network: nn.Module, image_size: int) -> dict[str, nn.Module]:
    """Return the modules that, run one after the other, equal `forward_features`; or nothing.

    Most timm networks are such a chain of their children. Whether this one is, is not believed
    but tried, on random pixels, and the outputs must agree to the last bit.
    """
    was_training = network.training
    network.eval()
    pixels = torch.rand(2, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    expected = network.forward_features(pixels)  # type: ignore[operator]
    chain: dict[str, nn.Module] = {}
    whole = 0
    activations = pixels
    for name, module in _flattened(network):
        try:
            activations = module(activations)
        except Exception:  # a child that is not the next link may fail in any way
            break
        if not isinstance(activations, torch.Tensor):
            break
        chain[name] = module
        if activations.shape == expected.shape and torch.equal(activations, expected):
            # Later equal outputs are taken too: a zero-initialised block changes nothing yet.
            whole = len(chain)
    network.train(was_training)
    return dict(list(chain.items())[:whole])


def _flattened(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Name the links of a chain: children, with plain containers opened up."""

    def open_up(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
        if type(module) in (nn.Sequential, nn.ModuleList):
            for child_name, child in module.named_children():
                yield from open_up(f"{name}.{child_name}", child)
        else:
            yield name, module

    for name, child in network.named_children():
        yield from open_up(name, child)


def _part_ends(network: nn.Module, names: list[str], architecture: str) -> list[int]:
    """Return for each of the five parts the number of links up to and including its last."""
    if not names:
        return []
    stages = _BOUNDARIES.get(architecture.partition(".")[0]) or tuple(
        str(info["module"])
        for info in network.feature_info  # type: ignore[union-attr]
    )
    ends = [_end_of(stage, names) for stage in stages]
    if len(stages) == PARTS - 1 and architecture.partition(".")[0] not in _BOUNDARIES:
        first = next(k for k, name in enumerate(names) if _belongs(name, stages[0]))
        inner = [max(first, 1), *ends[:-1]]
    elif len(stages) == PARTS - 1:
        inner = ends
    else:
        inner = [ends[max(round(k * len(ends) / PARTS), 1) - 1] for k in range(1, PARTS)]
    inner = [_absorb_pooling(network, names, end) for end in inner]
    if sorted({0, *inner, len(names)}) != [0, *inner, len(names)]:
        inner = [max(round(k * len(names) / PARTS), 1) for k in range(1, PARTS)]
    return [*inner, len(names)]


def _belongs(name: str, stage: str) -> bool:
    """Whether a link is a stage, lies in it, or holds it."""
    return name == stage or name.startswith(f"{stage}.") or stage.startswith(f"{name}.")


def _end_of(stage: str, names: list[str]) -> int:
    return max((k + 1 for k, name in enumerate(names) if _belongs(name, stage)), default=0)


def _absorb_pooling(network: nn.Module, names: list[str], end: int) -> int:
    while end < len(names) and isinstance(network.get_submodule(names[end]), _POOLING):
        end += 1
    return end
