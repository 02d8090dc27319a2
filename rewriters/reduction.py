"""Reductions: exact along dimensions without structure; over features they mix, and read dead ones as zeros."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch.fx import Node

from hatify.analysis.call import Call
from hatify.analysis.effect import Effect
from hatify.analysis.nodes import is_selection
from hatify.analysis.support import Support, live, varies
from rewriters.elementwise import LARGEST_POWER, combined
from rewriters.registry import rewriter
from rewriters.uniform import uniform

aten = torch.ops.aten


@rewriter(
    aten.median,
    aten.var,
    aten.std,
    aten.var_mean,
    aten.std_mean,
    aten.aminmax,
)
def keeps_zeros(call: Call) -> Effect:
    return reduced(call, keeps_zero=True)


@rewriter(aten.prod)
def product(call: Call) -> Effect:
    """Of many entries it overflows: no zero behind it stops infinity."""
    return replace(reduced(call, keeps_zero=True), fixed=(call["self"],))


@rewriter(aten.norm, aten.linalg_vector_norm, aten.linalg_norm)
def norm(call: Call) -> Effect:
    """High powers overflow."""
    effect = reduced(call, keeps_zero=True)
    order = call["p"] if "p" in call else call["ord"]
    overflows = isinstance(order, int | float) and LARGEST_POWER < abs(order) < math.inf
    return replace(effect, fixed=(call["self"],)) if overflows else effect


@rewriter(aten.amax, aten.amin, aten.max, aten.min)
def extreme(call: Call) -> Effect:
    """Of the pieces of a unit (maxout), which share a mask; of two tensors, entry by entry."""
    operand = call["self"]
    if "other" in call:
        return combined(call, operand, call["other"])
    support = call.support(operand)
    return _reduced(call, uniform(call, support, _dimensions(call, support.ndim)), keeps_zero=True)


@rewriter(aten.sum, aten.nansum, aten.mean)
def summed(call: Call) -> Effect:
    """Two features that are summed entry by entry are coupled, as in a residual sum."""
    support = call.support(call["self"])
    varied = [d for d in _dimensions(call, support.ndim) if varies(support, d)]
    if len(varied) == 1 and support.shape[varied[0]] == 2 and support.size > 2:
        one, other = np.split(support, 2, axis=varied[0])
        combination = call.variables.combine(one, other)
        if combination.is_coupled:
            return _reduced(call, combination.support, keeps_zero=True)
    return reduced(call, keeps_zero=True)


@rewriter(aten.logsumexp)
def loses_zeros(call: Call) -> Effect:
    return reduced(call, keeps_zero=False)


def reduced(call: Call, *, keeps_zero: bool) -> Effect:
    """A reduction over the dimensions in `dim` (all, if there is none)."""
    return _reduced(call, call.support(call["self"]), keeps_zero=keeps_zero)


def _reduced(call: Call, support: Support, *, keeps_zero: bool) -> Effect:
    if any(varies(support, d) for d in _dimensions(call, support.ndim)):
        return call.live(reads=(call["self"],))
    keeps_dimensions = len(call.result_shape) == support.ndim
    result = support if keeps_dimensions else np.squeeze(support, tuple(_dimensions(call, support.ndim)))
    return passed(call, call["self"], result, keeps_zero=keeps_zero)


@rewriter(aten.cumprod)
def product_along_one_dimension(call: Call) -> Effect:
    """As `prod`."""
    return replace(_line_by_line(call, keeps_zero=True), fixed=(call["self"],))


@rewriter(aten.cumsum, aten.cummax, aten.cummin, aten.sort, aten.topk)
def along_one_dimension(call: Call) -> Effect:
    """Each line along a dimension becomes another, and a line of zeros stays one."""
    return _line_by_line(call, keeps_zero=True)


@rewriter(aten.logcumsumexp)
def along_one_dimension_losing_zeros(call: Call) -> Effect:
    return _line_by_line(call, keeps_zero=False)


def _line_by_line(call: Call, *, keeps_zero: bool) -> Effect:
    operand = call["self"]
    support = call.support(operand)
    if varies(support, call.dimension("dim", operand)):
        return call.live(reads=(operand,))
    return passed(call, operand, support, keeps_zero=keeps_zero)


def passed(call: Call, operand: Node, support: Support, *, keeps_zero: bool = True) -> Effect:
    """The operand's features in the result, or in each of the results.

    Indices carry no features, so that no gate behind them hides what they tell of dead entries: where they are used,
    those must be zero.
    """
    value = call.node.meta["val"]
    if isinstance(value, torch.Tensor):
        return Effect(support, flows=(operand,), keeps_zero=keeps_zero)
    is_index = [not v.is_floating_point() for v in value]
    used = [user.args[1] for user in call.node.users if is_selection(user)]
    reads = (operand,) if any(index for position, index in enumerate(is_index) if position in used) else ()
    supports = tuple(live(v.dim()) if index else support for v, index in zip(value, is_index, strict=True))
    return Effect(supports, flows=(operand,), reads=reads, keeps_zero=keeps_zero)


def _dimensions(call: Call, rank: int) -> Sequence[int]:
    dimensions = call["dim"]
    if dimensions is None or dimensions == []:
        return range(rank)
    return [d % rank for d in ([dimensions] if isinstance(dimensions, int) else dimensions)]
