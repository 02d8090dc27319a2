"""Functions that are not defined everywhere: logarithms, roots, powers, quotients.

Zero may be too much for them: then the features that they are given are in no mask, unless something keeps them from
zero. Or dead entries may be, whatever another task has made of them: then these must not reach the function.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch.fx import Node

from hatify.analysis.call import Call
from hatify.analysis.effect import Argument, Effect, Use
from hatify.analysis.nodes import arguments_of, is_parameter
from hatify.analysis.support import varies
from hatify.capture.calls import is_tensor
from rewriters.elementwise import LARGEST_POWER, combined, elementwise, to_rank
from rewriters.registry import rewriter

aten = torch.ops.aten

SHAPES = {
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
    *SHAPES,
}
# What is NaN for numbers that a parameter may well come to have, if it is no power.
NAN_FOR_SOME = {
    *(aten.log.default, aten.log2.default, aten.log10.default, aten.log1p.default, aten.logit.default),
    *(aten.sqrt.default, aten.rsqrt.default),
    *(aten.asin.default, aten.acos.default, aten.atanh.default, aten.erfinv.default),
}
SCALES = {aten.mul.Tensor, aten.div.Tensor}  # by a number


@rewriter(aten.log, aten.log2, aten.log10, aten.logit, aten.reciprocal, aten.rsqrt, aten.sqrt)
def infinite_at_zero(call: Call) -> Effect:
    """The value or its slope is."""
    if _is_nan_for_some(call):
        return _parameter_as_it_is(call)
    return replace(elementwise(call, keeps_zero=False), fixed=_keep_from_zero(call, call["self"]))


@rewriter(aten.pow.Tensor_Scalar, aten.pow_.Scalar, aten.float_power.Tensor_Scalar)
def power(call: Call) -> Effect:
    """Below 1, the power or its slope is infinite at zero."""
    exponent = call["exponent"]
    if isinstance(exponent, float) and not exponent.is_integer() and _is_parameter(call["self"]):
        return _parameter_as_it_is(call)
    if isinstance(exponent, int | float) and (exponent == 0 or exponent >= 1):
        is_tame = float(exponent).is_integer() and exponent <= LARGEST_POWER  # otherwise NaN, or it overflows
        fixed = () if is_tame else (call["self"],)
        return replace(elementwise(call, keeps_zero=exponent != 0), fixed=fixed)
    return replace(elementwise(call, keeps_zero=False), fixed=_keep_from_zero(call, call["self"]))


@rewriter(aten.pow.Tensor_Tensor, aten.float_power.Tensor_Tensor)
def power_of_tensor(call: Call) -> Effect:
    """The base's features; the exponent (a learned one, say) is read as it is."""
    if _is_parameter(call["self"]):
        return _parameter_as_it_is(call)
    fixed = _keep_from_zero(call, call["self"])
    return Effect(to_rank(call.support(call["self"]), call), flows=(call["self"],), fixed=fixed, keeps_zero=False)


@rewriter(aten.div, aten.divide, aten.true_divide, aten.floor_divide, aten.fmod, aten.remainder)
def divide(call: Call) -> Effect:
    """Zero where the numerator is. A divisor must not be zero."""
    left, right = call["self"], call["other"]
    fixed = _keep_from_zero(call, right) if is_tensor(right) else ()
    if not is_tensor(left) or not is_tensor(right):
        return replace(elementwise(call, keeps_zero=is_tensor(left)), fixed=fixed)
    return Effect(to_rank(call.support(left), call), flows=(left,), fixed=fixed)


@rewriter(aten.addcdiv)
def add_quotient(call: Call) -> Effect:
    """`self + tensor1 / tensor2`: zero where `self` and the numerator are."""
    fixed = _keep_from_zero(call, call["tensor2"])
    return replace(combined(call, call["self"], call["tensor1"]), fixed=fixed)


