"""Elementwise functions: f(0) = 0 keeps a support, f(0) != 0 loses its zeros but not its features."""

from __future__ import annotations

import torch
from torch.fx import Node

from hatify.analysis.call import Call, is_tensor
from hatify.analysis.effect import Effect
from hatify.analysis.support import Support, along, broadcast, compress, expand, varies
from rewriters.registry import rewriter

aten = torch.ops.aten


def elementwise(call: Call, *, keeps_zero: bool) -> Effect:
    """A function of one tensor, entry by entry."""
    (operand, *_) = call.operands
    return Effect(call.support(operand), flows=(operand,), keeps_zero=keeps_zero)


@rewriter(
    aten.relu,
    aten.relu6,
    aten.leaky_relu,
    aten.rrelu,
    aten.elu,
    aten.celu,
    aten.selu,
    aten.gelu,
    aten.silu,
    aten.mish,
    aten.hardswish,
    aten.tanh,
    aten.softshrink,
    aten.hardshrink,
    aten.abs,
    aten.neg,
    aten.sign,
    aten.sgn,
    aten.sqrt,
    aten.square,
    aten.sin,
    aten.tan,
    aten.asin,
    aten.atan,
    aten.sinh,
    aten.asinh,
    aten.erf,
    aten.expm1,
    aten.log1p,
    aten.floor,
    aten.ceil,
    aten.round,
    aten.trunc,
    aten.dropout,
    aten.feature_dropout,
    aten.clone,
    aten.contiguous,
    aten.detach,
    aten.alias,
    aten.to,
    aten.type_as,
    aten._to_copy,
    aten.lift_fresh_copy,
    aten.tril,
    aten.triu,
)
def keeps_zeros(call: Call) -> Effect:
    return elementwise(call, keeps_zero=True)


@rewriter(
    aten.sigmoid,
    aten.hardsigmoid,
    aten.softplus,
    aten.log_sigmoid,
    aten.exp,
    aten.exp2,
    aten.cos,
    aten.cosh,
    aten.erfc,
    aten.alpha_dropout,
    aten.feature_alpha_dropout,
)
def loses_zeros(call: Call) -> Effect:
    return elementwise(call, keeps_zero=False)


@rewriter(aten.clamp, aten.hardtanh, aten.clip)
def clamp(call: Call) -> Effect:
    low = call["min"] if "min" in call else call["min_val"]
    high = call["max"] if "max" in call else call["max_val"]
    if is_tensor(low) or is_tensor(high):
        return call.live(reads=call.operands)
    return elementwise(call, keeps_zero=(low is None or low <= 0) and (high is None or high >= 0))


@rewriter(aten.clamp_min, aten.clamp_max, aten.threshold)
def clamp_one_side(call: Call) -> Effect:
    if "threshold" in call:
        return elementwise(call, keeps_zero=call["value"] == 0 or call["threshold"] < 0)
    if "min" in call:
        return elementwise(call, keeps_zero=not is_tensor(call["min"]) and call["min"] <= 0)
    return elementwise(call, keeps_zero=not is_tensor(call["max"]) and call["max"] >= 0)


@rewriter(aten.pow.Tensor_Scalar, aten.pow_.Scalar)
def power(call: Call) -> Effect:
    exponent = call["exponent"]
    if isinstance(exponent, Node) or exponent <= 0:
        return call.live(reads=call.operands)  # infinite at zero: no gate can follow
    return elementwise(call, keeps_zero=True)


@rewriter(aten.add, aten.sub, aten.maximum, aten.minimum)
def add(call: Call) -> Effect:
    """Zero where both operands are: their features are coupled."""
    left, right = call["self"], call["other"]
    if not is_tensor(left) or not is_tensor(right):
        return elementwise(call, keeps_zero=left == 0 or right == 0)
    return summed(call, left, right)


@rewriter(aten.rsub)
def subtract_from(call: Call) -> Effect:
    left, right = call["self"], call["other"]
    if not is_tensor(right):
        return elementwise(call, keeps_zero=right == 0)
    return summed(call, left, right)


@rewriter(aten.where.self)
def where(call: Call) -> Effect:
    return summed(call, call["self"], call["other"])


def summed(call: Call, left: Node, right: Node) -> Effect:
    """The effect of a result that is zero where both operands are."""
    combination = call.variables.combine(call.support(left), call.support(right))
    carried = [node for node, carries in zip((left, right), combination.carries, strict=True) if carries]
    return Effect(
        _to_rank(combination.support, call),
        flows=tuple(dict.fromkeys(carried)),
        keeps_zero=combination.exact,
    )


@rewriter(aten.mul, aten.logical_and, aten.bitwise_and, aten.__and__)
def multiply(call: Call) -> Effect:
    """Zero where either operand is: their features are coupled, and one gate serves both."""
    left, right = call["self"], call["other"]
    if not is_tensor(left) or not is_tensor(right):
        return elementwise(call, keeps_zero=True)
    combination = call.variables.combine(call.support(left), call.support(right))
    factors = [
        node
        for node, carries in zip((left, right), combination.carries, strict=True)
        if carries and _spans(call, node, combination.support)
    ]
    return Effect(_to_rank(combination.support, call), factors=tuple(dict.fromkeys(factors)))


def _spans(call: Call, node: Node, result: Support) -> bool:
    """Whether every feature of the result is also a feature of the operand at the same entry."""
    operand, result = broadcast([call.support(node), call.variables.find(result)])
    features = call.variables.is_real(result)
    return bool((~features | (operand == result)).all()) and bool(features.any())


@rewriter(aten.div)
def divide(call: Call) -> Effect:
    """Zero where the numerator is. A divisor must not be zero, so it is never gated."""
    left, right = call["self"], call["other"]
    if not is_tensor(left) or not is_tensor(right):
        return elementwise(call, keeps_zero=is_tensor(left))
    return Effect(_to_rank(call.support(left), call), flows=(left,))


@rewriter(aten.masked_fill)
def masked_fill(call: Call) -> Effect:
    operand, value = call["self"], call["value"]
    return Effect(_to_rank(call.support(operand), call), flows=(operand,), keeps_zero=not is_tensor(value) and value == 0)


@rewriter(aten.prelu)
def prelu(call: Call) -> Effect:
    """The slope of a channel multiplies the channel: where that is dead, nothing reads the slope."""
    operand, slope = call["self"], call["weight"]
    support = call.support(operand)
    if call.shape(slope) != (1,) and varies(support, 1):
        slopes = along(call.support(slope).ravel(), 1, support.ndim)
        support = call.variables.combine(support, slopes).support
        return Effect(support, factors=(operand, slope))
    return Effect(support, flows=(operand,))


@rewriter(aten.glu)
def gated_linear_unit(call: Call) -> Effect:
    """`a * sigmoid(b)` for the two halves of a dimension: the product's features are those of both."""
    operand = call["self"]
    dimension = call.dimension("dim", operand)
    support = expand(call.support(operand), call.shape(operand), [dimension])
    half = support.shape[dimension] // 2
    values, gates = support.take(range(half), dimension), support.take(range(half, 2 * half), dimension)
    combination = call.variables.combine(values, gates)
    if combination.carries != (True, True) or not combination.exact:
        return call.live(reads=(operand,))
    return Effect(compress(call.variables.find(values)), flows=(operand,))


def _to_rank(support: Support, call: Call) -> Support:
    missing = len(call.result_shape) - support.ndim
    return support.reshape((1,) * missing + support.shape)
