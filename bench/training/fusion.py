"""Layers of a network that only predicts, fused for a CPU.

A convolution in a fast number format takes a CPU less time than what follows it: batch
normalisation, addition and activation each read and write the whole map again. So a function's
operations are recorded, and each convolution takes on what follows it: batch normalisation as other
weights, the rest while its output is still in the processor's registers (oneDNN's post-operations,
which torch.compile uses too, after a minute of compilation). A depthwise one also takes on the
padding before it, which TensorFlow's networks have more of on one side. Weights are put into the
library's own order once, and not at each call.

Shapes: N pictures, C channels of an input, D of an output.
"""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

Function = Callable[[torch.Tensor], torch.Tensor]

_aten = torch.ops.aten

# Some builds of torch have no oneDNN.
CAN_FUSE = torch._C._has_mkldnn

# What nodes of a graph carry along.
_KIND, _VALUE = "kind", "value"

# The library's names of the activations that it computes on the way out of a convolution.
_ACTIVATIONS: Mapping[object, str] = {
    _aten.relu.default: "relu",
    _aten.relu_.default: "relu",
    _aten.silu.default: "swish",
    _aten.silu_.default: "swish",
    _aten.hardswish.default: "hardswish",
    _aten.hardswish_.default: "hardswish",
    _aten.hardtanh.default: "hardtanh",
    _aten.hardtanh_.default: "hardtanh",
}
_ADDITIONS = (_aten.add.Tensor, _aten.add_.Tensor)
# The largest relative error (root mean square) that fusing may make. It changes nothing but when
# and how often values are rounded: 1e-6 and 0.003 to 0.02 were seen.
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1}

_log = logging.getLogger(__name__)


@torch.no_grad()
def fused(function: Function, example: torch.Tensor) -> tuple[Function, torch.Tensor]:
    """Return a faster function for inputs of the example's shape, and its output for the example.

    The function itself is given back where its operations cannot be recorded (one that looks at
    values to decide what to do), or where fusing would change more than rounding. It must always do
    the same operations on the same weights, without random numbers. What a convolution's output is
    added to, or what is padded for it, must not be changed meanwhile through another view of its
    memory. No gradients are computed.
    """
    try:
        recorded = example.clone()  # which the function may change in place
        with _Recorder(recorded) as recorder:
            usual = function(recorded)
        faster = recorder.fused(usual)
        output = faster(example.clone())
    except Exception:  # what is not made for it may fail in any way
        _log.info("layers are not fused", exc_info=True)
        return function, function(example)
    if output.dtype == usual.dtype and output.stride() == usual.stride():
        error = (output.float() - usual.float()).norm()
        if error <= _TOLERANCE.get(output.dtype, 0.0) * usual.float().norm():
            return faster, output
    _log.info("layers are not fused: the outputs differ")
    return function, usual


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the operations that are done within this context as a graph with one input.

    `torch.fx.experimental.proxy_tensor.make_fx` gives the same graph after a second, which it
    spends on notes for a compiler.
    """

    def __init__(self, example: torch.Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._graph = fx.Graph()
        self._constants: dict[str, torch.Tensor] = {}
        self._node_of = WeakIdKeyDictionary()  # whole activations need not outlive their use
        self._note(example, self._graph.placeholder("example"))

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        node = self._graph.call_function(
            func, *fx.node.map_aggregate((args, kwargs), self._as_argument)
        )
        output = func(*args, **kwargs)
        if isinstance(output, torch.Tensor):
            self._note(output, node)
        else:  # several; or a number, which cannot be recorded
            for index, item in enumerate(output):
                self._note(item, self._graph.call_function(operator.getitem, (node, index)))
        return output

    def fused(self, output: torch.Tensor) -> fx.GraphModule:
        """The recorded function up to this output, its layers fused."""
        self._graph.output(self._node_of[output])
        _fuse(self._graph, self._constants)
        return fx.GraphModule(self._constants, self._graph)

    def _note(self, tensor: torch.Tensor, node: fx.Node) -> None:
        # An operation in place makes its result the newest value of the same tensor.
        self._node_of[tensor] = node
        node.meta[_KIND] = (tensor.shape, tensor.dtype)

    def _as_argument(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        if value not in self._node_of:
            self._note(value, _hold(self._graph, self._constants, value))
        return self._node_of[value]


@dataclass(slots=True)
class _Layer:
    """A convolution and the operations around it that have become part of it."""

    nodes: list[fx.Node]  # the convolution first; the last one's value is the layer's
    images: fx.Node
    weight: torch.Tensor  # (D, C / groups, height, width)
    bias: torch.Tensor | None  # (D,)
    padding: list[int]  # rows, columns
    added: fx.Node | None = None
    activation: str = "none"
    limits: tuple[Any, ...] = ()

    @property
    def convolution(self) -> fx.Node:
        return self.nodes[0]

    @property
    def follower(self) -> fx.Node | None:
        """The only operation that uses the layer's value."""
        users = list(self.nodes[-1].users)
        return users[0] if len(users) == 1 else None


