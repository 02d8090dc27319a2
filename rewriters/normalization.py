"""Normalisations. Their affine parameters and statistics are kept once a task, and carry the gate.

Masked features come back through the bias, so each is gated after the affine: the mask is folded into both.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch

from hatify.analysis.call import Call
from hatify.analysis.effect import Argument, Effect, Gate
from hatify.analysis.support import Support, has_variables, live, varies
from rewriters.registry import rewriter
from rewriters.uniform import uniform

aten = torch.ops.aten

WEIGHT, BIAS = Argument("weight"), Argument("bias")
MEAN, VARIANCE = Argument("running_mean"), Argument("running_var")


@rewriter(aten.batch_norm.default, aten.instance_norm.default)
def channelwise(call: Call) -> Effect:
    """Each channel has its own statistics, over all other dimensions."""
    rank = len(call.shape(call["input"]))
    return _normalized(call, mixes=[d for d in range(rank) if d != 1], affine=[1])


@rewriter(aten.group_norm.default)
def group_norm(call: Call) -> Effect:
    """Each group of channels has its own statistics, but each channel its own affine parameters."""
    rank = len(call.shape(call["input"]))
    return _normalized(call, mixes=range(1, rank), affine=[1])


@rewriter(aten.layer_norm.default, aten.rms_norm.default)
def layer_norm(call: Call) -> Effect:
    rank = len(call.shape(call["input"]))
    normalized = range(rank - len(call["normalized_shape"]), rank)
    return _normalized(call, mixes=normalized, affine=normalized)


@rewriter(aten._weight_norm.default, aten._weight_norm_interface.default)
def weight_norm(call: Call) -> Effect:
    """`g * v / |v|`, with a norm for each entry of `dim`: zero where either is, but every entry of a norm reads `v`.

    PyTorch's own -1 for `dim` is no last dimension: there is one norm of all.
    """
    direction, magnitude = call["v"], call["g"]
    support = call.support(direction)
    kept = None if call["dim"] == -1 else call.dimension("dim", direction)
    is_mixed = any(varies(support, d) for d in range(support.ndim) if d != kept)
    combination = call.variables.combine(support, call.support(magnitude))
    factors = [node for node, carries in zip((direction, magnitude), combination.carries, strict=True) if carries]
    norm = live(support.ndim)
    return Effect(
        combination.support if len(call.results) == 1 else (combination.support, norm),
        factors=tuple(factors),
        reads=(direction,) if is_mixed else (),
    )


def _normalized(call: Call, *, mixes: Collection[int], affine: Collection[int]) -> Effect:
    """A norm with statistics over the dimensions `mixes` and parameters along the dimensions `affine`.

    Where features lie along a mixed dimension they share statistics, and dead ones are read as zeros. The pixels of a
    channel share its parameters, too, and so its mask.
    """
    operand = call["input"]
    pixels = [d for d in mixes if d > 1 and d not in affine]
    support = uniform(call, call.support(operand), pixels)
    is_mixed = any(varies(support, d) for d in mixes)
    return Effect(
        support,
        flows=() if is_mixed else (operand,),
        reads=(operand,) if is_mixed else (),
        keeps_zero=False,
        gates=_affine_gate(call, support, affine),
        per_task=tuple(a for a in (WEIGHT, BIAS, MEAN, VARIANCE) if call[a.name] is not None),
    )


def _affine_gate(call: Call, support: Support, dimensions: Collection[int]) -> tuple[Gate, ...]:
    """The mask over the affine parameters' dimensions; none where the features lie elsewhere."""
    if any(varies(support, d) for d in range(support.ndim) if d not in dimensions):
        return ()
    affine_shape = tuple(call.result_shape[d] for d in dimensions)
    ids = np.broadcast_to(support.reshape([support.shape[d] for d in dimensions]), affine_shape)
    if not has_variables(ids):
        return ()
    slots = {WEIGHT: affine_shape}
    if call["bias"] is not None:
        slots[BIAS] = affine_shape
    return (Gate(ids, slots),)
