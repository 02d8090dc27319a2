"""An operator call as a rule sees it: arguments by their schema names, shapes, and supports."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import sympy
import torch
from torch.fx import Graph, Node
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from hatify.analysis.effect import Argument, Effect
from hatify.analysis.support import Support, live
from hatify.analysis.variables import Variables
from hatify.capture.calls import is_tensor
from hatify.capture.mutations import mutates
from hatify.capture.views import is_view

Rule: TypeAlias = "Callable[[Call], Effect]"
Rules: TypeAlias = Mapping[Any, Rule]


def shape_of(value: object) -> tuple[int, ...]:
    """The shape of a captured tensor; a dynamic dimension has its size in the example (see `concrete`)."""
    assert isinstance(value, torch.Tensor)
    return tuple(concrete(size) for size in value.shape)


def concrete(size: int | torch.SymInt) -> int:
    """A size as in the example inputs; an unknown one as a number of its own."""
    if not isinstance(size, torch.SymInt):
        return int(size)
    if is_unknown(size):
        return _imagined(size)
    fixed = size.node.maybe_as_int()  # an unknown size that turned out to be a number has no hint
    hint = size.node.hint if fixed is None else fixed
    assert isinstance(hint, int)
    return hint


def is_unknown(size: int | torch.SymInt) -> bool:
    """Whether a size follows from the data (how many entries a mask selects), not from the sizes of the inputs."""
    return bool(free_unbacked_symbols(size))


def _imagined(size: torch.SymInt) -> int:
    """An unknown size, where each count that only the data tells is a prime: no other size is mistaken for it."""
    counts = free_unbacked_symbols(size)
    primes = {count: sympy.Integer(sympy.prime(100 + int(count.name.lstrip("u")))) for count in counts}
    known = size.node.expr.xreplace(primes)
    assert size.node.shape_env is not None
    return concrete(size.node.shape_env.create_symintnode(known, hint=None))


def unknown_dimensions(value: object) -> tuple[int, ...]:
    """The dimensions of a captured tensor that have an unknown size."""
    return tuple(d for d, s in enumerate(value.shape) if is_unknown(s)) if isinstance(value, torch.Tensor) else ()


def entries_per_example(size: torch.SymInt) -> int:
    """How many entries a dynamic dimension has for each example of the batch."""
    return int(size.node.expr.as_coeff_Mul()[0])


def gives_tensors(node: Node) -> bool:
    """Whether a node's result is a tensor, or several."""
    value = node.meta.get("val")
    return any(isinstance(v, torch.Tensor) for v in (value if isinstance(value, tuple | list) else [value]))


def is_parameter(node: object) -> bool:
    """Whether a node reads a parameter of the model."""
    return isinstance(node, Node) and node.op == "get_attr" and node.meta.get("role") == "parameter"


def sources_of(value: object, weights: Collection[Node]) -> frozenset[Node]:
    """What a value that forward only reads, or computes from parameters (`weights`), is made of."""
    reads, seen = set[Node](), set[Node]()
    open_nodes = [value] if isinstance(value, Node) else []
    while open_nodes:
        node = open_nodes.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.op == "get_attr":
            reads.add(node)
        elif node in weights:
            open_nodes += node.all_input_nodes
    return frozenset(reads)


