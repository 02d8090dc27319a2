"""Products with a weight: linear and bilinear layers, and raw matrix products with a parameter."""

from __future__ import annotations

import numpy as np
import torch
from torch.fx import Node

from hatify.analysis.call import Call
from hatify.analysis.effect import Argument, Effect, Factor, Gate, Use
from hatify.analysis.nodes import is_parameter
from hatify.analysis.support import Support, along, has_variables, varies
from rewriters.contraction import contract, matrices
from rewriters.registry import rewriter

aten = torch.ops.aten

WEIGHT, BIAS, SELF = Argument("weight"), Argument("bias"), Argument("self")


@rewriter(aten.linear.default)
def linear(call: Call) -> Effect:
    bias = BIAS if call["bias"] is not None else None
    if len(call.shape(call["weight"])) == 1:
        return _weighted_sum(call, call["input"], bias)
    return project(call, call["input"], WEIGHT, transposed=False, bias=bias)


def _weighted_sum(call: Call, operand: Node, bias: Argument | None) -> Effect:
    """A weight (in,), whose one output has no dimension."""
    support = call.support(operand)
    uses = [Use(WEIGHT, (Factor(support, "input", operand, rows=support.ndim - 1),), outputs=None)]
    if bias is not None:
        uses.append(Use(bias, outputs=None))
    return call.live(reads=(operand,), uses=tuple(uses))


@rewriter(aten.addmm.default)
def add_product(call: Call) -> Effect:
    """`beta * bias + alpha * x @ weight`, with the weight as (in, out)."""
    width = call.result_shape[-1]
    if not (call.is_weight(call["self"]) and call.is_weight(call["mat2"])):
        return call.live(reads=call.operands)
    if tuple(call.shape(call["self"])) not in ((width,), (1, width)):
        return call.live(reads=call.operands)
    return project(call, call["mat1"], Argument("mat2"), transposed=True, bias=SELF)


def project(call: Call, operand: Node, weight: Argument, *, transposed: bool, bias: Argument | None) -> Effect:
    """A product over the operand's last dimension with a weight (out, in), or (in, out) if `transposed`."""
    support = call.support(operand)
    out_dimension, in_dimension = (1, 0) if transposed else (0, 1)
    if not varies(support, -1) and call.has_features(operand):
        return _mix_positions(call, operand, weight, out_dimension, bias)
    features = call.fresh(call.result_shape[-1])
    result = along(features, -1, len(call.result_shape))
    written = Factor(along(features, out_dimension, 2), "output", call.node)
    read = Factor(_as_inputs(support, in_dimension), "input", operand, rows=support.ndim - 1)
    slots = {weight: tuple(-1 if d == out_dimension else 1 for d in range(2))}
    uses = [Use(weight, (written, read), outputs=out_dimension)]
    if bias is not None:
        slots[bias] = (-1,)
        uses.append(Use(bias, (Factor(features, "output", call.node),)))
    return Effect(result, reads=(operand,), gates=_gates(features, slots, result=(-1,)), uses=tuple(uses))


def _mix_positions(call: Call, operand: Node, weight: Argument, out_dimension: int, bias: Argument | None) -> Effect:
    """The features lie along another dimension (token mixing): they pass, and the weight serves them all.

    Its rows have a mask of their own, or else the first task would need the weight whole.
    """
    arguments = [(weight, out_dimension, 2), *([(bias, 0, 1)] if bias is not None else [])]
    rows = call.fresh(call.result_shape[-1])
    masked = has_variables(rows) and all(is_parameter(call[argument.name]) for argument, *_ in arguments)
    uses = tuple(
        Use(argument, mask=along(rows, dimension, dimensions) if masked else None, outputs=dimension)
        for argument, dimension, dimensions in arguments
    )
    return Effect(call.support(operand), flows=(operand,), keeps_zero=bias is None, uses=uses)


def _as_inputs(support: Support, in_dimension: int) -> Support:
    """The features of the last dimension along the weight's input dimension, behind all other dimensions."""
    tail = [1, 1]
    tail[in_dimension] = support.shape[-1]
    return support.reshape(*support.shape[:-1], *tail)


