"""Forward pass: the support of every tensor, and which features are coupled."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch.fx import Graph, Node

from hatify.analysis.application import apply_rule
from hatify.analysis.call import Call, Rules
from hatify.analysis.effect import Effect
from hatify.analysis.nodes import gives_tensors, locations, state_of
from hatify.analysis.sizes import shape_of
from hatify.analysis.support import Support, live
from hatify.analysis.variables import Variables
from hatify.analysis.weights import find_weights
from hatify.capture.calls import is_tensor

# A raw parameter larger than this (a table of embeddings) is not followed entry by entry, but by its last dimension.
LARGEST_FOLLOWED_PARAMETER = 1 << 20


@dataclass(frozen=True)
class Inference:
    """What the forward pass found: a support (or a tuple of them) and an effect for each node.

    weights: the parameters and what is computed from them; they are in `supports` only if a rule asked for them.
    """

    supports: dict[Node, Any]
    effects: dict[Node, Effect]
    variables: Variables
    weights: frozenset[Node]

    def has_features(self, node: Node) -> bool:
        """Whether any entry of the node's result (or results) can be gated by a mask."""
        support = self.supports.get(node)
        if support is None:
            return False
        supports = support if isinstance(support, tuple) else (support,)
        return any(self.variables.has_features(s) for s in supports)


class _Supports(dict[Node, Any]):
    """Supports by node; those of parameters and of what is computed from them are made when a rule asks for them.

    A convolution never asks for its weight's, so that weights, however computed, need none. That of `state`, which
    forward writes into, is live.
    """

    def __init__(self, graph: Graph, rules: Rules) -> None:
        super().__init__()
        self.variables = Variables()
        self.effects: dict[Node, Effect] = {}
        self.weights = find_weights(graph, rules)
        self._rules = rules
        self._state = state_of(graph)

    def __missing__(self, node: Node) -> Any:
        if node.op == "call_function":
            for above in self._missing_above(node):
                self.record(above, self.effect(above))
            return self[node]
        value = node.meta["val"]
        held = node.meta.get("role") in ("parameter", "buffer") and node not in self._state
        adopts = held and value.is_floating_point() and value.numel() > 0
        self[node] = self.variables.floating(_followed(shape_of(value))) if adopts else live(value.dim())
        return self[node]

    def _missing_above(self, node: Node) -> Iterator[Node]:
        """A call and those that it is computed from, first things first: a long chain of them is no recursion."""
        found, open_nodes = set[Node](), [node]
        while open_nodes:
            call = open_nodes.pop()
            if call not in found and call not in self and call.op == "call_function" and gives_tensors(call):
                found.add(call)
                open_nodes += call.all_input_nodes
        return (call for call in sorted(found) if call not in self)

    def effect(self, node: Node) -> Effect:
        return apply_rule(Call(node, self, self.variables, self.weights), self._rules)

    def record(self, node: Node, effect: Effect) -> None:
        self.effects[node] = effect
        self[node] = effect.result


def _followed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a raw parameter's support."""
    if math.prod(shape) <= LARGEST_FOLLOWED_PARAMETER:
        return shape
    return (*[1] * (len(shape) - 1), shape[-1])


def infer_supports(
    graph: Graph, rules: Rules, heads: Collection[Node] = (), last_layers: Collection[Node] = ()
) -> Inference:
    """Apply each node's rule in graph order. The results of `heads` and of other `last_layers` are live."""
    supports = _Supports(graph, rules)
    earlier: dict[Any, Effect] = {}
    for node in graph.nodes:
        if node.op == "placeholder" and is_tensor(node):
            supports[node]  # made here, in the order of the graph
        if node.op != "call_function" or node in supports.weights or not gives_tensors(node):
            continue
        effect = supports.effect(node)
        if node in heads:
            effect = _as_head(effect)
        elif node in last_layers:
            effect = _as_open(effect)
        supports.record(node, effect)
        _couple_calls(node, effect, earlier, supports.variables)
    return Inference(dict(supports), supports.effects, supports.variables, supports.weights)


def _couple_calls(node: Node, effect: Effect, earlier: dict[Any, Effect], variables: Variables) -> None:
    """Calls of the same operator with the same weights (a layer that is called twice) write the same features.

    With features of their own, the weights would be locked wherever any of the calls needs them.
    """
    arguments = {use.argument for use in effect.uses}
    if not arguments:
        return
    weights = tuple((argument, value) for argument, value in locations(node) if argument in arguments)
    first = earlier.setdefault((node.target, weights), effect)
    for one, other in zip(_masked_features(first), _masked_features(effect), strict=False):
        if one.shape == other.shape:
            variables.combine(one, other)


def _masked_features(effect: Effect) -> list[Support]:
    return [gate.ids for gate in effect.gates] + effect.masks_of_weights


def _as_open(effect: Effect) -> Effect:
    """A last layer that all tasks share: each of its outputs is every task's."""
    assert not isinstance(effect.result, tuple)
    uses = tuple(replace(use, mask=None) for use in effect.uses)
    reads = (*effect.reads, *effect.flows)
    return replace(effect, result=live(effect.result.ndim), reads=reads, flows=(), gates=(), uses=uses)


def _as_head(effect: Effect) -> Effect:
    """A head's weights are each task's own, so its outputs need no mask."""
    assert not isinstance(effect.result, tuple)
    return Effect(
        live(effect.result.ndim),
        reads=(*effect.reads, *effect.flows),
        per_task=tuple(use.argument for use in effect.uses),
    )
