"""Elementwise functions: f(0) = 0 keeps a support, f(0) != 0 loses its zeros but not its features."""

from __future__ import annotations

import torch
from torch.fx import Node

from hatify.analysis.call import Call
from hatify.analysis.effect import Argument, Effect
from hatify.analysis.support import Support, broadcast, compress, expand
from hatify.capture.calls import is_tensor
from rewriters.infinities import holds_infinity, is_infinite
from rewriters.registry import rewriter

aten = torch.ops.aten

# Numbers that a network computes with overflow in higher powers.
LARGEST_POWER = 3


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
    aten.absolute,
    aten.neg,
    aten.negative,
    aten.positive,
    aten.sign,
    aten.sgn,
    aten.square,
    aten.sin,
    aten.tan,
    aten.arctan,
    aten.atan,
    aten.asinh,
    aten.frac,
    aten.deg2rad,
    aten.rad2deg,
    aten.real,
    aten.imag,
    aten._conj,
    aten.conj,
    aten.conj_physical,
    aten._conj_physical,
    aten.resolve_conj,
    aten.resolve_neg,
    aten.erf,
    aten.special_erf,
    aten.special_i1e,
    aten.floor,
    aten.ceil,
    aten.round,
    aten.trunc,
    aten.nan_to_num,
    aten.dropout,
    aten.feature_dropout,
    aten.clone,
    aten.contiguous,
    aten.detach,
    aten.alias,
    aten.lift_fresh_copy,
    aten.tril,
    aten.triu,
)
def keeps_zeros(call: Call) -> Effect:
    return elementwise(call, keeps_zero=True)


@rewriter(aten.to, aten._to_copy, aten.type_as)
def cast(call: Call) -> Effect:
    """Another operand lends its type only. What is too large for a type becomes infinite."""
    operand = call["self"]
    shapes = (call["other"],) if "other" in call else ()
    fixed = (operand,) if _overflows(operand.meta["val"].dtype, call.node.meta["val"].dtype) else ()
    return Effect(call.support(operand), flows=(operand,), fixed=fixed, shapes=shapes)


def _overflows(old: torch.dtype, new: torch.dtype) -> bool:
    """Whether numbers of one type may be far too large for another one."""
    if not (old.is_floating_point and new.is_floating_point):
        return False
    return torch.finfo(new).max < torch.finfo(old).max / 2


@rewriter(
    aten.sigmoid,
    aten.special_expit,
    aten.special_i0e,
    aten.hardsigmoid,
    aten.softplus,
    aten.log_sigmoid,
    aten.cos,
    aten.erfc,
    aten.sinc,
    aten.alpha_dropout,
    aten.feature_alpha_dropout,
)
def loses_zeros(call: Call) -> Effect:
    return elementwise(call, keeps_zero=False)


@rewriter(aten.clamp, aten.clip, aten.hardtanh, aten.clamp_min, aten.clamp_max)
def clamp(call: Call) -> Effect:
    low = call["min"] if "min" in call else call["min_val"]
    high = call["max"] if "max" in call else call["max_val"]
    bounds = [bound for bound in (low, high) if is_tensor(bound)]
    if any(call.has_features(bound) for bound in bounds):
        return call.live(reads=call.operands)
    operand = call["self"]
    return Effect(to_rank(call.support(operand), call), flows=(operand,), keeps_zero=_allows_zero(low, high))


def _allows_zero(low: object, high: object) -> bool:
    """Whether zero lies between two bounds; a bound that is computed in the graph is not known."""
    above = low is None or (isinstance(low, int | float) and low <= 0)
    below = high is None or (isinstance(high, int | float) and high >= 0)
    return above and below


@rewriter(aten.threshold)
def threshold(call: Call) -> Effect:
    """`x` where it is above the threshold, else `value`."""
    return elementwise(call, keeps_zero=call["value"] == 0 or call["threshold"] < 0)


@rewriter(aten.add, aten.sub, aten.subtract, aten.maximum, aten.minimum, aten.fmax, aten.fmin)
def add(call: Call) -> Effect:
    """Zero where both operands are: their features are coupled."""
    left, right = call["self"], call["other"]
    if not is_tensor(left) or not is_tensor(right):
        return elementwise(call, keeps_zero=is_zero(left) or is_zero(right))
    return combined(call, left, right)


@rewriter(aten.rsub)
def subtract_from(call: Call) -> Effect:
    left, right = call["self"], call["other"]
    return combined(call, left, right) if is_tensor(right) else elementwise(call, keeps_zero=is_zero(right))


@rewriter(aten.where.self, aten.where.ScalarSelf, aten.where.ScalarOther, aten.where.Scalar)
def where(call: Call) -> Effect:
    chosen = call["self"], call["other"]
    tensors = [value for value in chosen if is_tensor(value)]
    if not tensors or any(is_infinite(value) for value in chosen):
        return call.live(reads=call.operands)  # no gate can follow: 0 * inf is NaN
    if len(tensors) == 2:
        return combined(call, *tensors)
    return Effect(
        to_rank(call.support(tensors[0]), call),
        flows=(tensors[0],),
        keeps_zero=any(is_zero(value) for value in chosen),
    )


@rewriter(aten.lerp.Scalar, aten.lerp.Tensor, aten.lerp_.Scalar, aten.lerp_.Tensor)
def interpolate(call: Call) -> Effect:
    return combined(call, call["self"], call["end"])


@rewriter(aten.complex)
def from_parts(call: Call) -> Effect:
    return combined(call, call["real"], call["imag"])


