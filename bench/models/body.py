"""How the body of a network, everything before its pooling, runs from boundary to boundary.

A timm network is one of three: a chain of its modules, a graph that narrows to one tensor at
some points (`bench.models.graph`), or a whole that can be run from end to end only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from bench.records import PARTS

# Where timm's feature_info names inner modules, the ends of parts 1 to 4 are given here.
_BOUNDARIES = {"legacy_xception": ("act2", "block3", "block7", "block11")}

# Pooling right behind a boundary goes before it: it has nothing to train and shrinks the output.
_POOLING = (nn.MaxPool2d, nn.AvgPool2d, nn.Identity)


class Body(Protocol):
    """The parts of a network's body; it holds names, not modules, so that copies can share it."""

    @property
    def boundaries(self) -> tuple[int, ...]:
        """The boundaries that can be cut at, ascending; 0 and 5 always can."""
        ...

    @property
    def limits(self) -> str | None:
        """Why the boundaries that are missing cannot be cut at; None where none is missing."""
        ...

    def run(self, network: nn.Module, activations: torch.Tensor, start: int, stop: int) -> Any:
        """Run the parts between two boundaries that can be cut at; at 5 the body's output."""
        ...

    def part_of(self, parameter: str) -> int:
        """The part (0..4) that a parameter belongs to, which is the first that uses it."""
        ...

    def modules_before(self, network: nn.Module, boundary: int) -> list[nn.Module]:
        """The modules that run before a boundary."""
        ...


def is_channels_last(activations: torch.Tensor) -> bool:
    """Whether (N, ...) activations lie in that layout, be it in another one too."""
    return activations.ndim == 4 and activations.is_contiguous(memory_format=torch.channels_last)


def dense(activations: torch.Tensor) -> torch.Tensor:
    """Lay out a view (a class token, a transposed map) as it would be read back from a store."""
    return activations if is_channels_last(activations) else activations.contiguous()


# --- wholes ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Whole:
    """A body that cannot be cut; its parameters are divided by timm's own grouping."""

    limits: str
    parts: Mapping[str, int]
    boundaries: tuple[int, ...] = (0, PARTS)

    @classmethod
    def of(cls, network: nn.Module, reason: str) -> Whole:
        return cls(reason, _parts_by_group(network))

    def run(self, network: nn.Module, activations: torch.Tensor, start: int, stop: int) -> Any:
        return network.forward_features(activations)  # type: ignore[operator]

    def part_of(self, parameter: str) -> int:
        return self.parts[parameter]

    def modules_before(self, network: nn.Module, boundary: int) -> list[nn.Module]:
        return []


def _parts_by_group(network: nn.Module) -> dict[str, int]:
    from timm.models import group_parameters

    if hasattr(network, "group_matcher"):
        matcher = network.group_matcher(coarse=True)  # type: ignore[operator]
        by_key: dict[int, list[str]] = group_parameters(network, matcher)
        groups = [by_key[key] for key in sorted(by_key)]
    else:
        groups = [[name] for name, _ in network.named_parameters()]
    # The last group holds the final norm and the head.
    body = max(len(groups) - 1, 1)
    return {
        name: min(rank * PARTS // body, PARTS - 1)
        for rank, names in enumerate(groups)
        for name in names
    }


# --- chains ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Chain:
    """Modules that, run one after the other, are the body."""

    names: tuple[str, ...]
    ends: tuple[int, ...]  # for each part, the number of links up to and including its last
    boundaries: tuple[int, ...] = tuple(range(PARTS + 1))
    limits: None = None

    @classmethod
    def of(cls, network: nn.Module, architecture: str, image_size: int) -> Chain | None:
        names = _verified_chain(network, image_size)
        if not names:
            return None
        return cls(tuple(names), (*stage_ends(network, names, architecture), len(names)))

    def run(self, network: nn.Module, activations: torch.Tensor, start: int, stop: int) -> Any:
        first = self.ends[start - 1] if start else 0
        for name in self.names[first : self.ends[stop - 1]]:
            activations = network.get_submodule(name)(activations)
        return activations

    def part_of(self, parameter: str) -> int:
        for index, name in enumerate(self.names):
            if parameter == name or parameter.startswith(f"{name}."):
                return next(k for k, end in enumerate(self.ends) if index < end)
        return PARTS - 1

    def modules_before(self, network: nn.Module, boundary: int) -> list[nn.Module]:
        names = self.names[: self.ends[boundary - 1]] if boundary else ()
        return [network.get_submodule(name) for name in names]


@torch.no_grad()
def _verified_chain(network: nn.Module, image_size: int) -> list[str]:
    """Name the modules that, run one after the other, equal `forward_features`; or none.

    Most timm networks are such a chain of their children. Whether this one is, is not believed
    but tried, on random pixels, and the outputs must agree to the last bit.
    """
    was_training = network.training
    network.eval()
    pixels = torch.rand(2, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    expected = network.forward_features(pixels)  # type: ignore[operator]
    chain: list[str] = []
    whole = 0
    activations = pixels
    for name, module in _flattened(network):
        try:
            activations = module(activations)
        except Exception:  # a child that is not the next link may fail in any way
            break
        if not isinstance(activations, torch.Tensor):
            break
        chain.append(name)
        if isinstance(expected, torch.Tensor) and torch.equal(activations, expected):
            # Later equal outputs are taken too: a zero-initialised block changes nothing yet.
            whole = len(chain)
    network.train(was_training)
    return chain[:whole]


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


# --- stages ---------------------------------------------------------------------------------


def stage_ends(network: nn.Module, names: Sequence[str], architecture: str) -> list[int]:
    """Divide steps into five parts along the network's stages.

    `names` are the modules that the steps run, in order ("" for a step of no module). Returns
    for each of the first four parts the number of steps up to and including its last.
    """
    fixed = _BOUNDARIES.get(architecture.partition(".")[0])
    stages = fixed or tuple(str(info["module"]) for info in getattr(network, "feature_info", ()))
    ends = [_end_of(stage, names) for stage in stages]
    if fixed is not None:
        inner = ends
    elif len(ends) == PARTS - 1:
        first = next((k for k, name in enumerate(names) if _belongs(name, stages[0])), 0)
        inner = [max(first, 1), *ends[:-1]]
    else:
        inner = [ends[max(round(k * len(ends) / PARTS), 1) - 1] for k in range(1, PARTS) if ends]
    inner = [_absorb_pooling(network, names, end) for end in inner]
    if len(inner) != PARTS - 1 or sorted({0, *inner, len(names)}) != [0, *inner, len(names)]:
        inner = [max(round(k * len(names) / PARTS), 1) for k in range(1, PARTS)]
    return inner


def _belongs(name: str, stage: str) -> bool:
    """Whether a link is a stage, lies in it, or holds it."""
    return name == stage or name.startswith(f"{stage}.") or stage.startswith(f"{name}.")


def _end_of(stage: str, names: Sequence[str]) -> int:
    return max((k + 1 for k, name in enumerate(names) if _belongs(name, stage)), default=0)


def _absorb_pooling(network: nn.Module, names: Sequence[str], end: int) -> int:
    while end < len(names) and isinstance(network.get_submodule(names[end]), _POOLING):
        end += 1
    return end
