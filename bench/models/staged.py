"""A network in five leading parts and a head, which can be frozen and cut between its parts.

    images 0..255 ─ normalise ─ part 1 ─ part 2 ─ part 3 ─ part 4 ─ part 5 ─ classifier ─ logits

Boundary k lies behind part k: boundary 0 is the picture itself and boundary 5 the pooled
features. What lies before a boundary can be computed once when it is frozen.

Shapes: N pictures, C channels, F pooled features, K classes.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from bench.errors import InputError
from bench.models.backbones import BackboneSpec
from bench.models.body import Body, Chain, Whole, dense
from bench.models.graph import cut_graph
from bench.models.weights import load_network
from bench.records import PARTS, BatchNormMode, WeightSource


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterGroup:
    """Parameters of the head, or of the rest; vectors (biases, norms) do not decay."""

    parameters: list[torch.Tensor]
    in_head: bool
    decays: bool


class StagedModel(nn.Module):
    """A timm network whose leading parts can be frozen, run, and left out.

    `boundaries` says where it can be cut: at all six, as a rule, and at 0 and 5 always. Freezing
    works at every depth all the same. `elements` counts the numbers that one picture's activation
    has at each boundary; one that cannot be cut at counts as endless, so that nobody stores it.
    """

    scale: torch.Tensor
    bias: torch.Tensor

    def __init__(self, network: nn.Module, spec: BackboneSpec, image_size: int) -> None:
        super().__init__()
        self.network = network
        self._mode = _ModeSwitch.of(network, set())
        self.spec = spec
        std = torch.tensor(spec.std).view(1, 3, 1, 1)
        mean = torch.tensor(spec.mean).view(1, 3, 1, 1)
        self.register_buffer("scale", 1.0 / (255.0 * std), persistent=False)
        self.register_buffer("bias", -mean / std, persistent=False)
        self._body = _body_of(network, spec.architecture, image_size)
        self._part_of = self._assign_parameters()
        self._depth = 0
        self._batch_norm: BatchNormMode = "updating"
        self.elements = self._count_elements(image_size)

    @property
    def boundaries(self) -> tuple[int, ...]:
        """The boundaries that the network can be cut at, ascending."""
        return self._body.boundaries

    @property
    def cuttable(self) -> bool:
        """Whether it can be cut between its stages, behind one of its parts at least."""
        return len(self.boundaries) > 2

    @property
    def recomputed(self) -> str | None:
        """Which frozen part every trial has to compute anew, and why; None where none has to."""
        if self._body.limits is None:
            return None
        if not self.cuttable:
            return (
                f"cannot be cut between its stages ({self._body.limits}): its frozen part is "
                "computed anew in every trial"
            )
        cut = " and ".join(str(boundary) for boundary in self.boundaries[1:-1])
        return (
            f"cannot be cut between all its stages ({self._body.limits}): what is frozen beyond "
            f"part {cut} is computed anew in every trial"
        )

    @property
    def classifier(self) -> nn.Module:
        """The last layer, from pooled features to logits.

        Raises:
            InputError: the network ends in several, or in a convolution.
        """
        head = self.network.get_classifier()  # type: ignore[operator]
        if not isinstance(head, nn.Module) or isinstance(head, nn.Conv2d):
            kind = "a convolution" if isinstance(head, nn.Conv2d) else "several classifiers"
            raise InputError(
                f"{self.spec.name} ends in {kind}, and training needs one dense classifier: choose "
                "another backbone"
            )
        return head

    def boundary(self, freeze_depth: int) -> int:
        """The deepest boundary at which everything before is frozen and a cut is possible."""
        return max(boundary for boundary in self.boundaries if boundary <= freeze_depth)

    @torch.no_grad()
    def probabilities(self, images_nhwc: torch.Tensor, *, temperature: float = 1.0) -> torch.Tensor:
        """(N, S, S, 3) uint8 pictures -> (N, K) class probabilities, in eval mode.

        They are computed in the precision of the model's buffers: float32, or float64 after
        `double()`.
        """
        self.eval()
        logits = self(images_nhwc.permute(0, 3, 1, 2).to(self.scale.dtype))
        return torch.softmax(logits / temperature, dim=1)

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
        if not {start, stop} <= {*self.boundaries}:
            raise ValueError(f"{self.spec.name} cannot be cut between {start} and {stop}")
        if start == 0:
            activations = activations * self.scale + self.bias
        activations = self._body.run(self.network, activations, start, stop)
        if stop == PARTS:
            activations = self.network.forward_head(  # type: ignore[operator]
                activations, pre_logits=True
            )
        return dense(activations)

    def body_fingerprint(self) -> str:
        """Identity of everything but the classifier, by the content of its tensors."""
        head = {id(tensor) for tensor in self.classifier.parameters()}
        digest = hashlib.sha256(self.spec.architecture.encode())
        digest.update(repr(self._body).encode())
        for name, tensor in [*self.network.named_parameters(), *self.network.named_buffers()]:
            if id(tensor) not in head:
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    @torch.no_grad()
    def _count_elements(self, image_size: int) -> tuple[int, ...]:
        parameter = next(self.network.parameters())
        activations = parameter.new_zeros(2, 3, image_size, image_size)
        sizes = [activations[0].numel()] + [sys.maxsize] * PARTS
        was_training, at = self.training, 0
        self.eval()
        for boundary in self.boundaries[1:]:
            activations = self.between(activations, at, boundary)
            sizes[boundary] = activations[0].numel()
            at = boundary
        self.train(was_training)
        return tuple(sizes)

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
        kept_in_eval = self._modules_kept_in_eval()
        for module in kept_in_eval:
            module.eval()
        self._mode = _ModeSwitch.of(self.network, kept_in_eval)
        self.train(self.training)

    def train(self, mode: bool = True) -> StagedModel:
        """Set training mode, leaving frozen parts (dropout and batch norm too) in eval mode."""
        self.training = mode
        self._mode.switch(mode)
        return self

    def updating_norms(self) -> list[_BatchNorm]:
        """The batch normalisations whose running statistics training changes."""
        was_training = self.training
        self.train()
        norms = [
            module
            for module in self.network.modules()
            if isinstance(module, _BatchNorm) and module.training and module.track_running_stats
        ]
        self.train(was_training)
        return norms

    def parameter_groups(self) -> list[ParameterGroup]:
        """What is trained, in groups that an optimiser treats alike."""
        head = {id(parameter) for parameter in self.classifier.parameters()}
        groups: dict[tuple[bool, bool], list[torch.Tensor]] = {}
        for parameter in self.parameters():
            if parameter.requires_grad:
                key = (id(parameter) in head, parameter.ndim > 1)
                groups.setdefault(key, []).append(parameter)
        return [
            ParameterGroup(parameters=parameters, in_head=in_head, decays=decays)
            for (in_head, decays), parameters in groups.items()
        ]

    @torch.no_grad()
    def copy_weights(self, other: StagedModel) -> None:
        """Take over the weights and statistics of a model of the same network, in place.

        Those of frozen parts have to be what they are already: some attention keeps what it has
        computed of its weights until its mode changes, which that of a frozen part does not.
        """
        ours = [*self.network.parameters(), *self.network.buffers()]
        theirs = [*other.network.parameters(), *other.network.buffers()]
        for own, given in zip(ours, theirs, strict=True):
            own.copy_(given)

    def _modules_kept_in_eval(self) -> set[nn.Module]:
        """What is frozen, with all modules within it, be they shared with what is not."""
        # Modules without parameters (activations, pooling, dropout) freeze with their part.
        before = set(self._body.modules_before(self.network, self._depth))
        kept: set[nn.Module] = set()
        for module in self.network.modules():  # the outer ones first
            if module in kept:
                continue
            parameters = list(module.parameters())
            frozen = bool(parameters) and not any(p.requires_grad for p in parameters)
            fixed_norm = self._batch_norm == "frozen" and isinstance(module, _BatchNorm)
            if module in before or frozen or fixed_norm:
                kept.update(module.modules())
        return kept

    def _assign_parameters(self) -> dict[str, int]:
        """Number the part (0..4, and 5 for the classifier) that each parameter belongs to."""
        head = {id(parameter) for parameter in self.classifier.parameters()}
        return {
            name: PARTS if id(parameter) in head else self._body.part_of(name)
            for name, parameter in self.network.named_parameters()
        }


@dataclass(slots=True)
class _ModeSwitch:
    """What goes from eval to training mode and back; what is frozen is left as it is.

    Setting every module of a network takes longer than an epoch of its classifier. `roots` are set
    with all that is within them, of which `kept_in_eval` are set back.
    """

    roots: list[nn.Module] = field(default_factory=list)
    single: list[nn.Module] = field(default_factory=list)
    kept_in_eval: list[nn.Module] = field(default_factory=list)

    @classmethod
    def of(cls, network: nn.Module, kept: set[nn.Module]) -> _ModeSwitch:
        """The switch of a network of which some modules are kept in eval mode."""
        switch, pending = cls(), [network]
        while pending:
            module = pending.pop()
            if module in kept:
                continue
            within = [inner for inner in module.modules() if inner in kept]
            # Some attention forgets in a `train` of its own what it keeps for predictions.
            if not within or type(module).train is not nn.Module.train:
                switch.roots.append(module)
                switch.kept_in_eval.extend(within)
            else:
                switch.single.append(module)
                pending.extend(module.children())
        return switch

    def switch(self, mode: bool) -> None:
        for module in self.single:
            module.training = mode
        for module in self.roots:
            module.train(mode)
        for module in self.kept_in_eval:
            module.eval()


def _body_of(network: nn.Module, architecture: str, image_size: int) -> Body:
    chain = Chain.of(network, architecture, image_size)
    if chain is not None:
        return chain
    body = cut_graph(network, architecture, image_size)
    return Whole.of(network, body) if isinstance(body, str) else body


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
