"""Reductions: exact over dimensions without structure; over features they mix, and dead ones are read as zeros."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from hatify.analysis.call import Call
from hatify.analysis.effect import Effect
from hatify.analysis.support import varies
from rewriters.registry import rewriter

aten = torch.ops.aten


def reduced(call: Call, *, keeps_zero: bool) -> Effect:
    """A reduction over the dimensions in `dim` (all, if there is none)."""
    operand = call["self"]
    support, rank = call.support(operand), len(call.shape(operand))
    dimensions = _dimensions(call, rank)
    if any(varies(support, d) for d in dimensions):
        return call.live(reads=(operand,))
    keeps_dimensions = len(call.result_shape) == rank
    result = support if keeps_dimensions else np.squeeze(support, tuple(dimensions))
    several = isinstance(call.node.meta["val"], tuple | list)
    return Effect(
        tuple(result for _ in call.results) if several else result,
        flows=(operand,),
        keeps_zero=keeps_zero,
    )


@rewriter(
    aten.sum,
    aten.nansum,
    aten.mean,
    aten.amax,
    aten.amin,
    aten.max,
    aten.min,
    aten.median.dim,
    aten.prod,
    aten.var,
    aten.std,
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


@rewriter(aten.cumsum)
def cumulative(call: Call) -> Effect:
    operand = call["self"]
    if varies(call.support(operand), call.dimension("dim", operand)):
        return call.live(reads=(operand,))
    return Effect(call.support(operand), flows=(operand,))


def _dimensions(call: Call, rank: int) -> Sequence[int]:
    dimensions = call["dim"]
    if dimensions is None or dimensions == []:
        return range(rank)
    return [d % rank for d in ([dimensions] if isinstance(dimensions, int) else dimensions)]
