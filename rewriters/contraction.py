"""Products of activations, summed over some of their dimensions.

Dimensions go by labels, so that one rule serves matrix products, attention and Einstein sums.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from torch.fx import Node

from hatify.analysis.call import Call
from hatify.analysis.effect import Effect
from hatify.analysis.support import Support, has_variables, varies

Label = Hashable


@dataclass(frozen=True)
class Operand:
    """One side of a contraction: a tensor, its support, and a label for each of its dimensions."""

    node: Node
    support: Support
    labels: tuple[Label, ...]

    def laid_out(self, labels: Sequence[Label]) -> Support:
        """The support with its dimensions in the order of `labels`; a label that it lacks has size 1.

        The operand's labels that are left out must carry no structure.
        """
        own = [label for label in labels if label in self.labels]
        left_out = [label for label in self.labels if label not in own]
        moved = np.transpose(self.support, [self.labels.index(label) for label in [*own, *left_out]])
        sizes = dict(zip(own, moved.shape, strict=False))
        return moved.reshape([sizes.get(label, 1) for label in labels])

    def varies_along(self, labels: Collection[Label]) -> bool:
        """Whether the support has structure along any of the labels."""
        return any(varies(self.support, d) for d, label in enumerate(self.labels) if label in labels)


def matrices(call: Call, node: Node, *labels: Label) -> Operand:
    """An operand whose last dimensions have the given labels; those before them count from the end."""
    batch = range(-len(call.shape(node)), -len(labels))
    return Operand(node, call.support(node), (*batch, *labels))


def contract(call: Call, *operands: Operand, result: Sequence[Label]) -> Effect:
    """The product of activations, summed over every label that `result` lacks.

    The result keeps the features of an operand that is not summed over them: the last one's (attention: the
    value's), or else that of one before, or those that a parameter may adopt. Features that are summed over end here.
    """
    summed = {label for operand in operands for label in operand.labels}.difference(result)
    unsummed = [o for o in reversed(operands) if has_variables(o.support) and not o.varies_along(summed)]
    kept = min(unsummed, key=lambda operand: not call.has_features(operand.node), default=None)
    if kept is not None:
        others = [operand.node for operand in operands if operand is not kept]
        return Effect(kept.laid_out(result), flows=(kept.node,), reads=tuple(dict.fromkeys(others)))
    if len(operands) > 2:
        return call.live(reads=call.operands)
    reads, pairs = couple(call, *operands)
    return call.live(reads=reads, pairs=pairs)


def couple(call: Call, left: Operand, right: Operand) -> tuple[tuple[Node, ...], tuple[Node, ...]]:
    """Couple the features that are multiplied with each other, so that a gate on one side serves both.

    Returns what must be zero itself (`Effect.reads`), and of what one side must be (`Effect.pairs`).
    """
    separate, together = ((left.node, right.node), ()), ((), (left.node, right.node))
    labels = list(dict.fromkeys([*left.labels, *right.labels]))
    one, other = left.laid_out(labels), right.laid_out(labels)
    if any(1 != a != b != 1 for a, b in zip(one.shape, other.shape, strict=True)):
        return separate  # several heads of queries for one of keys
    if not (_may_adopt(call, left, right) or _may_adopt(call, right, left)) and not (
        call.has_features(left.node) and call.has_features(right.node) and one.shape == other.shape
    ):
        return separate
    combination = call.variables.combine(one, other)
    return together if combination.is_coupled else separate


def _may_adopt(call: Call, adopting: Operand, operand: Operand) -> bool:
    """Whether one side is made of parameters, which can adopt the features of the other side."""
    is_floating = has_variables(adopting.support) and not call.has_features(adopting.node)
    return is_floating and call.has_features(operand.node)
