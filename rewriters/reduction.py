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


@rewriter(aten.sum, aten.nansum, aten.mean)
def summed(call: Call) -> Effect:
    """Two features that are summed entry by entry are coupled, as in a residual sum."""
    support = call.support(call["self"])
    varied = [d for d in _dimensions(call, support.ndim) if varies(support, d)]
    if len(varied) == 1 and support.shape[varied[0]] == 2 and support.size > 2:
        one, other = np.split(support, 2, axis=varied[0])
        combination = call.variables.combine(one, other)
        if combination.carries == (True, True) and combination.exact:
            return _reduced(call, combination.support, keeps_zero=True)
    return reduced(call, keeps_zero=True)


@rewriter(aten.logsumexp)
def loses_zeros(call: Call) -> Effect:
    return reduced(call, keeps_zero=False)


def reduced(call: Call, *, keeps_zero: bool) -> Effect:
    """A reduction over the dimensions in `dim` (all, if there is none)."""
    operand = call["self"]
    support = call.support(operand)
    if any(varies(support, d) for d in _dimensions(call, support.ndim)):
        return call.live(reads=(operand,))
    return _reduced(call, support, keeps_zero=keeps_zero)


def _reduced(call: Call, support: Support, *, keeps_zero: bool) -> Effect:
    keeps_dimensions = len(call.result_shape) == support.ndim
    result = support if keeps_dimensions else np.squeeze(support, tuple(_dimensions(call, support.ndim)))
    return Effect(alike(call, result), flows=(call["self"],), keeps_zero=keeps_zero)


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
