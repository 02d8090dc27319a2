"""The graph of both modes as one of them runs it: without what only the other one uses."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from torch._ops import OpOverload
from torch.fx import Graph, Node
from torch.fx.node import map_arg

from hatify.capture.modes import when_training
from hatify.capture.mutations import mutates
from hatify.capture.views import is_view


def differ(graph: Graph) -> bool:
    """Whether one mode computes anything that the other one does not use."""
    chosen = graph.find_nodes(op="call_function", target=when_training)
    return bool(chosen) or any(map(_is_flag, graph.output_node().all_input_nodes))


def in_one_mode(graph: Graph, training: bool, outputs: slice) -> Graph:
    """A copy of a graph, for one mode alone. `training` is read in it still, by dropouts and norms.

    outputs: those of this mode; in place of the other's there is None.
    """
    own = copy.deepcopy(graph)
    results = list(own.output_node().args[0])  # type: ignore[arg-type]
    kept = range(len(results))[outputs]
    given = [value if i in kept or _is_flag(value) else None for i, value in enumerate(results)]
    own.output_node().args = (tuple(given),)
    _leave_out(own, results)
    for choice in own.find_nodes(op="call_function", target=when_training):
        _, ours, theirs = choice.args
        chosen, other = (ours, theirs) if training else (theirs, ours)
        _replace(choice, chosen)
        own.erase_node(choice)
        _leave_out(own, [other])
    return own


def _is_flag(value: Any) -> bool:
    return isinstance(value, Node) and value.meta.get("role") == "flag"


def _replace(node: Node, value: Any) -> None:
    """Let all who read a node read a value, which may be a constant."""

    def replaced(argument: Node) -> Any:
        return value if argument is node else argument

    for user in list(node.users):
        user.args, user.kwargs = map_arg((user.args, user.kwargs), replaced)


def _leave_out(graph: Graph, values: Iterable[Any]) -> None:
    """Erase those of some values that nothing reads any more, and what only they were computed from."""
    unread = [value for value in values if isinstance(value, Node) and _does_nothing(value)]
    erased: set[Node] = set()
    while unread:
        node = unread.pop()
        if node not in erased:
            inputs = node.all_input_nodes
            graph.erase_node(node)
            erased.add(node)
            unread += filter(_does_nothing, inputs)


def _does_nothing(node: Node) -> bool:
    """Whether nothing is missed without a node: not what it gives, nor what it writes into."""
    if node.users or node.op == "placeholder":
        return False
    return not mutates(node) or _is_its_own(node.args[0], node)


def _is_its_own(written: Any, node: Node) -> bool:
    """Whether a tensor has memory that only one node looks at, by what operators say: a loaded graph has no more."""
    return isinstance(written.target, OpOverload) and not is_view(written) and list(written.users) == [node]
