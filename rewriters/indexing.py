"""Operators that pick entries: exact where it is known which, or where all have the same features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.fx import Node

from hatify.analysis.call import Call
from hatify.analysis.effect import Effect
from hatify.analysis.support import Support, compress, varies
from rewriters.registry import rewriter
from rewriters.sizes import is_known, number
from rewriters.views import moved

aten = torch.ops.aten


@rewriter(aten.slice.Tensor)
def sliced(call: Call) -> Effect:
    operand, dimension = call["self"], call.dimension("dim", call["self"])
    support = call.support(operand)
    bounds = call["start"], call["end"], call["step"]
    if varies(support, dimension):
        if not all(bound is None or is_known(bound) for bound in bounds):
            return call.live(reads=(operand,))
        numbers = [None if bound is None else number(bound) for bound in bounds]
        support = support[(slice(None),) * dimension + (slice(*numbers),)]
    return moved(operand, compress(support))


@rewriter(aten.narrow.default)
def narrow(call: Call) -> Effect:
    operand, dimension = call["self"], call.dimension("dim", call["self"])
    support = call.support(operand)
    if varies(support, dimension):
        if not (is_known(call["start"]) and is_known(call["length"])):
            return call.live(reads=(operand,))
        start = number(call["start"])
        support = support.take(range(start, start + number(call["length"])), dimension)
    return moved(operand, compress(support))


@rewriter(aten.select.int)
def select(call: Call) -> Effect:
    operand, dimension = call["self"], call.dimension("dim", call["self"])
    support = call.support(operand)
    if varies(support, dimension) and not is_known(call["index"]):
        return call.live(reads=(operand,))
    return moved(operand, entry(support, dimension, number(call["index"])))


def entry(support: Support, dimension: int, position: int) -> Support:
    """The support of one entry of a dimension."""
    picked = np.take(support, [position if varies(support, dimension) else 0], dimension)
    return compress(picked.squeeze(dimension))


@rewriter(aten.index_select.default)
def index_select(call: Call) -> Effect:
    """Picks entries that are only known at run time: exact along dimensions without structure."""
    operand = call["self"]
    support = call.support(operand)
    is_exact = not varies(support, call.dimension("dim", operand))
    return moved(operand, support) if is_exact else call.live(reads=(operand,))


@rewriter(aten.gather.default, aten.take_along_dim.default)
def gather(call: Call) -> Effect:
    """As `index_select`, with an index for each entry; of other dimensions it takes the first entries."""
    operand = call["self"]
    if call["dim"] is None:
        return call.live(reads=(operand,))
    support, dimension = call.support(operand), call.dimension("dim", operand)
    if varies(support, dimension):
        return call.live(reads=(operand,))
    sizes = zip(support.shape, call.result_shape, strict=True)
    return moved(operand, support[tuple(slice(min(size, taken)) for size, taken in sizes)])


@rewriter(aten.index.Tensor)
def index(call: Call) -> Effect:
    operand = call["self"]
    support = call.support(operand)
    indexed = indexed_dimensions(call["indices"])
    if not indexed or any(varies(support, d) for d in indexed):
        return call.live(reads=(operand,))
    return moved(operand, _indexed(support, indexed, len(call.result_shape)))


def indexed_dimensions(indices: Sequence[Node | None]) -> list[int]:
    """The dimensions that are indexed: a mask has several; none where a mask has no dimension."""
    indexed: list[int] = []
    position = 0
    for index in indices:
        width = 1 if index is None or not is_mask(index) else index.meta["val"].dim()
        if width == 0:
            return []
        indexed += [] if index is None else range(position, position + width)
        position += width
    return indexed


def is_mask(index: Node) -> bool:
    """Whether an index is a mask, which may take several dimensions at once."""
    return index.meta["val"].dtype in (torch.bool, torch.uint8)


def _indexed(support: Support, indexed: Sequence[int], rank: int) -> Support:
    """Replace the indexed dimensions by those of the indices."""
    front, back = kept_around(indexed, support.ndim)
    new = (1,) * (rank - len(front) - len(back))
    return support.reshape(*(support.shape[d] for d in front), *new, *(support.shape[d] for d in back))


def kept_around(indexed: Sequence[int], dimensions: int) -> tuple[list[int], list[int]]:
    """The dimensions that are not indexed, before and behind where those of the indices go.

    That is in place of indexed dimensions which are adjacent, else in front of all others.
    """
    kept = [d for d in range(dimensions) if d not in indexed]
    adjacent = list(indexed) == list(range(indexed[0], indexed[-1] + 1))
    front = [d for d in kept if d < indexed[0]] if adjacent else []
    return front, kept[len(front) :]