class Call:
    """One `call_function` node, for a rule.

    `call["weight"]` is the argument of that name (its default where the call leaves it out); `call.support(node)`
    the support of an operand; `call.shape(node)` its shape; `call.fresh(n)` n new features written by this call.
    """

    def __init__(
        self, node: Node, supports: Mapping[Node, Any], variables: Variables, weights: Collection[Node]
    ) -> None:
        self.node = node
        self.variables = variables
        self._supports = supports
        self._weights = weights
        self._arguments = arguments_of(node)

    def __getitem__(self, name: str) -> Any:
        return self._arguments.get(name)

    def __contains__(self, name: str) -> bool:
        return name in self._arguments

    @property
    def operands(self) -> tuple[Node, ...]:
        """The tensor operands, in order, each once."""
        return tuple(n for n in self.node.all_input_nodes if gives_tensors(n))

    @property
    def results(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of the results."""
        value = self.node.meta.get("val")
        values = value if isinstance(value, tuple | list) else [value]
        return tuple(shape_of(v) if isinstance(v, torch.Tensor) else () for v in values)

    @property
    def result_shape(self) -> tuple[int, ...]:
        """The shape of the result, of several that of the first."""
        return self.results[0]

    def shape(self, node: Node) -> tuple[int, ...]:
        """The shape of an operand; a dynamic dimension has its size in the example inputs."""
        return shape_of(node.meta["val"])

    def support(self, node: Node) -> Support:
        """The support of an operand: the feature of each entry, as an array broadcastable to it."""
        support = self._supports[node]
        assert isinstance(support, np.ndarray), f"{node} returns several tensors"
        return self.variables.find(support)

    def supports(self, node: Node) -> tuple[Support, ...]:
        """The supports of a node that returns several tensors."""
        support = self._supports[node]
        return tuple(self.variables.find(s) for s in support)

    def fresh(self, size: int) -> npt.NDArray[np.int64]:
        """New features [size], written by this call."""
        return self.variables.fresh(size, self.node)

    def has_features(self, node: Node) -> bool:
        """Whether a mask can gate any entry of a tensor; none of one that no rule has asked for yet."""
        return node in self._supports and self.variables.has_features(self.support(node))

    def is_weight(self, node: object) -> bool:
        """Whether a tensor is a parameter, or computed from parameters alone."""
        return node in self._weights

    def dimension(self, name: str, node: Node) -> int:
        """An argument that names a dimension, counted from the front."""
        return int(self[name]) % max(len(self.shape(node)), 1)

    def live(self, **parts: Any) -> Effect:
        """Nothing is known of the results."""
        value = self.node.meta.get("val")
        several = isinstance(value, tuple | list)
        supports = tuple(live(len(shape)) for shape in self.results)
        return Effect(supports if several else supports[0], **parts)


def arguments_of(node: Node) -> dict[str, Any]:
    """A node's arguments by their names in the operator's schema, defaults filled in."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return {f"argument_{i}": value for i, value in enumerate(node.args)} | dict(node.kwargs)
    arguments: dict[str, Any] = {}
    for position, argument in enumerate(node.target._schema.arguments):
        if position < len(node.args) and not argument.kwarg_only:
            arguments[argument.name] = node.args[position]
        elif argument.name in node.kwargs:
            arguments[argument.name] = node.kwargs[argument.name]
        elif argument.has_default_value():
            arguments[argument.name] = argument.default_value
    return arguments


def locations(node: Node) -> Iterator[tuple[Argument, Any]]:
    """Every argument of a node with its location, the elements of lists one by one."""
    for name, value in arguments_of(node).items():
        if isinstance(value, list | tuple) and any(isinstance(v, Node) for v in value):
            for index, element in enumerate(value):
                yield Argument(name, index), element
        else:
            yield Argument(name), value


def written(graph: Graph) -> set[Node]:
    """The parameters and buffers that forward writes into, itself or a view of them.

    What a call with a subgraph (a `no_grad` block) does inside cannot be seen: its buffers count as written.
    """
    bases: set[Node] = set()
    for node in graph.nodes:
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            bases.update(n for n in node.all_input_nodes if n.meta.get("role") == "buffer")
        base = node.args[0] if mutates(node) else None
        while isinstance(base, Node) and (is_view(base) or is_selection(base)):
            base = base.args[0]
        if isinstance(base, Node) and base.meta.get("role") in ("parameter", "buffer"):
            bases.add(base)
    return bases


def is_selection(node: Node) -> bool:
    """Whether a node picks one of several results."""
    return node.target is operator.getitem and not is_tensor(node.args[0])