@rewriter(aten.logaddexp, aten.logaddexp2)
def loses_zeros_of_two(call: Call) -> Effect:
    """Coupled as in a sum."""
    return combined(call, call["self"], call["other"], keeps_zero=False)


@rewriter(aten.ldexp)
def times_power_of_two(call: Call) -> Effect:
    """`self * 2 ** other`: zero where `self` is."""
    return Effect(to_rank(call.support(call["self"]), call), flows=(call["self"],))


@rewriter(aten.polar.default)
def polar(call: Call) -> Effect:
    """`abs * exp(i * angle)`: zero where the absolute value is."""
    return Effect(to_rank(call.support(call["abs"]), call), flows=(call["abs"],))


@rewriter(aten.masked_fill)
def filled(call: Call) -> Effect:
    """Some entries become a number: the others stay where they are."""
    operand, value = call["self"], call["value"]
    if is_infinite(value) or (isinstance(value, Node) and holds_infinity(value)):
        return call.live(reads=call.operands)  # no gate can follow: 0 * inf is NaN
    return Effect(to_rank(call.support(operand), call), flows=(operand,), keeps_zero=is_zero(value))


def combined(call: Call, left: Node, right: Node, *, keeps_zero: bool = True) -> Effect:
    """The effect of a result that is zero where both operands are."""
    return combined_supports(call, (left, right), (call.support(left), call.support(right)), keeps_zero=keeps_zero)


def combined_supports(
    call: Call, operands: tuple[Node, Node], supports: tuple[Support, Support], *, keeps_zero: bool = True
) -> Effect:
    """The same for operands whose entries meet in other places than their own."""
    if meets_infinity(call, *operands):
        return call.live(reads=call.operands)
    combination = call.variables.combine(*supports)
    carried = [node for node, carries in zip(operands, combination.carries, strict=True) if carries]
    return Effect(
        to_rank(combination.support, call),
        flows=tuple(dict.fromkeys(carried)),
        keeps_zero=keeps_zero and combination.exact,
    )


def meets_infinity(call: Call, left: Node, right: Node) -> bool:
    """Whether features meet infinities, behind which no gate can follow: 0 * inf is NaN."""
    # a tensor that holds infinities has no features: without the other operands, the walk stops at a residual stream
    without_features = [node for node in (left, right) if not call.has_features(node)]
    return len(without_features) == 1 and holds_infinity(without_features[0])


@rewriter(aten.mul, aten.multiply, aten.logical_and, aten.bitwise_and, aten.__and__)
def multiply(call: Call) -> Effect:
    """Zero where either operand is: their features are coupled, and one gate serves both."""
    left, right = call["self"], call["other"]
    if not is_tensor(left) or not is_tensor(right):
        return elementwise(call, keeps_zero=True)
    if _count_features(call, right) > _count_features(call, left):
        left, right = right, left  # where they cannot be coupled, the left one's are kept
    combination = call.variables.combine(call.support(left), call.support(right))
    factors = [
        node
        for node, carries in zip((left, right), combination.carries, strict=True)
        if carries and _spans(call, node, combination.support)
    ]
    reads = [
        node
        for node, carries in zip((left, right), combination.carries, strict=True)
        if not carries and call.has_features(node)
    ]
    return Effect(to_rank(combination.support, call), factors=tuple(dict.fromkeys(factors)), reads=tuple(reads))


def _count_features(call: Call, node: Node) -> int:
    support = call.support(node)
    return int(call.variables.is_real(support).sum())


def _spans(call: Call, node: Node, result: Support) -> bool:
    """Whether every feature of the result is also a feature of the operand at the same entry."""
    operand, result = broadcast([call.support(node), call.variables.find(result)])
    features = call.variables.is_real(result)
    return bool((~features | (operand == result)).all()) and bool(features.any())


@rewriter(aten.addcmul)
def add_product(call: Call) -> Effect:
    """`self + tensor1 * tensor2`: zero where `self` and one of the factors are."""
    addend, left, right = call["self"], call["tensor1"], call["tensor2"]
    product = call.variables.combine(call.support(left), call.support(right))
    result = call.variables.combine(call.support(addend), product.support)
    is_exact = product.exact and result.exact
    if not is_exact or {*product.carries, *result.carries} != {True}:
        return call.live(reads=call.operands)
    return Effect(to_rank(result.support, call), flows=tuple(dict.fromkeys((addend, left, right))))


@rewriter(aten.prelu)
def prelu(call: Call) -> Effect:
    """The slopes are as small as a norm's affine parameters, and like those kept once a task."""
    operand = call["self"]
    return Effect(call.support(operand), flows=(operand,), per_task=(Argument("weight"),))


@rewriter(aten.glu)
def gated_linear_unit(call: Call) -> Effect:
    """`a * sigmoid(b)` for the two halves of a dimension: the product's features are those of both."""
    operand = call["self"]
    dimension = call.dimension("dim", operand)
    support = expand(call.support(operand), call.shape(operand), [dimension])
    half = support.shape[dimension] // 2
    values, gates = support.take(range(half), dimension), support.take(range(half, 2 * half), dimension)
    combination = call.variables.combine(values, gates)
    if not combination.is_coupled:
        return call.live(reads=(operand,))
    return Effect(compress(call.variables.find(values)), flows=(operand,))


def is_zero(value: object) -> bool:
    """Whether an argument is the number zero."""
    return isinstance(value, int | float) and value == 0


def to_rank(support: Support, call: Call) -> Support:
    missing = len(call.result_shape) - support.ndim
    return support.reshape((1,) * missing + support.shape)
