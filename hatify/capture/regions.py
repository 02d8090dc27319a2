"""Blocks with a mode of their own become part of the graph.

What one under `torch.no_grad()` computes from carries no gradient. One that switches autocast off stands between a call
that does so and one that undoes it.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch._higher_order_ops.wrap import wrap_with_autocast, wrap_with_set_grad_enabled
from torch.fx import Graph, GraphModule, Node

from hatify.capture.calls import call, is_tensor, switch_autocast_back, switch_autocast_off
from hatify.names import numbered

aten = torch.ops.aten


def inline_regions(graph: Graph, constants: dict[str, Any]) -> None:
    """Put the operators of each block in the place of its call. constants: what `get_attr` nodes read, by name."""
    while blocks := [node for node in graph.nodes if _can_be_inlined(node)]:
        with_gradient = _with_gradient(graph)
        for block in blocks:
            with graph.inserting_before(block):
                if block.target is wrap_with_autocast:
                    *mode, body = block.args[:5]
                    opened = graph.call_function(switch_autocast_off, tuple(mode))
                    _inline(graph, block, body, block.args[5:], constants)
                    graph.call_function(switch_autocast_back, (opened,))
                else:
                    enabled, body, *operands = block.args
                    cut = set() if enabled else with_gradient
                    inside = [call(graph, aten.detach.default, n, like=block) if n in cut else n for n in operands]
                    _inline(graph, block, body, inside, constants)
            graph.erase_node(block)
            _drop(graph, body, constants)


def _can_be_inlined(node: Node) -> bool:
    """Not a block that switches autocast on: an error inside would leave it on."""
    switches_off = node.target is wrap_with_autocast and not node.args[2]
    return switches_off or node.target is wrap_with_set_grad_enabled


def _inline(graph: Graph, block: Node, body: Any, operands: Sequence[Any], constants: dict[str, Any]) -> None:
    """Copy what a block computes to the graph's point of insertion, for all that read it."""
    module = constants[str(body.target)]
    copies: dict[Node, Any] = dict(zip(module.graph.find_nodes(op="placeholder"), operands, strict=True))
    for node in module.graph.nodes:
        if node.op == "call_function":
            copies[node] = graph.node_copy(node, copies.__getitem__)
        elif node.op == "get_attr":
            copies[node] = _copied_constant(graph, node, module, constants)
    results = module.graph.output_node().args[0]
    for chosen in list(block.users):
        assert chosen.target is operator.getitem
        chosen.replace_all_uses_with(copies[results[chosen.args[1]]])
        graph.erase_node(chosen)


def _drop(graph: Graph, body: Any, constants: dict[str, Any]) -> None:
    if not body.users:
        graph.erase_node(body)
        del constants[str(body.target)]


def _copied_constant(graph: Graph, node: Node, module: GraphModule, constants: dict[str, Any]) -> Node:
    taken = {*constants, *(str(n.target) for n in graph.nodes if n.op == "get_attr")}
    name = next(name for name in numbered(str(node.target), "_") if name not in taken)
    constants[name] = getattr(module, str(node.target))
    constant = graph.create_node("get_attr", name)
    constant.meta = dict(node.meta, role="constant", name=name)
    return constant


def _with_gradient(graph: Graph) -> set[Node]:
    """The tensors that may require a gradient: the inputs, the parameters, and what is computed from them."""
    found: set[Node] = set()
    for node in graph.nodes:
        if not is_tensor(node) or not node.meta["val"].is_floating_point():
            begins = False
        elif node.op == "get_attr":
            begins = node.meta["role"] == "parameter"
        else:
            begins = node.op == "placeholder" or any(n in found for n in node.all_input_nodes)
        if begins and node.target is not aten.detach.default:
            found.add(node)
    return found
