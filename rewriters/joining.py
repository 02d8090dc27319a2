"""Operators that join tensors, and that take them apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.fx import Node

from hatify.analysis.call import Call
from hatify.analysis.effect import Effect
from hatify.analysis.sizes import unknown_dimensions
from hatify.analysis.support import LIVE, Support, compress, expand, varies
from rewriters.indexing import entry
from rewriters.registry import rewriter

aten = torch.ops.aten


@rewriter(aten.cat.default, aten.concat.default, aten.concatenate.default)
def concatenate(call: Call) -> Effect:
    """Along features: one after the other. Along anything else, the pieces' features are coupled."""
    pieces = [node for node in call["tensors"] if len(call.shape(node)) == len(call.result_shape)]
    dimension = int(call["dim"]) % len(call.result_shape)
    return joined(call, pieces, [call.support(node) for node in pieces], dimension)


@rewriter(aten.vstack.default, aten.row_stack.default)
def concatenate_vertically(call: Call) -> Effect:
    """Vectors become rows."""
    pieces = list(call["tensors"])
    supports = [call.support(node) for node in pieces]
    return joined(call, pieces, [s.reshape((1,) * (2 - s.ndim) + s.shape) for s in supports], 0)


@rewriter(aten.dstack.default)
def concatenate_in_depth(call: Call) -> Effect:
    """Vectors become a row of columns of depth 1, matrices get a last dimension."""
    pieces = list(call["tensors"])
    supports = [call.support(node) for node in pieces]
    return joined(
        call, pieces, [s.reshape((1,) * (s.ndim < 2) + s.shape + (1,) * (3 - max(s.ndim, 2))) for s in supports], 2
    )


@rewriter(aten.hstack.default)
def concatenate_horizontally(call: Call) -> Effect:
    pieces = list(call["tensors"])
    return joined(call, pieces, [call.support(node) for node in pieces], min(len(call.result_shape) - 1, 1))


@rewriter(aten.stack.default)
def stack(call: Call) -> Effect:
    pieces = list(call["tensors"])
    dimension = int(call["dim"]) % len(call.result_shape)
    return joined(call, pieces, [np.expand_dims(call.support(node), dimension) for node in pieces], dimension)


def joined(call: Call, pieces: Sequence[Node], supports: Sequence[Support], dimension: int) -> Effect:
    distinct = tuple(dict.fromkeys(pieces))
    are_single = all(s.size == 1 for s in supports)  # single features stay apart
    if not are_single and not any(varies(s, dimension) for s in supports):
        coupled = _coupled(call, supports)
        if coupled is not None:
            return Effect(coupled, flows=distinct)
        supports = [call.variables.find(s) for s in supports]
    shape = list(call.result_shape)
    sizes = _piece_sizes(call, pieces, dimension)
    others = [d for d in range(len(shape)) if d != dimension and any(s.shape[d] > 1 for s in supports)]
    full: list[Support] = []
    for support, size in zip(supports, sizes, strict=True):
        shape[dimension] = size
        full.append(expand(support, shape, [*others, dimension]))
    return Effect(compress(np.concatenate(full, axis=dimension)), flows=distinct)


def _coupled(call: Call, supports: Sequence[Support]) -> Support | None:
    """The one support of pieces that all have features (or none), coupled; None if they cannot be alike."""
    resolved = [call.variables.find(s) for s in supports]
    if all(np.array_equal(s, resolved[0]) for s in resolved):
        return resolved[0]
    if not all((s != LIVE).any() for s in resolved):
        return None
    coupled = resolved[0]
    for support in resolved[1:]:
        combination = call.variables.combine(coupled, support)
        if not combination.is_coupled:
            return None
        coupled = combination.support
    return coupled


def _piece_sizes(call: Call, pieces: Sequence[Node], dimension: int) -> list[int]:
    """How many entries of the joined dimension each piece gives (stacked pieces give one)."""
    rank = len(call.result_shape)
    return [call.shape(n)[dimension] if len(call.shape(n)) == rank else 1 for n in pieces]


# These name the dimension by their own names: along a vector, `hsplit` cuts the only one.
DIMENSION_OF_SPLIT = {"aten::vsplit": 0, "aten::hsplit": 1, "aten::dsplit": 2}


@rewriter(
    aten.split,
    aten.split_with_sizes,
    aten.chunk.default,
    aten.tensor_split.sections,
    aten.tensor_split.indices,
    aten.unsafe_chunk,
    aten.vsplit,
    aten.hsplit,
    aten.dsplit,
)
def split(call: Call) -> Effect:
    operand = call["self"]
    named = DIMENSION_OF_SPLIT.get(call.node.target._schema.name)  # type: ignore[union-attr]
    dimension = call.dimension("dim", operand) if named is None else min(named, len(call.shape(operand)) - 1)
    support = call.support(operand)
    if not varies(support, dimension):
        return Effect(tuple(support for _ in call.results), flows=(operand,))
    if any(unknown_dimensions(piece) for piece in call.node.meta["val"]):
        return call.live(reads=(operand,))
    ends = np.cumsum([shape[dimension] for shape in call.results])[:-1]
    return Effect(tuple(compress(s) for s in np.split(support, ends, axis=dimension)), flows=(operand,))


@rewriter(aten.unbind.int)
def unbind(call: Call) -> Effect:
    operand, dimension = call["self"], call.dimension("dim", call["self"])
    support = call.support(operand)
    picked = tuple(entry(support, dimension, position) for position in range(len(call.results)))
    return Effect(picked, flows=(operand,))
