"""A graph as data, node by node.

A graph is run as Python code that torch.fx writes from it, so names that come from a file must be names and nothing
else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch.fx import Graph, Node
from torch.fx.node import map_aggregate, map_arg

from hatify.errors import FileError
from hatify.serialization.sizes import SizesApart, SizesTogether
from hatify.serialization.values import Reference, decoded, encoded

NOTES = ("role", "name", "module_path")  # of a node's meta data, what is kept beside its value
PATH = re.compile(r"""[^"'\\\s]+""")


def graph_apart(graph: Graph) -> list[dict[str, Any]]:
    """The nodes in order.

    Raises:
        FileError: an argument of a kind that no file has a form for.
    """
    sizes = SizesApart()
    return [_node_apart(node, sizes) for node in graph.nodes]


def graph_together(nodes: Sequence[Mapping[str, Any]], held: set[str]) -> Graph:
    """The graph of these nodes. held: the names of all modules and attributes that it may use.

    Raises:
        FileError: something that does not exist here.
        AttributeError, KeyError, TypeError, ValueError: `graph_apart` never made this.
    """
    graph, sizes = Graph(), SizesTogether()
    made: dict[str, Node] = {}
    for data in nodes:
        node = graph.create_node(
            data["op"],
            _target(data["op"], data["target"], held),
            _with_nodes(data.get("args", {"tuple": []}), made),
            _with_nodes(data.get("kwargs", {"dict": []}), made),
            data["name"],
        )
        _check_names(node)
        node.meta = {note: data["notes"][note] for note in NOTES if note in data["notes"]}
        if "value" in data:
            node.meta["val"] = sizes.together(data["value"])
        made[data["name"]] = node
    graph.lint()
    return graph


def _node_apart(node: Node, sizes: SizesApart) -> dict[str, Any]:
    called = node.op == "call_function"
    data: dict[str, Any] = {"op": node.op, "name": node.name, "target": encoded(node.target) if called else node.target}
    args, kwargs = (map_arg(given, _reference) for given in (node.args, node.kwargs))
    if args:
        data["args"] = encoded(args)
    if kwargs:
        data["kwargs"] = encoded(kwargs)
    data["notes"] = {note: node.meta[note] for note in NOTES if note in node.meta}
    value = sizes.apart(node.meta.get("val"))
    return data if value is None else data | {"value": value}


def _reference(node: Node) -> Any:
    return Reference(node.name)


def _with_nodes(data: Any, made: Mapping[str, Node]) -> Any:
    return map_aggregate(decoded(data), lambda part: made[part.node] if isinstance(part, Reference) else part)


def _target(op: str, target: Any, held: set[str]) -> Any:
    if op == "call_function":
        function = decoded(target)
        if not callable(function):
            raise ValueError(f"{target!r} cannot be called")
        return function
    if op in ("get_attr", "call_module") and (target not in held or not PATH.fullmatch(target)):
        raise FileError(f"the graph reads {target!r}, which the network does not hold")
    if op not in ("placeholder", "get_attr", "call_module", "output") or not isinstance(target, str):
        raise ValueError(f"{op!r} of {target!r}")
    return target


def _check_names(node: Node) -> None:
    names = [*node.kwargs, node.name, *([node.target] if node.op == "placeholder" else [])]
    if not all(isinstance(name, str) and name.isidentifier() for name in names):
        raise ValueError(f"no names: {names}")
