"""Networks that are no chain of modules, cut where their graph narrows to a single tensor.

The body is traced (torch.fx, Reed et al., 2022) as coarsely as its stages allow: a module that is
not opened runs as it is, so whatever it decides while it runs (dropout, batch statistics, number
formats) it goes on deciding. A trace is not believed: it must read the same in every mode, and
what is cut along it must equal the network to the last bit.
"""

from __future__ import annotations

import copy
import inspect
import operator
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise, product
from typing import Any

import torch
from timm.models import get_notrace_functions, get_notrace_modules
from torch import fx, nn

from bench.models.body import dense, stage_ends
from bench.records import PARTS

# How deeply modules are opened, coarse first; a finer trace is made only where one is needed.
_LEVELS = (0, 1, 2)
_OPAQUE = ("torch.", "timm.layers.")
# What is the size of the batch for both of these is so for every batch; others are compared.
_BATCHES = (2, 3)
_COMPARED = ((False, 5), (True, 4))  # in training or not, and size of the batch


class _NotCuttableError(Exception):
    """Says in words why a network cannot be cut along its graph."""


@dataclass(frozen=True, slots=True, eq=False)
class GraphBody:
    """A verified graph, in one piece for each step from a boundary to the next.

    The pieces name modules and parameters of whatever network they are run on.
    """

    boundaries: tuple[int, ...]
    pieces: tuple[fx.Graph, ...]
    parameters: dict[str, int]  # first part that uses it, for every parameter of the body
    modules: dict[str, int]  # first part that runs it, for every module that the graph calls

    def __deepcopy__(self, memo: dict[int, object]) -> GraphBody:
        return self  # it is never changed, and bound to no network

    def __repr__(self) -> str:
        return repr((self.boundaries, [str(piece) for piece in self.pieces]))

    @property
    def limits(self) -> str | None:
        missing = [str(k) for k in range(1, PARTS) if k not in self.boundaries]
        if not missing:
            return None
        return f"more than one tensor is alive behind part {' and '.join(missing)}"

    def run(self, network: nn.Module, activations: torch.Tensor, start: int, stop: int) -> Any:
        first, last = self.boundaries.index(start), self.boundaries.index(stop)
        for piece in self.pieces[first:last]:
            activations = _Runner(network, graph=piece).run(activations)
            if piece is not self.pieces[-1]:
                activations = dense(activations)
        return activations

    def part_of(self, parameter: str) -> int:
        return self.parameters.get(parameter, PARTS - 1)

    def modules_before(self, network: nn.Module, boundary: int) -> list[nn.Module]:
        return [
            network.get_submodule(name) for name, part in self.modules.items() if part < boundary
        ]


def cut_graph(network: nn.Module, architecture: str, image_size: int) -> GraphBody | str:
    """Trace a network and cut it along its stages; or say in words why that cannot be done.

    The network itself is not touched: copies of it are traced and compared.
    """
    best: GraphBody | None = None
    reason = ""
    for level in _LEVELS:
        try:
            steps = _Steps(copy.deepcopy(network), level, image_size)
            cuts = steps.cuts(stage_ends(network, steps.paths, architecture))
            if best is not None and len(cuts.points) + 2 <= len(best.boundaries):
                continue
            body = steps.body(cuts)
            _verify(network, body, image_size)
        except _NotCuttableError as error:
            reason = reason or str(error)
        except Exception as error:  # what cannot be traced may fail in any way
            first_line = str(error).strip().partition("\n")[0] or type(error).__name__
            reason = reason or f"its graph cannot be traced: {first_line}"
        else:
            best = body
            if cuts.are_exact:
                break
    return best or reason


# --- tracing --------------------------------------------------------------------------------


class _Tracer(fx.Tracer):
    """Opens plain containers, and other modules `level` deep."""

    traced_func_name = "forward_features"
    proxy_buffer_attributes = True

    def __init__(self, level: int) -> None:
        super().__init__(autowrap_functions=tuple(get_notrace_functions()))
        self._level = level
        self._never_opened = tuple(get_notrace_modules())

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if type(m) is nn.Sequential:
            return False
        if type(m).__module__.startswith(_OPAQUE) or isinstance(m, self._never_opened):
            return True
        depth = sum(kind is not nn.Sequential for _, kind in self.module_stack.values())
        return depth > self._level


