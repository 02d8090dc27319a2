"""What the nodes of a captured graph take, give, and are made of."""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch.fx import Graph, Node

from hatify.analysis.effect import Argument
from hatify.capture.calls import given_arguments, is_tensor
from hatify.capture.mutations import written


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


def arguments_of(node: Node) -> dict[str, Any]:
    """A node's arguments by their names in the operator's schema, defaults filled in."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return {f"argument_{i}": value for i, value in enumerate(node.args)} | dict(node.kwargs)
    given, schema = given_arguments(node), node.target._schema.arguments
    return {a.name: given.get(a.name, a.default_value) for a in schema if a.name in given or a.has_default_value()}


def locations(node: Node) -> Iterator[tuple[Argument, Any]]:
    """Every argument of a node with its location, the elements of lists one by one."""
    for name, value in arguments_of(node).items():
        if isinstance(value, list | tuple) and any(isinstance(v, Node) for v in value):
            for index, element in enumerate(value):
                yield Argument(name, index), element
        else:
            yield Argument(name), value


def state_of(graph: Graph) -> set[Node]:
    """The parameters and buffers that forward writes into.

    What a call with a subgraph does inside cannot be seen: its buffers count as written.
    """
    state = {base for base in written(graph) if base.meta.get("role") in ("parameter", "buffer")}
    for node in graph.nodes:
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            state.update(n for n in node.all_input_nodes if n.meta.get("role") == "buffer")
    return state


def is_selection(node: Node) -> bool:
    """Whether a node picks one of several results."""
    return node.target is operator.getitem and not is_tensor(node.args[0])
