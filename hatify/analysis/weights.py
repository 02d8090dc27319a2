"""Parameters, and what forward computes from them alone."""

from __future__ import annotations

from collections.abc import Collection

from torch.fx import Graph, Node

from hatify.analysis.application import apply_rule, live_like
from hatify.analysis.call import Call, Rules
from hatify.analysis.nodes import gives_tensors, is_parameter
from hatify.analysis.variables import Variables


def find_weights(graph: Graph, rules: Rules) -> frozenset[Node]:
    """The parameters, and what forward computes from parameters and constants alone (weight norm, say).

    A layer is none of it, even where its input is a constant (the embedding of all positions, say).
    """
    fixed: set[Node] = set()  # depends on no input
    weights: set[Node] = set()
    for node in graph.nodes:
        sources = node.all_input_nodes
        if node.op != "get_attr":
            computes = node.op == "call_function" and all(source in fixed for source in sources)
            if not computes or _is_layer(node, rules, weights):
                continue
        fixed.add(node)
        if is_parameter(node) or any(source in weights for source in sources):
            weights.add(node)
    return frozenset(weights)


def _is_layer(node: Node, rules: Rules, weights: Collection[Node]) -> bool:
    """Whether a rule says of a call that it uses a weight, whatever the supports of its operands."""
    if not gives_tensors(node) or not any(source in weights for source in node.all_input_nodes):
        return False
    supports = {source: live_like(source) for source in node.all_input_nodes}
    return bool(apply_rule(Call(node, supports, Variables(), weights), rules).uses)
