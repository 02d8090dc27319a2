"""Products with a weight matrix: linear layers and raw matrix products with a parameter."""

from __future__ import annotations

import numpy as np
import torch
from torch.fx import Node

from hatify.analysis.call import Call, is_parameter
from hatify.analysis.effect import Argument, Effect, Factor, Gate, Use
from hatify.analysis.support import Support, along, has_variables, varies
from rewriters.registry import rewriter

aten = torch.ops.aten


@rewriter(aten.linear.default)
def linear(call: Call) -> Effect:
    bias = Argument("bias") if call["bias"] is not None else None
    return project(call, call["input"], Argument("weight"), transposed=False, bias=bias)


@rewriter(aten.addmm.default)
def add_product(call: Call) -> Effect:
    """`bias + x @ weight`, with the weight as (in, out)."""
    if call["beta"] != 1 or call["alpha"] != 1 or len(call.shape(call["self"])) != 1:
        return call.live(reads=call.operands)
    return project(call, call["mat1"], Argument("mat2"), transposed=True, bias=Argument("self"))


def project(call: Call, operand: Node, weight: Argument, *, transposed: bool, bias: Argument | None) -> Effect:
    """A product over the operand's last dimension with a weight (out, in), or (in, out) where `transposed`."""
    support = call.support(operand)
    out_dimension, in_dimension = (1, 0) if transposed else (0, 1)
    if not varies(support, -1) and has_variables(support) and call.variables.has_features(support):
        return _mix_positions(support, operand, weight, bias)
    features = call.fresh(call.result_shape[-1])
    result = along(features, -1, len(call.result_shape))
    written = Factor(along(features, out_dimension, 2), "output", call.node)
    read = Factor(_as_inputs(support, in_dimension), "input", operand, rows=support.ndim - 1)
    slots = {weight: tuple(-1 if d == out_dimension else 1 for d in range(2))}
    uses = [Use(weight, (written, read))]
    if bias is not None:
        slots[bias] = (-1,)
        uses.append(Use(bias, (Factor(features, "output", call.node),)))
    return Effect(result, reads=(operand,), gates=_gates(features, slots), uses=tuple(uses))


def _mix_positions(support: Support, operand: Node, weight: Argument, bias: Argument | None) -> Effect:
    """The features lie along another dimension (token mixing): they pass, and the weight serves all of them."""
    uses = (Use(weight), Use(bias)) if bias is not None else (Use(weight),)
    return Effect(support, flows=(operand,), keeps_zero=bias is None, uses=uses)


def _as_inputs(support: Support, in_dimension: int) -> Support:
    """The features of the last dimension along the weight's input dimension, behind all other dimensions."""
    tail = [1, 1]
    tail[in_dimension] = support.shape[-1]
    return support.reshape(*support.shape[:-1], *tail)


def _gates(features: np.ndarray, slots: dict[Argument, tuple[int, ...]]) -> tuple[Gate, ...]:
    return (Gate(features, slots),) if has_variables(features) else ()


@rewriter(aten.matmul.default, aten.mm.default, aten.bmm.default)
def matmul(call: Call) -> Effect:
    left, right = call["self"], call["other"] if "other" in call else call["mat2"]
    if is_parameter(right) and len(call.shape(right)) == 2 and not is_parameter(left):
        name = "other" if "other" in call else "mat2"
        return project(call, left, Argument(name), transposed=True, bias=None)
    if len(call.shape(left)) < 2 or len(call.shape(right)) < 2:
        return call.live(reads=(left, right))
    return contract(call, left, right)


@rewriter(aten.baddbmm.default)
def add_batched_product(call: Call) -> Effect:
    """`beta * input + batch1 @ batch2`: attention scores with a bias."""
    return call.live(pairs=(), reads=call.operands)


def contract(call: Call, left: Node, right: Node) -> Effect:
    """`left @ right` of two activations.

    Over the contracted dimension their features are coupled, so that one gate serves both. The result keeps the
    features of the right operand's columns (attention: the value's), or else those of the left operand's rows.
    """
    dimensions = len(call.result_shape)
    a, b = (s.reshape((1,) * (dimensions - s.ndim) + s.shape) for s in (call.support(left), call.support(right)))
    if varies(a, -1) or varies(b, -2):
        reads, pairs = _couple(call, left, right, a, b)
        return call.live(reads=reads, pairs=pairs)
    if call.variables.has_features(b):
        return Effect(b, flows=(right,), reads=(left,))
    return Effect(a, flows=(left,), reads=(right,))


def _couple(
    call: Call, left: Node, right: Node, a: Support, b: Support
) -> tuple[tuple[Node, ...], tuple[Node, ...]]:
    """Couple what is contracted; what cannot be coupled must be zero on both sides."""
    transposed = np.swapaxes(b, -1, -2)
    alike = all(x == y for x, y in zip(a.shape, transposed.shape, strict=True))
    if not alike or not call.variables.has_features(a) or not call.variables.has_features(b):
        return (left, right), ()
    combination = call.variables.combine(a, transposed)
    if combination.carries == (True, True) and combination.exact:
        return (), (left, right)
    return (left, right), ()
