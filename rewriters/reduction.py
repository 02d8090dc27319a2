"""Reductions: exact along dimensions without structure; over features they mix, and read dead ones as zeros."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from hatify.analysis.call import Call
from hatify.analysis.effect import Effect
from hatify.analysis.support import Support, live, varies
from rewriters.registry import rewriter

aten = torch.ops.aten


@rewriter(
    aten.sum,
    aten.nansum,
    aten.mean,
    aten.amax,
    aten.amin,
    aten.max,
    aten.min,
    aten.median,
    aten.prod,
    aten.var,
    aten.std,
    aten.var_mean,
    aten.std_mean,
    aten.aminmax,
    aten.norm,
    aten.linalg_vector_norm,
)
def keeps_zeros(call: Call) -> Effect:
    if "other" in call:  # torch.max(a, b)
        return call.live(reads=call.operands)
    return reduced(call, keeps_zero=True)


@rewriter(aten.logsumexp)
def loses_zeros(call: Call) -> Effect:
    return reduced(call, keeps_zero=False)


def reduced(call: Call, *, keeps_zero: bool) -> Effect:
    """A reduction over the dimensions in `dim` (all, if there is none)."""
    operand = call["self"]
    support, rank = call.support(operand), len(call.shape(operand))
    dimensions = _dimensions(call, rank)
    if any(varies(support, d) for d in dimensions):
        return call.live(reads=(operand,))
    keeps_dimensions = len(call.result_shape) == rank
    result = support if keeps_dimensions else np.squeeze(support, tuple(dimensions))
    return Effect(alike(call, result), flows=(operand,), keeps_zero=keeps_zero)


@rewriter(aten.cumsum, aten.cumprod, aten.sort, aten.topk)
def along_one_dimension(call: Call) -> Effect:
    """Each line along a dimension becomes another, and a line of zeros stays one."""
    operand = call["self"]
    support = call.support(operand)
    if varies(support, call.dimension("dim", operand)):
        return call.live(reads=(operand,))
    return Effect(alike(call, support), flows=(operand,))


def alike(call: Call, support: Support) -> Support | tuple[Support, ...]:
    """The support of each result; that of indices, which are not zero where the values are, is live."""
    value = call.node.meta["val"]
    if isinstance(value, torch.Tensor):
        return support
    return tuple(support if v.is_floating_point() else live(v.dim()) for v in value)


def _dimensions(call: Call, rank: int) -> Sequence[int]:
    dimensions = call["dim"]
    if dimensions is None or dimensions == []:
        return range(rank)
    return [d % rank for d in ([dimensions] if isinstance(dimensions, int) else dimensions)]
