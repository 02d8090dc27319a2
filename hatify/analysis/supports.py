"""Forward pass: the support of every tensor, and which features are coupled."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.fx import Graph, Node

from hatify.analysis.call import Call, Rules
from hatify.analysis.effect import Effect, Use
from hatify.analysis.nodes import gives_tensors, is_parameter, is_selection, locations, state_of
from hatify.analysis.sizes import shape_of, unknown_dimensions
from hatify.analysis.support import LIVE, ZERO, Support, live, varies, zero
from hatify.analysis.variables import Variables
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
            self.record(node, self.effect(node))
            return self[node]
        value = node.meta["val"]
        held = node.meta.get("role") in ("parameter", "buffer") and node not in self._state
        adopts = held and value.is_floating_point() and value.numel() > 0
        self[node] = self.variables.floating(_followed(shape_of(value))) if adopts else live(value.dim())
        return self[node]

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
            supports[node]
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
    if not gives_tensors(node) or not any(is_parameter(source) or source in weights for source in node.all_input_nodes):
        return False
    supports = {source: live_like(source) for source in node.all_input_nodes}
    return bool(apply_rule(Call(node, supports, Variables(), weights), rules).uses)


def live_like(node: Node) -> Any:
    """The support of a node's result, or of its several results, if nothing is known of it."""
    value = node.meta.get("val")
    if isinstance(value, tuple | list):
        return tuple(live(v.dim()) for v in value)
    return live(value.dim()) if isinstance(value, torch.Tensor) else None


def apply_rule(call: Call, rules: Rules) -> Effect:
    """The effect of a call; of an operator that no rule knows, everything is read and the result is live."""
    if is_selection(call.node):
        source, index = call.node.args
        assert isinstance(source, Node)
        return Effect(call.supports(source)[index], flows=(source,))  # type: ignore[index]
    if _is_empty(call.node.meta.get("val")):
        return Effect(zero(len(call.result_shape)))
    rule = rules.get(call.node.target)
    if rule is None:
        return call.live(fixed=call.operands)
    return _without_unknown_places(call, _without_lost_zeros(rule(call)))


def _is_empty(value: object) -> bool:
    """Whether a result is a tensor without entries (no registers, say), whatever the inputs: each of them is zero."""
    return isinstance(value, torch.Tensor) and any(isinstance(size, int) and size == 0 for size in value.shape)


def _without_lost_zeros(effect: Effect) -> Effect:
    """The effect of a function that loses zeros loses those of padding, too."""
    if effect.keeps_zero:
        return effect
    if isinstance(effect.result, tuple):
        return replace(effect, result=tuple(_zeros_as_live(support) for support in effect.result))
    return replace(effect, result=_zeros_as_live(effect.result))


def _zeros_as_live(support: Support) -> Support:
    return np.where(support == ZERO, LIVE, support)


def _without_unknown_places(call: Call, effect: Effect) -> Effect:
    """The effect; if features lay along a dimension of unknown size, that of an operator that no rule knows.

    Which entry of such a dimension holds a feature would depend on the data.
    """
    value = call.node.meta.get("val")
    values = value if isinstance(value, tuple | list) else [value]
    supports = effect.result if isinstance(effect.result, tuple) else [effect.result]
    if not any(varies(s, d) for v, s in zip(values, supports, strict=False) for d in unknown_dimensions(v)):
        return effect
    read = tuple(node for node in call.operands if not call.is_weight(node))
    whole = tuple(Use(use.argument) for use in effect.uses)
    return call.live(reads=read, uses=whole, per_task=effect.per_task)


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