def _fuse(graph: fx.Graph, constants: dict[str, torch.Tensor]) -> None:
    """Replace each convolution of constant weights, and what it takes on, by one node."""
    graph.eliminate_dead_code()
    place = {node: index for index, node in enumerate(graph.nodes)}
    for node in graph.find_nodes(op="call_function", target=_aten.convolution.default):
        layer = _layer(node)
        if layer is not None:
            _take_on_padding(layer)
            _take_on_norm(layer)
            _take_on_addition(layer, place)
            _take_on_activation(layer)
            place[_replace(graph, constants, layer)] = place[node]
    graph.eliminate_dead_code()  # weights that were cast, maps that were padded
    used = {node.target for node in graph.find_nodes(op="get_attr")}
    for name in constants.keys() - used:
        del constants[name]


def _layer(node: fx.Node) -> _Layer | None:
    images, weight, bias, _, padding, _, is_transposed, _, _ = _arguments(node)
    constants = _constants(weight, bias)
    if is_transposed or constants is None:
        return None
    shape, dtype = _kind(node)
    if len(shape) != 4 or dtype not in _TOLERANCE:
        return None
    weight, bias = constants
    assert weight is not None
    both = list(padding) * (2 // len(padding))  # "valid" is recorded as a single zero
    return _Layer([node], images, weight, bias, both)


def _take_on_padding(layer: _Layer) -> None:
    """Let a depthwise convolution pad by itself: on all sides as much as on the widest.

    Its kernel gets zeros where that is too much. With one channel to sum over they cost little, and
    the padded copy of the map takes longer than the convolution.
    """
    pad = layer.images
    *_, dilation, _, _, _ = _arguments(layer.convolution)
    if pad.target is not _aten.constant_pad_nd.default or layer.weight.shape[1] != 1:
        return
    images, sides, *value = _arguments(pad)
    if len(sides) != 4 or min(sides) < 0 or any(value) or max(dilation) > 1:
        return
    left, right, top, bottom = sides
    rows, columns = max(top, bottom), max(left, right)
    zeros = (columns - left, columns - right, rows - top, rows - bottom)
    # "Same" padding is wider by one at the most. What else reads the copy would need it all the
    # same, and what changes the map in place may do so between the two.
    if max(zeros) > 1 or len(pad.users) > 1 or any(map(_changes, images.users)):
        return
    layer.images, layer.weight = images, F.pad(layer.weight, zeros)
    layer.padding = [layer.padding[0] + rows, layer.padding[1] + columns]


def _changes(node: fx.Node) -> bool:
    """Whether an operation changes something in place."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _take_on_norm(layer: _Layer) -> None:
    norm = layer.follower
    if norm is None or norm.target is not _aten.native_batch_norm.default:
        return
    _, *parameters, is_training, _, epsilon = _arguments(norm)
    constants = _constants(*parameters)
    users = list(norm.users)  # its output, and statistics if anything uses them
    if is_training or constants is None or [user.args[1:] for user in users] != [(0,)]:
        return
    scale, shift, mean, variance = (
        None if value is None else value.double() for value in constants
    )
    assert mean is not None and variance is not None
    gain = (variance + epsilon).rsqrt()
    if scale is not None:
        gain = gain * scale
    offset = -mean * gain if layer.bias is None else (layer.bias.double() - mean) * gain
    layer.weight = (layer.weight.double() * gain.view(-1, 1, 1, 1)).float()
    layer.bias = (offset if shift is None else offset + shift).float()
    layer.nodes += [norm, *users]


def _take_on_addition(layer: _Layer, place: Mapping[fx.Node, int]) -> None:
    addition = layer.follower
    if addition is None or addition.target not in _ADDITIONS or addition.kwargs:
        return
    others = [term for term in _arguments(addition) if term is not layer.nodes[-1]]
    if len(others) != 1 or not isinstance(others[0], fx.Node):
        return
    (other,) = others
    # It must be there before the convolution, and as large: the library does not broadcast. If it
    # is changed in place here, nobody else may wait for that.
    is_changed = addition.target is _aten.add_.Tensor and other is addition.args[0]
    if (
        place.get(other, len(place)) < place[layer.convolution]
        and _kind(other) == _kind(layer.convolution)
        and not (is_changed and len(other.users) > 1)
    ):
        layer.added = other
        layer.nodes.append(addition)


def _take_on_activation(layer: _Layer) -> None:
    activation = layer.follower
    if activation is None or activation.target not in _ACTIVATIONS:
        return
    name = _ACTIVATIONS[activation.target]
    if layer.added is None or name == "relu":
        given, defaults = _arguments(activation)[1:], (-1.0, 1.0) if name == "hardtanh" else ()
        layer.activation, layer.limits = name, (*given, *defaults[len(given) :])
        layer.nodes.append(activation)


def _replace(graph: fx.Graph, constants: dict[str, torch.Tensor], layer: _Layer) -> fx.Node:
    _, _, _, stride, _, dilation, *_, groups = _arguments(layer.convolution)
    _, dtype = _kind(layer.convolution)
    weight = torch.ops.mkldnn._reorder_convolution_weight(
        layer.weight.to(dtype), layer.padding, stride, dilation, groups, _kind(layer.images)[0]
    )
    bias = None if layer.bias is None else layer.bias.to(dtype)
    library = torch.ops.mkldnn._convolution_pointwise
    with graph.inserting_before(layer.convolution):
        held = (
            _hold(graph, constants, weight),
            None if bias is None else _hold(graph, constants, bias),
            *(layer.padding, stride, dilation, groups),
        )
        if layer.added is None:
            behind = (layer.activation, list(layer.limits), "")
            node = graph.call_function(library.default, (layer.images, *held, *behind))
        else:
            activation = None if layer.activation == "none" else layer.activation
            added: tuple[Any, ...] = ("add", 1.0, activation, [], "")
            node = graph.call_function(library.binary, (layer.images, layer.added, *held, *added))
    node.meta = dict(layer.nodes[-1].meta)
    layer.nodes[-1].replace_all_uses_with(node)
    for replaced in reversed(layer.nodes):
        graph.erase_node(replaced)
    return node


def _hold(graph: fx.Graph, constants: dict[str, torch.Tensor], value: torch.Tensor) -> fx.Node:
    name = f"constant_{len(constants)}"
    constants[name] = value
    node = graph.get_attr(name)
    node.meta[_VALUE] = value
    return node


def _arguments(node: fx.Node) -> tuple[Any, ...]:
    """A node's arguments, whose types its operation fixes and `fx` does not tell."""
    return node.args


def _kind(node: fx.Node) -> tuple[torch.Size, torch.dtype]:
    """Shape and number format of a node's value."""
    kind: tuple[torch.Size, torch.dtype] = node.meta[_KIND]
    return kind


def _constants(*nodes: Any) -> list[torch.Tensor | None] | None:
    """The values of nodes, before any change of their number format; None if one has none."""
    values: list[torch.Tensor | None] = []
    for node in nodes:
        if isinstance(node, fx.Node) and node.target is _aten._to_copy.default:
            (node,) = node.args
        if node is not None and node.op != "get_attr":
            return None
        values.append(None if node is None else node.meta[_VALUE].detach())
    return values
