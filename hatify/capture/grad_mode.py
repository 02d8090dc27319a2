"""Blocks under `torch.no_grad()` become part of the graph: what they compute from carries no gradient."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from hatify.capture.calls import call, is_tensor

aten = torch.ops.aten


def inline_grad_modes(graph: Graph, constants: dict[str, Any]) -> None:
    """Put the operators of each block in the place of its call. constants: what `get_attr` nodes read, by name."""
    while blocks := [node for node in graph.nodes if node.target is torch.ops.higher_order.wrap_with_set_grad_enabled]:
        with_gradient = _with_gradient(graph)
        for block in blocks:
            _inline(graph, block, constants, with_gradient)


def _inline(graph: Graph, block: Node, constants: dict[str, Any], with_gradient: set[Node]) -> None:
    enabled, body, *operands = block.args
    assert isinstance(body, Node)
    module = constants[str(body.target)]
    copies: dict[Node, Any] = {}
    with graph.inserting_before(block):
        for placeholder, operand in zip(module.graph.find_nodes(op="placeholder"), operands, strict=True):
            cut = not enabled and operand in with_gradient
            copies[placeholder] = call(graph, aten.detach.default, operand, like=block) if cut else operand
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
    graph.erase_node(block)
    if not body.users:
        graph.erase_node(body)
        del constants[str(body.target)]


def _copied_constant(graph: Graph, node: Node, module: GraphModule, constants: dict[str, Any]) -> Node:
    taken = {str(n.target) for n in graph.nodes if n.op == "get_attr"}
    name = next(name for i in range(len(taken) + 1) if (name := f"{node.target}_{i}") not in taken)
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
