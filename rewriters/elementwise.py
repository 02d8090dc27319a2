"""Elementwise functions: f(0) = 0 keeps a support, f(0) != 0 loses its zeros but not its features."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch.fx import Node

from hatify.analysis.call import Call
from hatify.analysis.effect import Argument, Effect
from hatify.analysis.nodes import arguments_of
from hatify.analysis.support import Support, broadcast, compress, expand, varies
from hatify.capture.calls import is_tensor
from rewriters.registry import rewriter

aten = torch.ops.aten

FILLED = (aten.full.default, aten.full_like.default, aten.new_full.default, aten.scalar_tensor.default)


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
    aten.to,
    aten._to_copy,
    aten.lift_fresh_copy,
    aten.tril,
    aten.triu,
)
def keeps_zeros(call: Call) -> Effect:
    return elementwise(call, keeps_zero=True)


@rewriter(aten.type_as, aten.to.other)
def cast(call: Call) -> Effect:
    """The other operand lends its type only."""
    return Effect(call.support(call["self"]), flows=(call["self"],), shapes=(call["other"],))


@rewriter(
    aten.sigmoid,
    aten.special_expit,
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


@rewriter(aten.log, aten.log2, aten.log10, aten.logit, aten.reciprocal, aten.rsqrt, aten.sqrt)
def infinite_at_zero(call: Call) -> Effect:
    """The value or its slope is."""
    return replace(elementwise(call, keeps_zero=False), fixed=_keep_from_zero(call, call["self"]))


# What is made of infinities has some where these left them.
LEAVES_INFINITIES = {
    aten.add.Tensor,
    aten.cat.default,
    aten.clone.default,
    aten.contiguous.default,
    aten.detach.default,
    aten.detach_.default,
    aten.expand.default,
    aten.expand_as.default,
    aten.lift_fresh_copy.default,
    aten.masked_fill.Scalar,
    aten.masked_fill.Tensor,
    aten.neg.default,
    aten.permute.default,
    aten.repeat.default,
    aten.reshape.default,
    aten.select.int,
    aten.slice.Tensor,
    aten.squeeze.dim,
    aten.stack.default,
    aten.sub.Tensor,
    aten.to.dtype,
    aten.transpose.int,
    aten.tril.default,
    aten.triu.default,
    aten.unsqueeze.default,
    aten.view.default,
    aten.where.self,
}
LOGARITHMS = {aten.log.default, aten.log2.default, aten.log10.default}

# What is above zero even for entries that are zero, and what passes that on.
POSITIVE = {aten.exp.default, aten.sigmoid.default, aten.softplus.default, aten.softmax.int, aten._softmax.default}
PASSES_ON = {
    aten.sqrt.default,
    aten.pow.Tensor_Scalar,
    aten.pow.Tensor_Tensor,
    aten.mean.dim,
    aten.sum.dim_IntList,
    aten.avg_pool2d.default,
    aten.adaptive_avg_pool2d.default,
    aten.expand.default,
    aten.expand_as.default,
    aten.unsqueeze.default,
    aten.view.default,
    aten.view_as.default,
    aten.reshape.default,
    aten.reshape_as.default,
    aten.to.dtype,
    aten.type_as.default,
}
SCALES = {aten.mul.Tensor, aten.div.Tensor}  # by a number


def _keep_from_zero(call: Call, operand: Node) -> tuple[Node, ...]:
    """Take the features of an operand that must not be zero out of all masks, unless a small number is added to them.

    So, too, those that are summed into it part by part: a mask may leave nothing of a part.
    Returns the operand if its features stay in masks: what others make of dead ones must not reach the function.
    """
    if not call.has_features(operand):
        endangered = list(_joined_in_parts(call, operand))
    else:
        endangered = [] if _has_floor(operand, call.node) else [operand]
    for node in endangered:
        call.variables.release(call.support(node))
    return (operand,)


def _joined_in_parts(call: Call, node: Node) -> Iterator[Node]:
    """The tensors with features of which each entry of another one joins a part: a norm, or a product, of each head.

    Not behind a floor, nor behind a layer, which has a bias.
    """
    seen, open_nodes = {node}, [node]
    while open_nodes:
        joined = open_nodes.pop()
        if call.has_features(joined):
            if sum(varies(call.support(joined), d) for d in range(call.support(joined).ndim)) > 1:
                yield joined
        elif not (_is_floor(joined) or joined.target in POSITIVE or any(map(call.is_weight, joined.all_input_nodes))):
            source = _passed_on(joined)  # alone: `expand_as` takes another's shape only
            inputs = joined.all_input_nodes if source is None else [source]
            new = [n for n in inputs if is_tensor(n) and n not in seen]
            seen.update(new)
            open_nodes += new


def _has_floor(node: Node, reader: Node) -> bool:
    """Whether a small number keeps a tensor from zero, as in `sqrt(x + eps)` and `x.clamp_min(eps)`.

    It does not where somebody else reads the tensor, too: for that, it may be gated.
    """
    while (source := _passed_on(node)) and _is_for(node, reader):
        node, reader = source, node
    if not _is_for(node, reader):
        return False
    return node.target in POSITIVE or _is_floor(node)


def _is_floor(node: Node) -> bool:
    """Whether a call adds a small number, or bounds a tensor from below by one."""
    arguments = arguments_of(node)
    floor = arguments.get("min") if node.target in (aten.clamp_min.default, aten.clamp.default) else None
    if node.target in (aten.add.Tensor, aten.add_.Tensor, aten.add.Scalar) and arguments["alpha"] > 0:
        floor = arguments["other"]
    return isinstance(floor, int | float) and floor > 0


def _passed_on(node: Node) -> Node | None:
    """The argument of a call whose result is zero only where that is zero, or sums up to zero; None for other calls."""
    scales = node.target in SCALES and isinstance(node.args[1], int | float) and node.args[1] > 0
    passes = scales or node.target in PASSES_ON
    return node.args[0] if passes and isinstance(node.args[0], Node) else None


def _is_for(node: Node, reader: Node) -> bool:
    """Whether a tensor is for one reader alone, divisions by it aside."""
    return all(user is reader or (user.target == aten.div.Tensor and user.args[0] is not node) for user in node.users)


@rewriter(aten.asin, aten.atanh, aten.bernoulli.default, aten.erfinv, aten.expm1, aten.log1p, aten.sinh)
def keeps_zeros_of_few(call: Call) -> Effect:
    """Overflows, or is NaN or an error for some numbers."""
    return replace(elementwise(call, keeps_zero=True), fixed=call.operands)


@rewriter(aten.acos, aten.cosh, aten.exp, aten.exp2, aten.i0, aten.pow.Scalar)
def loses_zeros_of_few(call: Call) -> Effect:
    """The same of a function that is not zero at zero."""
    return replace(elementwise(call, keeps_zero=False), fixed=call.operands)


@rewriter(aten.clamp, aten.clip, aten.hardtanh, aten.clamp_min, aten.clamp_max)
def clamp(call: Call) -> Effect:
    low = call["min"] if "min" in call else call["min_val"]
    high = call["max"] if "max" in call else call["max_val"]
    bounds = [bound for bound in (low, high) if is_tensor(bound)]
    if any(call.has_features(bound) for bound in bounds):
        return call.live(reads=call.operands)
    operand = call["self"]
    return Effect(_to_rank(call.support(operand), call), flows=(operand,), keeps_zero=_allows_zero(low, high))


def _allows_zero(low: object, high: object) -> bool:
    """Whether zero lies between two bounds; a bound that is computed in the graph is not known."""
    above = low is None or (isinstance(low, int | float) and low <= 0)
    below = high is None or (isinstance(high, int | float) and high >= 0)
    return above and below


@rewriter(aten.threshold)
def threshold(call: Call) -> Effect:
    """`x` where it is above the threshold, else `value`."""
    return elementwise(call, keeps_zero=call["value"] == 0 or call["threshold"] < 0)


@rewriter(aten.pow.Tensor_Scalar, aten.pow_.Scalar, aten.float_power.Tensor_Scalar)
def power(call: Call) -> Effect:
    """Below 1, the power or its slope is infinite at zero."""
    exponent = call["exponent"]
    if isinstance(exponent, int | float) and (exponent == 0 or exponent >= 1):
        fixed = () if float(exponent).is_integer() else (call["self"],)  # of a negative number it is NaN
        return replace(elementwise(call, keeps_zero=exponent != 0), fixed=fixed)
    return replace(elementwise(call, keeps_zero=False), fixed=_keep_from_zero(call, call["self"]))


@rewriter(aten.pow.Tensor_Tensor, aten.float_power.Tensor_Tensor)
def power_of_tensor(call: Call) -> Effect:
    """The base's features; the exponent (a learned one, say) is read as it is."""
    fixed = _keep_from_zero(call, call["self"])
    return Effect(_to_rank(call.support(call["self"]), call), flows=(call["self"],), fixed=fixed, keeps_zero=False)


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
    if not tensors or any(_is_infinite(value) for value in chosen):
        return call.live(reads=call.operands)  # no gate can follow: 0 * inf is NaN
    if len(tensors) == 2:
        return combined(call, *tensors)
    return Effect(
        _to_rank(call.support(tensors[0]), call),
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


@rewriter(aten.hypot)
def hypotenuse(call: Call) -> Effect:
    """Has no slope where both sides are zero."""
    sides = call["self"], call["other"]
    if not any(_has_floor(side, call.node) for side in sides):
        for side in sides:
            call.variables.release(call.support(side))
    return combined(call, *sides, keeps_zero=False)


@rewriter(aten.angle, aten.atan2, aten.arctan2, aten.copysign, aten.signbit, aten.view.dtype)
def tells_signs_of_zeros(call: Call) -> Effect:
    """A mask leaves a zero the sign of what it was, so that no mask may come before these."""
    for operand in call.operands:
        call.variables.release(call.support(operand))
    return call.live(reads=call.operands)


@rewriter(aten.polar.default)
def polar(call: Call) -> Effect:
    """`abs * exp(i * angle)`: zero where the absolute value is."""
    return Effect(_to_rank(call.support(call["abs"]), call), flows=(call["abs"],))


@rewriter(aten.masked_fill)
def filled(call: Call) -> Effect:
    """Some entries become a number: the others stay where they are."""
    operand, value = call["self"], call["value"]
    if _is_infinite(value) or (isinstance(value, Node) and _holds_infinity(value)):
        return call.live(reads=call.operands)  # no gate can follow: 0 * inf is NaN
    return Effect(_to_rank(call.support(operand), call), flows=(operand,), keeps_zero=is_zero(value))


def combined(call: Call, left: Node, right: Node, *, keeps_zero: bool = True) -> Effect:
    """The effect of a result that is zero where both operands are."""
    # a tensor that holds infinities has no features: without the other operands, the walk stops at a residual stream
    without_features = [node for node in (left, right) if not call.has_features(node)]
    if len(without_features) == 1 and _holds_infinity(without_features[0]):
        return call.live(reads=call.operands)  # no gate can follow: 0 * inf is NaN
    return combined_supports(call, (left, right), (call.support(left), call.support(right)), keeps_zero=keeps_zero)


def combined_supports(
    call: Call, operands: tuple[Node, Node], supports: tuple[Support, Support], *, keeps_zero: bool = True
) -> Effect:
    """The same for operands whose entries meet in other places than their own."""
    combination = call.variables.combine(*supports)
    carried = [node for node, carries in zip(operands, combination.carries, strict=True) if carries]
    return Effect(
        _to_rank(combination.support, call),
        flows=tuple(dict.fromkeys(carried)),
        keeps_zero=keeps_zero and combination.exact,
    )


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
    return Effect(_to_rank(combination.support, call), factors=tuple(dict.fromkeys(factors)), reads=tuple(reads))


def _count_features(call: Call, node: Node) -> int:
    support = call.support(node)
    return int(call.variables.is_real(support).sum())


def _spans(call: Call, node: Node, result: Support) -> bool:
    """Whether every feature of the result is also a feature of the operand at the same entry."""
    operand, result = broadcast([call.support(node), call.variables.find(result)])
    features = call.variables.is_real(result)
    return bool((~features | (operand == result)).all()) and bool(features.any())


@rewriter(aten.div, aten.divide, aten.true_divide, aten.floor_divide, aten.fmod, aten.remainder)
def divide(call: Call) -> Effect:
    """Zero where the numerator is. A divisor must not be zero."""
    left, right = call["self"], call["other"]
    fixed = _keep_from_zero(call, right) if is_tensor(right) else ()
    if not is_tensor(left) or not is_tensor(right):
        return replace(elementwise(call, keeps_zero=is_tensor(left)), fixed=fixed)
    return Effect(_to_rank(call.support(left), call), flows=(left,), fixed=fixed)


@rewriter(aten.addcdiv)
def add_quotient(call: Call) -> Effect:
    """`self + tensor1 / tensor2`: zero where `self` and the numerator are."""
    fixed = _keep_from_zero(call, call["tensor2"])
    return replace(combined(call, call["self"], call["tensor1"]), fixed=fixed)


@rewriter(aten.addcmul)
def add_product(call: Call) -> Effect:
    """`self + tensor1 * tensor2`: zero where `self` and one of the factors are."""
    addend, left, right = call["self"], call["tensor1"], call["tensor2"]
    product = call.variables.combine(call.support(left), call.support(right))
    result = call.variables.combine(call.support(addend), product.support)
    is_exact = product.exact and result.exact
    if not is_exact or {*product.carries, *result.carries} != {True}:
        return call.live(reads=call.operands)
    return Effect(_to_rank(result.support, call), flows=tuple(dict.fromkeys((addend, left, right))))


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
    if combination.carries != (True, True) or not combination.exact:
        return call.live(reads=(operand,))
    return Effect(compress(call.variables.find(values)), flows=(operand,))


def is_zero(value: object) -> bool:
    """Whether an argument is the number zero."""
    return isinstance(value, int | float) and value == 0


def _is_infinite(value: object) -> bool:
    """Whether an argument is an infinite number, or a tensor that is made of one, or holds some."""
    if isinstance(value, Node):
        if value.meta.get("infinite"):
            return True
        if value.target in FILLED:
            value = arguments_of(value).get("fill_value", arguments_of(value).get("s"))
    return isinstance(value, float) and math.isinf(value)


def _holds_infinity(node: Node) -> bool:
    """Whether entries of a tensor without features are infinite, such that sums and views have left them in place."""
    seen, open_nodes = {node}, [node]
    while open_nodes:
        source = open_nodes.pop()
        filling = [arguments_of(source).get(name) for name in ("self", "other", "value")]
        if source.target in LOGARITHMS or any(map(_is_infinite, (source, *filling))):
            return True
        if source.target in LEAVES_INFINITIES:
            new = [n for n in source.all_input_nodes if is_tensor(n) and n not in seen]
            seen.update(new)
            open_nodes += new
    return False


def _to_rank(support: Support, call: Call) -> Support:
    missing = len(call.result_shape) - support.ndim
    return support.reshape((1,) * missing + support.shape)