def _trace(network: nn.Module, level: int) -> fx.Graph:
    """Trace a network's body in every mode.

    Raises:
        _NotCuttableError: the trace depends on the mode, or holds tensors made while tracing.
    """
    graphs: list[fx.Graph] = []
    _, *options = inspect.signature(network.forward_features).parameters.values()  # type: ignore[arg-type]
    defaults = {option.name: option.default for option in options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for is_training, is_mixed in product((True, False), (True, False)):
            network.train(is_training)
            with torch.autocast("cpu", torch.bfloat16, enabled=is_mixed):
                graphs.append(_Tracer(level).trace(network, defaults))
    known = {name for name, _ in (*network.named_parameters(), *network.named_buffers())}
    if any(
        node.target not in known for graph in graphs for node in graph.find_nodes(op="get_attr")
    ):
        raise _NotCuttableError("its graph holds tensors that belong to no module")
    if len({str(graph) for graph in graphs}) > 1:
        raise _NotCuttableError("its graph is another one in training than in evaluation")
    return graphs[-1]


# --- what the steps of a graph give ---------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _TensorKind:
    shape: tuple[int, ...]
    is_floating: bool


class _Runner(fx.Interpreter):
    """Runs a graph on a network; modules may change the lists that they are given."""

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        own = tuple(list(arg) if isinstance(arg, list) else arg for arg in args)
        return super().call_module(target, own, kwargs)


class _Recorder(_Runner):
    """Runs a graph and notes what each node gives, without the numbers of tensors."""

    def __init__(self, network: nn.Module, graph: fx.Graph) -> None:
        super().__init__(network, graph=graph)
        self.results: dict[fx.Node, object] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, torch.Tensor):
            self.results[n] = _TensorKind(tuple(result.shape), result.is_floating_point())
        else:
            self.results[n] = result if _is_literal(result) else type(result)
        return result


def _is_literal(value: object) -> bool:
    if isinstance(value, tuple | list):
        return all(_is_literal(item) for item in value)
    return value is None or isinstance(value, int | float | str)


@dataclass(frozen=True, slots=True)
class _Result:
    """What a node gives for each of the two batches."""

    small: object
    large: object

    @property
    def is_constant(self) -> bool:
        return _is_literal(self.small) and self.small == self.large

    @property
    def is_batch_size(self) -> bool:
        return (self.small, self.large) == _BATCHES

    @property
    def can_be_stored(self) -> bool:
        """Whether it is a tensor with a row for each picture."""
        if not isinstance(self.small, _TensorKind) or not isinstance(self.large, _TensorKind):
            return False
        rows = (self.small.shape[:1], self.large.shape[:1])
        same = self.small.shape[1:] == self.large.shape[1:] != ()
        return self.small.is_floating and same and rows == tuple((n,) for n in _BATCHES)


@torch.no_grad()
def _results(network: nn.Module, graph: fx.Graph, image_size: int) -> dict[fx.Node, _Result]:
    recorders = [_Recorder(network, graph) for _ in _BATCHES]
    for recorder, count in zip(recorders, _BATCHES, strict=True):
        recorder.run(_pixels(count, image_size))
    small, large = (recorder.results for recorder in recorders)
    return {node: _Result(small[node], large[node]) for node in graph.nodes}


# --- cutting --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Cuts:
    lines: tuple[int, ...]  # for each of the first four parts, the number of steps up to its end
    points: dict[int, int]  # those of them, by boundary, at which the graph can be cut
    are_exact: bool  # whether all can, and freeze exactly the parameters of their stages