@rewriter(aten.hypot)
def hypotenuse(call: Call) -> Effect:
    """Has no slope where both sides are zero."""
    sides = call["self"], call["other"]
    if not any(_has_floor(side, call.node) for side in sides):
        for side in sides:
            call.variables.release(call.support(side))
    return combined(call, *sides, keeps_zero=False)


@rewriter(aten.asin, aten.atanh, aten.bernoulli.default, aten.erfinv, aten.expm1, aten.log1p, aten.sinh)
def keeps_zeros_of_few(call: Call) -> Effect:
    """Overflows, or is NaN or an error for some numbers."""
    if _is_nan_for_some(call):
        return _parameter_as_it_is(call)
    return replace(elementwise(call, keeps_zero=True), fixed=call.operands)


@rewriter(aten.acos, aten.cosh, aten.exp, aten.exp2, aten.i0, aten.pow.Scalar)
def loses_zeros_of_few(call: Call) -> Effect:
    """The same of a function that is not zero at zero."""
    if _is_nan_for_some(call):
        return _parameter_as_it_is(call)
    return replace(elementwise(call, keeps_zero=False), fixed=call.operands)


@rewriter(aten.angle, aten.atan2, aten.arctan2, aten.copysign, aten.signbit, aten.view.dtype)
def tells_signs_of_zeros(call: Call) -> Effect:
    """A mask leaves a zero the sign of what it was, so that no mask may come before these."""
    return _before_any_mask(call)


@rewriter(
    *(aten.linalg_inv, aten.linalg_inv_ex, aten.inverse, aten.linalg_pinv, aten.linalg_solve, aten.linalg_cholesky),
    *(aten.linalg_slogdet, aten.slogdet, aten.logdet, aten.linalg_eigh, aten.linalg_svd),
)
def of_regular_matrices(call: Call) -> Effect:
    """Of matrices with rows of zeros they have no value, or no slope."""
    return _before_any_mask(call)


def _before_any_mask(call: Call) -> Effect:
    """Take the features of all operands out of all masks."""
    for operand in call.operands:
        call.variables.release(call.support(operand))
    return call.live(reads=call.operands)


def _is_nan_for_some(call: Call) -> bool:
    """Whether the function is NaN for some numbers, and takes those of a parameter."""
    return call.node.target in NAN_FOR_SOME and _is_parameter(call["self"])


def _is_parameter(operand: Node) -> bool:
    """Whether an operand is a parameter, in whatever shape: nothing keeps another task from making it negative."""
    while operand.target in SHAPES:
        operand = operand.args[0]  # type: ignore[assignment]
    return is_parameter(operand)


def _parameter_as_it_is(call: Call) -> Effect:
    """Kept once a task, or locked whole: masked, NaN would still be NaN."""
    return call.live(uses=(Use(Argument("self")),))


def _keep_from_zero(call: Call, operand: Node) -> tuple[Node, ...]:
    """Take the features of an operand that must not be zero out of all masks, unless a small number is added to them.

    So, too, those that are summed into it part by part: a mask may leave nothing of a part. A parameter adopts none.
    Returns the operand if its features stay in masks: what others make of dead ones must not reach the function.
    """
    endangered = [] if call.has_features(operand) else list(_joined_in_parts(call, operand))
    if (call.has_features(operand) or call.is_weight(operand)) and not _has_floor(operand, call.node):
        endangered.append(operand)
    for node in endangered:
        call.variables.release(call.support(node))
    return (operand,)


def _joined_in_parts(call: Call, node: Node) -> Iterator[Node]:
    """The tensors with features of which each entry of another one joins a part: a norm, or a product, of each head.

    Or those that are a part of what a layer writes.

    Not behind a floor, nor behind a layer, which has a bias.
    """
    seen, open_nodes = {node}, [node]
    while open_nodes:
        joined = open_nodes.pop()
        if call.has_features(joined):
            support = call.support(joined)
            if sum(varies(support, d) for d in range(support.ndim)) > 1 or call.variables.is_part(support):
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
