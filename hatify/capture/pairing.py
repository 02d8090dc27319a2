"""Which calls two traces of a model, in train and in eval mode, have in common."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from difflib import SequenceMatcher
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Graph, Node
from torch.fx.node import map_aggregate

aten = torch.ops.aten

Pair = tuple[Node | None, Node | None]  # a call in train mode, the same call in eval mode; None where there is none

DROPOUTS: set[Any] = {
    aten.dropout.default,
    aten.feature_dropout.default,
    aten.alpha_dropout.default,
    aten.feature_alpha_dropout.default,
}


def paired_inputs(train: Graph, evaluation: Graph) -> Iterator[tuple[Node, Node]]:
    """The placeholders of both graphs, pair by pair."""
    return zip(train.find_nodes(op="placeholder"), evaluation.find_nodes(op="placeholder"), strict=True)


def paired_calls(train: Graph, evaluation: Graph) -> list[Pair]:
    """The calls of both graphs in one order: those that both make, as a pair, between those that only one makes."""
    ours, theirs = _calls(train), _calls(evaluation)
    blocks = SequenceMatcher(
        None, [_kind(n) for n in ours], [_kind(n) for n in theirs], autojunk=False
    ).get_matching_blocks()
    pairs: list[Pair] = []
    i = j = 0
    for start, other_start, size in blocks:
        pairs += [(node, None) for node in ours[i:start]]
        pairs += [(None, node) for node in theirs[j:other_start]]
        i, j = start + size, other_start + size
        pairs += zip(ours[start:i], theirs[other_start:j], strict=True)
    return pairs


def _calls(graph: Graph) -> list[Node]:
    return [node for node in graph.nodes if node.op == "call_function"]


def _kind(node: Node) -> Hashable:
    """What must be alike in two calls that can be one: all but operands that are computed, and flags."""
    result = _kind_of_result(node.meta.get("val"))
    given = spelled_out(node, None)
    if node.target in DROPOUTS:
        given = (before_dropout(given[0]), *given[1:])
    arguments = map_aggregate((given, node.kwargs), _kind_of_argument)
    return str(node.target), node.meta.get("module_path"), result, repr(arguments)


def _kind_of_result(value: Any) -> Hashable:
    if isinstance(value, list | tuple):
        return tuple(map(_kind_of_result, value))
    return kind_of_tensor(value) if isinstance(value, Tensor) else type(value).__name__


def kind_of_tensor(value: Tensor) -> Hashable:
    """Type and shape in the example; where train mode leaves tokens out, what follows is another call in eval mode."""
    return value.dtype, tuple(map(_in_the_example, value.shape))


def _in_the_example(size: int | torch.SymInt) -> Hashable:
    """A size; None for one that only the data tells."""
    if isinstance(size, int):
        return size
    return size.node.hint if size.node.has_hint() else None


def spelled_out(node: Node, count: int | None) -> tuple[Any, ...]:
    """The positional arguments of a call with `count` of them; None: with all that have defaults."""
    if not isinstance(node.target, OpOverload):
        return node.args
    positional = [a for a in node.target._schema.arguments if not a.kwarg_only and a.name not in node.kwargs]
    return (*node.args, *(a.default_value for a in positional[len(node.args) : count]))


def arguments_beside(node: Node, other: Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A call's arguments, with the defaults that the same call in the other mode spells out."""
    return spelled_out(node, max(len(node.args), len(other.args))), dict(node.kwargs)


def _kind_of_argument(argument: Any) -> Any:
    if isinstance(argument, Node):
        return str(argument.target) if argument.op == "get_attr" else "computed"
    return without_flags(argument)


def without_flags(argument: Any) -> Any:
    """An argument of a call, or a mark in place of one that may follow the mode."""
    return "flag" if isinstance(argument, bool | float) else argument


def before_dropout(value: Any) -> Any:
    """A value, before dropouts that do nothing in eval mode: a trace reads there what they return, the value itself."""
    while isinstance(value, Node) and value.target in DROPOUTS and value.args[2] is not True:
        value = value.args[0]
    return value
