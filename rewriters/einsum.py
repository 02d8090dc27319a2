"""Einstein sums, and what can be written as one: a contraction of activations or, with a weight, a weighted layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.fx import Node

from hatify.analysis.call import Call
from hatify.analysis.effect import Argument, Effect, Factor, Gate, Use
from hatify.analysis.support import has_variables
from rewriters.contraction import Label, Operand, contract
from rewriters.registry import rewriter

aten = torch.ops.aten

SELF, OTHER = Argument("self"), Argument("other")


class Equation(NamedTuple):
    """The labels of each operand's dimensions, and those of the result's."""

    operands: tuple[tuple[Label, ...], ...]
    result: tuple[Label, ...]


@rewriter(aten.einsum.default)
def einsum(call: Call) -> Effect:
    tensors = list(call["tensors"])
    equation = parse(call["equation"], [len(call.shape(node)) for node in tensors])
    return summed(call, {Argument("tensors", i): node for i, node in enumerate(tensors)}, equation)


@rewriter(aten.tensordot.default)
def tensordot(call: Call) -> Effect:
    """Sums over the named dimensions of both, the first with the first and so on."""
    left, right = call["self"], call["other"]
    one: list[Label] = [f"left {d}" for d in range(len(call.shape(left)))]
    other: list[Label] = [f"right {d}" for d in range(len(call.shape(right)))]
    for d, e in zip(call["dims_self"], call["dims_other"], strict=True):
        other[e] = one[d]
    result = (*(label for label in one if label not in other), *(label for label in other if label not in one))
    return summed(call, {SELF: left, OTHER: right}, Equation((tuple(one), tuple(other)), result))


@rewriter(aten.inner.default)
def inner(call: Call) -> Effect:
    """Sums over the last dimension of both."""
    left, right = call["self"], call["other"]
    one = [f"left {d}" for d in range(len(call.shape(left)) - 1)]
    other = [f"right {d}" for d in range(len(call.shape(right)) - 1)]
    return summed(call, {SELF: left, OTHER: right}, Equation(((*one, "last"), (*other, "last")), (*one, *other)))


@rewriter(aten.outer.default, aten.ger.default)
def outer(call: Call) -> Effect:
    operands = {SELF: call["self"], Argument("vec2"): call["vec2"]}
    return summed(call, operands, Equation((("row",), ("column",)), ("row", "column")))


def summed(call: Call, tensors: Mapping[Argument, Node], equation: Equation) -> Effect:
    """The effect of an Einstein sum of the tensors at some arguments of the call."""
    if any(len(set(labels)) < len(labels) for labels in equation.operands):
        return call.live(reads=call.operands)
    operands = {
        argument: Operand(node, call.support(node), labels)
        for (argument, node), labels in zip(tensors.items(), equation.operands, strict=True)
    }
    weights = [argument for argument, node in tensors.items() if call.is_weight(node)]
    if weights and len(weights) < len(operands):
        weight = max(weights, key=lambda argument: np.prod(call.shape(tensors[argument])))
        others = [operand for argument, operand in operands.items() if argument != weight]
        return _weighted(call, others, operands[weight], weight, equation.result)
    first, *others = operands.values()
    if not others:
        return _rearranged(call, first, equation.result)
    return contract(call, first, *others, result=equation.result)


def parse(equation: str, ranks: Sequence[int]) -> Equation:
    """Split an equation into labels; the dimensions under `...` count from its end."""
    written, _, result = equation.replace(" ", "").partition("->")
    terms = written.split(",")
    operands = tuple(_labels(term, rank) for term, rank in zip(terms, ranks, strict=True))
    hidden = min((label for labels in operands for label in labels if isinstance(label, int)), default=0)
    if "->" not in equation:
        letters = written.replace(",", "").replace(".", "")
        result = "..." + "".join(sorted(c for c in letters if letters.count(c) == 1))
    return Equation(operands, _labels(result, len(result.replace("...", "")) - hidden))


def _labels(term: str, rank: int) -> tuple[Label, ...]:
    before, dots, after = term.partition("...")
    hidden = rank - len(before) - len(after) if dots else 0
    return (*before, *range(-hidden, 0), *after)


def _rearranged(call: Call, operand: Operand, result: tuple[Label, ...]) -> Effect:
    """A permutation, or a sum over some dimensions."""
    if operand.varies_along({*operand.labels}.difference(result)):
        return call.live(reads=(operand.node,))
    return Effect(operand.laid_out(result), flows=(operand.node,))


def _without_repeated(call: Call, weight: Operand, operands: Sequence[Operand]) -> Operand:
    """The weight with labels of their own for dimensions of size 1 that are repeated along another operand's."""
    sizes = {label: size for o in operands for label, size in zip(o.labels, call.shape(o.node), strict=True)}
    labels = tuple(
        f"{label} repeated" if size == 1 and sizes.get(label, 1) > 1 else label
        for label, size in zip(weight.labels, call.shape(weight.node), strict=True)
    )
    return Operand(weight.node, weight.support, labels)


def _weighted(
    call: Call, operands: Sequence[Operand], weight: Operand, argument: Argument, result: tuple[Label, ...]
) -> Effect:
    """The result's features lie along those of the weight's dimensions that it keeps.

    An entry is used where its output is, and its input of every operand.
    """
    weight = _without_repeated(call, weight, operands)
    written = [label for label in weight.labels if label in result]
    sizes = dict(zip(weight.labels, call.shape(weight.node), strict=True))
    features = call.fresh(int(np.prod([sizes[label] for label in written], dtype=np.int64)))
    features = features.reshape([sizes[label] for label in written])
    produced = Operand(call.node, features, tuple(written))
    factors = [Factor(produced.laid_out(weight.labels), "output", call.node)]
    for operand in operands:
        others = [label for label in operand.labels if label not in weight.labels]
        ids = operand.laid_out([*others, *weight.labels])
        factors.append(Factor(ids, "input", operand.node, rows=len(others)))
    outputs = weight.labels.index(written[0]) if len(written) == 1 else None
    mask_shape = [sizes[label] if label in written else 1 for label in weight.labels]
    if written:
        mask_shape[weight.labels.index(written[-1])] = -1
    return Effect(
        produced.laid_out(result),
        reads=tuple(dict.fromkeys(operand.node for operand in operands)),
        gates=(Gate(features, {argument: tuple(mask_shape)}),) if has_variables(features) else (),
        uses=(Use(argument, tuple(factors), outputs=outputs),),
    )
