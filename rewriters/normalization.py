"""Normalisations. Their affine parameters and statistics are kept once a task, and carry the gate.

Masked features come back through the bias, so each is gated after the affine: the mask is folded into both.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.fx import Node

from hatify.analysis.call import Call
from hatify.analysis.effect import Argument, Effect, Gate
from hatify.analysis.support import has_variables
from rewriters.registry import rewriter

aten = torch.ops.aten

WEIGHT, BIAS = Argument("weight"), Argument("bias")
MEAN, VARIANCE = Argument("running_mean"), Argument("running_var")


@rewriter(aten.batch_norm.default, aten.instance_norm.default)
def channelwise(call: Call) -> Effect:
    """Each channel has its own statistics: dead channels disturb no other."""
    operand = call["input"]
    per_task = tuple(a for a in (WEIGHT, BIAS, MEAN, VARIANCE) if call[a.name] is not None)
    gates = _affine_gate(call, operand, [1])
    return Effect(call.support(operand), flows=(operand,), keeps_zero=False, gates=gates, per_task=per_task)


@rewriter(aten.group_norm.default)
def group_norm(call: Call) -> Effect:
    """Mixes the channels of a group: dead ones are read as zeros."""
    return _mixing(call, call["input"], [1])


@rewriter(aten.layer_norm.default, aten.rms_norm.default)
def layer_norm(call: Call) -> Effect:
    operand = call["input"]
    dimensions = len(call.shape(operand))
    return _mixing(call, operand, list(range(dimensions - len(call["normalized_shape"]), dimensions)))


def _mixing(call: Call, operand: Node, dimensions: Sequence[int]) -> Effect:
    per_task = tuple(a for a in (WEIGHT, BIAS) if call[a.name] is not None)
    gates = _affine_gate(call, operand, dimensions)
    parts = {"reads": (operand,)} if gates else {"flows": (operand,)}
    return Effect(call.support(operand), keeps_zero=False, gates=gates, per_task=per_task, **parts)


def _affine_gate(call: Call, operand: Node, dimensions: Sequence[int]) -> tuple[Gate, ...]:
    """The mask over the affine parameters' dimensions; none where the features lie elsewhere."""
    support, shape = call.support(operand), call.shape(operand)
    if any(support.shape[d] > 1 for d in range(support.ndim) if d not in dimensions):
        return ()
    affine_shape = tuple(shape[d] for d in dimensions)
    ids = np.broadcast_to(support.reshape([support.shape[d] for d in dimensions]), affine_shape)
    if not has_variables(ids):
        return ()
    slots = {WEIGHT: affine_shape}
    if call["bias"] is not None:
        slots[BIAS] = affine_shape
    return (Gate(ids, slots),)
