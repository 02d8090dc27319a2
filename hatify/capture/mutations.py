"""In-place operators: their aliases are followed, so that each later use reads the mutated value."""

from __future__ import annotations

import torch
from torch.fx import Graph, Node

from hatify.errors import CaptureError

aten = torch.ops.aten


def mutates(node: Node) -> bool:
    """Whether a call writes into its first operand."""
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable


def is_view(node: Node) -> bool:
    """Whether a call returns memory of its first operand."""
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and any(r.alias_info is not None for r in target._schema.returns)


def follow_mutations(graph: Graph) -> None:
    """Let later users of a mutated tensor read the operator's result, which is the same memory.

    Raises:
        CaptureError: a view and its base are both used after one of them was written to.
    """
    position = {node: i for i, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        mutated = node.args[0] if mutates(node) else None
        if not isinstance(mutated, Node):
            continue
        for user in [user for user in mutated.users if position[user] > position[node]]:
            user.replace_input_with(mutated, node)
        for alias in (*_bases(mutated), *_views(mutated)):
            if alias is not node and any(position[user] > position[node] for user in alias.users):
                raise CaptureError(
                    f"forward writes into a part of a tensor that it reads again ({node.name}, in "
                    f"{node.meta.get('module_path') or 'the model'}); write it without the in-place assignment"
                )


def drop_counters(graph: Graph) -> None:
    """Batch norm's count of its batches goes: the layer that takes its place counts by itself."""
    for node in list(graph.nodes):
        counts = node.target is aten.add_.Tensor and node.args[0].meta.get("role") == "buffer"
        if counts and node.args[0].target.endswith("num_batches_tracked") and not node.users:
            graph.erase_node(node)


def _bases(node: Node) -> list[Node]:
    """The tensors that a view is a view of; a parameter or buffer is left to the analysis."""
    bases: list[Node] = []
    while is_view(node) and isinstance(node.args[0], Node):
        node = node.args[0]
        bases.append(node)
    return [base for base in bases if base.op != "get_attr"]


def _views(node: Node) -> list[Node]:
    """The views of a tensor, and theirs."""
    views = [user for user in node.users if is_view(user) and user.args[0] is node and not mutates(user)]
    return [*views, *(below for view in views for below in _views(view))]
