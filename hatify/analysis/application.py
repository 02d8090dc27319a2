"""The effect of one call: what its operator's rule says, or what is sound where no rule knows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.fx import Node

from hatify.analysis.call import Call, Rules
from hatify.analysis.effect import Effect, Use
from hatify.analysis.nodes import is_selection
from hatify.analysis.sizes import unknown_dimensions
from hatify.analysis.support import LIVE, ZERO, Support, live, varies, zero


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
    """The effect of a function that loses zeros loses those of padding, too, and no mask may make them zero."""
    if effect.keeps_zero:
        return effect
    gates = tuple(replace(gate, ids=_zeros_as_live(gate.ids)) for gate in effect.gates)
    if isinstance(effect.result, tuple):
        return replace(effect, result=tuple(_zeros_as_live(support) for support in effect.result), gates=gates)
    return replace(effect, result=_zeros_as_live(effect.result), gates=gates)


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


def live_like(node: Node) -> Any:
    """The support of a node's result, or of its several results, if nothing is known of it."""
    value = node.meta.get("val")
    if isinstance(value, tuple | list):
        return tuple(live(v.dim()) for v in value)
    return live(value.dim()) if isinstance(value, torch.Tensor) else None
