"""Forward pass: the support of every tensor, and which features are coupled."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.fx import Graph, Node

from hatify.analysis.call import Call, Rules, is_selection, is_tensor, shape_of, written
from hatify.analysis.effect import Effect
from hatify.analysis.support import live
from hatify.analysis.variables import Variables

# A raw parameter larger than this is not followed entry by entry: it is LIVE, and so locked whole.
LARGEST_FOLLOWED_PARAMETER = 1 << 20


@dataclass(frozen=True)
class Inference:
    """What the forward pass found: a support (or a tuple of them) and an effect for each node."""

    supports: dict[Node, Any]
    effects: dict[Node, Effect]
    variables: Variables

    def has_features(self, node: Node) -> bool:
        """Whether any entry of the node's result (or results) can be gated by a mask."""
        support = self.supports.get(node)
        if support is None:
            return False
        supports = support if isinstance(support, tuple) else (support,)
        return any(self.variables.has_features(s) for s in supports)


class _Supports(dict[Node, Any]):
    """Supports by node. A parameter's is made when it is first asked for, so that weights never need one; that of
    `state`, which forward writes into, is live.
    """

    def __init__(self, variables: Variables, state: Collection[Node]) -> None:
        super().__init__()
        self._variables = variables
        self._state = state

    def __missing__(self, node: Node) -> Any:
        value = node.meta["val"]
        adopts = (
            node.meta.get("role") in ("parameter", "buffer")
            and node not in self._state
            and value.is_floating_point()
            and 0 < value.numel() <= LARGEST_FOLLOWED_PARAMETER
        )
        self[node] = self._variables.floating(shape_of(value)) if adopts else live(value.dim())
        return self[node]


def infer_supports(
    graph: Graph, rules: Rules, heads: Collection[Node] = (), last_layers: Collection[Node] = ()
) -> Inference:
    """Apply each node's rule in graph order. The results of `heads` and of other `last_layers` are live."""
    variables = Variables()
    supports = _Supports(variables, written(graph))
    effects: dict[Node, Effect] = {}
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor | tuple | list):
            continue
        effect = _apply(Call(node, supports, variables), rules)
        if node in heads:
            effect = _as_head(effect)
        elif node in last_layers:
            effect = _as_open(effect)
        effects[node] = effect
        supports[node] = effects[node].result
    for node in graph.nodes:
        if is_tensor(node) and node.op != "get_attr":
            supports[node]  # a placeholder that no rule asked for
    return Inference(dict(supports), effects, variables)


def _apply(call: Call, rules: Rules) -> Effect:
    if is_selection(call.node):
        source, index = call.node.args
        assert isinstance(source, Node)
        return Effect(call.supports(source)[index], flows=(source,))  # type: ignore[index]
    rule = rules.get(call.node.target)
    if rule is None:
        return call.live(reads=call.operands, known=False)
    return rule(call)


def _as_open(effect: Effect) -> Effect:
    """A last layer that all tasks share: each of its outputs is every task's."""
    assert not isinstance(effect.result, tuple)
    return replace(effect, result=live(effect.result.ndim), reads=(*effect.reads, *effect.flows), flows=(), gates=())


def _as_head(effect: Effect) -> Effect:
    """A head's weights are each task's own, so its outputs need no mask."""
    assert not isinstance(effect.result, tuple)
    return Effect(
        live(effect.result.ndim),
        reads=(*effect.reads, *effect.flows),
        per_task=tuple(use.argument for use in effect.uses),
    )