def _gates(features: np.ndarray, slots: dict[Argument, tuple[int, ...]], result: tuple[int, ...]) -> tuple[Gate, ...]:
    return (Gate(features, slots, result),) if has_variables(features) else ()


@rewriter(aten.bilinear.default)
def bilinear(call: Call) -> Effect:
    """weight: (out, first, second). An entry is used where its output and both of its inputs are."""
    first, second = call["input1"], call["input2"]
    features = call.fresh(call.result_shape[-1])
    one, other = call.support(first), call.support(second)
    rows = one.ndim - 1
    factors = (
        Factor(along(features, 0, 3), "output", call.node),
        Factor(one.reshape(*one.shape[:-1], 1, -1, 1), "input", first, rows),
        Factor(other.reshape(*other.shape[:-1], 1, 1, -1), "input", second, rows),
    )
    slots: dict[Argument, tuple[int, ...]] = {WEIGHT: (-1, 1, 1)}
    uses = [Use(WEIGHT, factors)]
    if call["bias"] is not None:
        slots[BIAS] = (-1,)
        uses.append(Use(BIAS, (Factor(features, "output", call.node),)))
    result = along(features, -1, len(call.result_shape))
    return Effect(result, reads=(first, second), gates=_gates(features, slots, result=(-1,)), uses=tuple(uses))


@rewriter(
    aten.matmul.default,
    aten.mm.default,
    aten.bmm.default,
    aten.mv.default,
    aten.dot.default,
    aten.vdot.default,
)
def matmul(call: Call) -> Effect:
    name = next(n for n in ("other", "mat2", "vec", "tensor") if n in call)
    left, right = call["self"], call[name]
    if call.is_weight(right) and len(call.shape(right)) == 2 and not call.is_weight(left):
        return project(call, left, Argument(name), transposed=True, bias=None)
    if call.is_weight(left) and len(call.shape(left)) == 2 and not call.is_weight(right) and _has_columns(call, right):
        return project_columns(call, right)
    return product(call, left, right)


def _has_columns(call: Call, operand: Node) -> bool:
    """Whether a tensor holds its examples or its positions as columns, with features along each of them."""
    support = call.support(operand)
    if support.ndim < 2 or varies(support, -1):
        return False
    return varies(support, -2) or (support.ndim == 2 and not call.has_features(operand))


def project_columns(call: Call, operand: Node) -> Effect:
    """`weight @ x`, with the weight as (out, in) and features along the last dimension but one."""
    features = call.fresh(call.result_shape[-2])
    support = np.moveaxis(call.support(operand), -2, -1)
    written = Factor(along(features, 0, 2), "output", call.node)
    read = Factor(_as_inputs(support, 1), "input", operand, rows=support.ndim - 1)
    return Effect(
        along(features, -2, len(call.result_shape)),
        reads=(operand,),
        gates=_gates(features, {SELF: (-1, 1)}, result=(-1, 1)),
        uses=(Use(SELF, (written, read)),),
    )


@rewriter(aten.baddbmm.default)
def add_batched_product(call: Call) -> Effect:
    """`beta * input + alpha * batch1 @ batch2`: attention scores with a bias."""
    added = call["self"]
    effect = product(call, call["batch1"], call["batch2"])
    if effect.flows:
        return call.live(reads=call.operands)
    return call.live(reads=(*effect.reads, added), pairs=effect.pairs)


def product(call: Call, left: Node, right: Node) -> Effect:
    """`left @ right` of two activations, matrices, batches of them or vectors."""
    rows = ("row",) if len(call.shape(left)) > 1 else ()
    columns = ("column",) if len(call.shape(right)) > 1 else ()
    one, other = matrices(call, left, *rows, "summed"), matrices(call, right, "summed", *columns)
    batch = range(-max(len(call.shape(left)), len(call.shape(right))), -2)
    return contract(call, one, other, result=(*batch, *rows, *columns))
