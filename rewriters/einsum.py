"""Einstein sums: of two activations a contraction, of an activation and a parameter a weighted layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from hatify.analysis.call import Call
from hatify.analysis.effect import Argument, Effect, Factor, Gate, Use
from hatify.analysis.support import has_variables
from rewriters.contraction import Label, Operand, contract
from rewriters.registry import rewriter

aten = torch.ops.aten


class Equation(NamedTuple):
    """The labels of each operand's dimensions, and those of the result's."""

    operands: tuple[tuple[Label, ...], ...]
    result: tuple[Label, ...]


@rewriter(aten.einsum.default)
def einsum(call: Call) -> Effect:
    tensors = list(call["tensors"])
    equation = parse(call["equation"], [len(call.shape(node)) for node in tensors])
    if len(tensors) > 2 or any(len(set(labels)) < len(labels) for labels in equation.operands):
        return call.live(reads=call.operands)
    operands = [
        Operand(node, call.support(node), labels) for node, labels in zip(tensors, equation.operands, strict=True)
    ]
    if len(tensors) == 1:
        return _rearranged(call, operands[0], equation.result)
    for weight, operand in ((1, 0), (0, 1)):
        if call.is_weight(tensors[weight]) and not call.is_weight(tensors[operand]):
            return _weighted(call, operands[operand], operands[weight], weight, equation.result)
    left, right = operands
    return contract(call, left, right, equation.result)


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


def _weighted(call: Call, operand: Operand, weight: Operand, position: int, result: tuple[Label, ...]) -> Effect:
    """The result's features lie along those of the weight's dimensions that it keeps."""
    written = [label for label in weight.labels if label in result]
    sizes = dict(zip(weight.labels, call.shape(weight.node), strict=True))
    features = call.fresh(int(np.prod([sizes[label] for label in written], dtype=np.int64)))
    features = features.reshape([sizes[label] for label in written])
    produced = Operand(call.node, features, tuple(written))
    others = [label for label in operand.labels if label not in weight.labels]
    factors = (
        Factor(produced.laid_out(weight.labels), "output", call.node),
        Factor(operand.laid_out([*others, *weight.labels]), "input", operand.node, rows=len(others)),
    )
    argument = Argument("tensors", position)
    mask_shape = [sizes[label] if label in written else 1 for label in weight.labels]
    if written:
        mask_shape[weight.labels.index(written[-1])] = -1
    return Effect(
        produced.laid_out(result),
        reads=(operand.node,),
        gates=(Gate(features, {argument: tuple(mask_shape)}),) if has_variables(features) else (),
        uses=(Use(argument, factors),),
    )