class _Steps:
    """A trace in steps: those of its nodes that depend on the pictures, in order.

    What does not depend on them (class tokens, position embeddings) is no step: it is made anew
    in each piece that uses it. So is the size of the batch; other numbers that do not change
    with the batch are constants, because pictures have one size.
    """

    def __init__(self, network: nn.Module, level: int, image_size: int) -> None:
        graph = _trace(network, level)
        self._results = _results(network.eval(), graph, image_size)
        self._input, self._output = next(iter(graph.nodes)), graph.output_node()
        dependent = {self._input}
        for node in graph.nodes:
            if not dependent.isdisjoint(node.all_input_nodes):
                dependent.add(node)
        self._nodes = [n for n in graph.nodes if n in dependent - {self._input, self._output}]
        self._at = {node: step for step, node in enumerate(self._nodes)}
        self._at |= {self._input: -1, self._output: len(self._nodes)}
        self.paths = [_path(node) for node in self._nodes]
        self._modules, self._parameters = self._first_uses(network, graph)
        sizes = [0] * (len(self._nodes) + 1)
        for name, step in self._parameters.items():
            sizes[step + 1] += network.get_parameter(name).numel()
        self._trainable_before = list(accumulate(sizes))

    def cuts(self, ends: Sequence[int]) -> _Cuts:
        """Cut as near to the ends of the stages as a single tensor allows.

        Near is told by the parameters between. A part whose end has no point nearer to it than
        to another's ends there all the same for freezing.

        Raises:
            _NotCuttableError: there is no such point.
        """
        anchors = [0, *ends, len(self._nodes)]
        before = [self._trainable_before[anchor] for anchor in anchors]
        if any(shallower >= deeper for shallower, deeper in pairwise(before[:-1])):
            raise _NotCuttableError("its stages do not follow one another in its graph")
        candidates: dict[int, list[tuple[int, int, int]]] = {}
        for point in range(1, len(self._nodes)):
            alive = self._alive(point)
            if len(alive) == 1 and self._results[alive[0]].can_be_stored:
                gaps = [abs(self._trainable_before[point] - weight) for weight in before]
                k = gaps.index(min(gaps))
                candidates.setdefault(k, []).append((gaps[k], abs(point - anchors[k]), point))
        nearest = {k: min(candidates[k]) for k in range(1, PARTS) if k in candidates}
        if not nearest:
            raise _NotCuttableError("more than one tensor is alive behind each of its parts")
        points = {k: point for k, (_, _, point) in nearest.items()}
        lines = tuple(points.get(k, anchors[k]) for k in range(1, PARTS))
        gaps = [gap for gap, _, _ in nearest.values()]
        return _Cuts(lines, points, gaps == [0] * (PARTS - 1))

    def body(self, cuts: _Cuts) -> GraphBody:
        def part(step: int) -> int:
            return sum(line <= step for line in cuts.lines)

        places = [0, *cuts.points.values(), len(self._nodes)]
        return GraphBody(
            boundaries=(0, *cuts.points, PARTS),
            pieces=tuple(self._piece(start, stop) for start, stop in pairwise(places)),
            parameters={name: part(step) for name, step in self._parameters.items()},
            modules={name: part(step) for name, step in self._modules.items()},
        )

    def _alive(self, place: int) -> list[fx.Node]:
        """Nodes before a place between two steps that are needed behind it."""
        return [
            node
            for node in (self._input, *self._nodes[:place])
            if any(self._at[user] >= place for user in node.users)
            and not self._results[node].is_constant
            and not self._results[node].is_batch_size
        ]

    def _piece(self, start: int, stop: int) -> fx.Graph:
        """Copy the steps from one place to another into a graph of one input."""
        graph = fx.Graph()
        activations = graph.placeholder("activations")
        copies = {self._alive(start)[0]: activations}

        def copy_of(node: fx.Node) -> Any:
            if node not in copies:
                is_behind = node in self._at
                if is_behind and self._results[node].is_constant:
                    return self._results[node].small
                copies[node] = (
                    graph.call_method("size", (activations, 0))
                    if is_behind
                    else graph.node_copy(node, copy_of)
                )
            return copies[node]

        for node in self._nodes[start:stop]:
            copies[node] = graph.node_copy(node, copy_of)
        is_last = stop == len(self._nodes)
        result = self._output.args[0] if is_last else self._alive(stop)[0]
        graph.output(fx.map_arg(result, copy_of))
        return graph

    def _first_uses(
        self, network: nn.Module, graph: fx.Graph
    ) -> tuple[dict[str, int], dict[str, int]]:
        """Give for each module that is called, and each parameter, the first step to need it.

        It is the first that counts: a parameter that is used again behind a boundary must not be
        trained as long as what is stored at the boundary depends on it.
        """
        first: dict[fx.Node, int] = {}
        for node in reversed(graph.nodes):
            users = [first[user] for user in node.users]
            first[node] = self._at.get(node, min(users, default=len(self._nodes)))
        name_of = {id(p): name for name, p in network.named_parameters()}
        modules: dict[str, int] = {}
        parameters: dict[str, int] = {}
        for node, step in sorted(first.items(), key=lambda item: -item[1]):
            if step == len(self._nodes):
                continue  # nothing that is needed uses it
            name = str(node.target)
            used: list[object] = []
            if node.op == "call_module":
                modules[name] = step
                used += network.get_submodule(name).parameters()
            elif node.op == "get_attr":
                used.append(operator.attrgetter(name)(network))
            parameters |= {name_of[id(item)]: step for item in used if id(item) in name_of}
        return modules, parameters


def _path(node: fx.Node) -> str:
    """Name the module of the network that a node runs or belongs to; "" for the network itself."""
    stack = node.meta.get("nn_module_stack")
    return str(next(reversed(stack.values()))[0]) if stack else ""


# --- verifying ------------------------------------------------------------------------------


@torch.no_grad()
def _verify(network: nn.Module, body: GraphBody, image_size: int) -> None:
    """Compare the pieces with the whole: what they give, draw at random and leave behind.

    Raises:
        _NotCuttableError: they differ in a single bit.
    """
    whole, cut = copy.deepcopy(network), copy.deepcopy(network)
    for is_training, count in _COMPARED:
        outcomes = []
        for copied in (whole, cut):
            copied.train(is_training)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(count)
                features = _pixels(count, image_size)
                if copied is whole:
                    features = copied.forward_features(features)  # type: ignore[operator]
                else:
                    features = body.run(copied, features, 0, PARTS)
                pooled = copied.forward_head(features, pre_logits=True)  # type: ignore[operator]
                outcomes.append([pooled, torch.get_rng_state(), *copied.buffers()])
        if not all(torch.equal(a, b) for a, b in zip(*outcomes, strict=True)):
            mode = "training" if is_training else "evaluation"
            raise _NotCuttableError(f"its graph gives other numbers than itself in {mode}")


def _pixels(count: int, image_size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.rand(count, 3, image_size, image_size, generator=generator)
