"""Operators that write the entries of one tensor into another, at places that may only be known at run time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.fx import Node

from hatify.analysis.call import Call
from hatify.analysis.effect import Effect
from hatify.analysis.support import Support, compress, expand, varies
from hatify.capture.calls import is_tensor
from rewriters.elementwise import combined_supports, filled, meets_infinity
from rewriters.indexing import indexed_dimensions, is_mask, kept_around
from rewriters.registry import rewriter

aten = torch.ops.aten


@rewriter(aten.index_add, aten.index_copy)
def written_along_a_dimension(call: Call) -> Effect:
    """Slices of `source` go to some places along a dimension: each place holds the features of both."""
    return written(call, call["source"], [call.dimension("dim", call["self"])])


@rewriter(
    aten.scatter.src,
    aten.scatter.reduce,
    aten.scatter_.src,
    aten.scatter_.reduce,
    aten.scatter_add,
    aten.scatter_reduce,
)
def scattered(call: Call) -> Effect:
    """As `index_add`, with an index for each entry, so that entries keep their place along the other dimensions."""
    dimension = call.dimension("dim", call["self"])
    target, source = call["self"], call["src"]
    shapes = zip(call.shape(target), call.shape(source), call.shape(call["index"]), strict=True)
    cut = [d for d, sizes in enumerate(shapes) if len(set(sizes)) > 1 and d != dimension]
    if any(varies(call.support(node), d) for d in cut for node in (target, source)):
        return call.live(reads=(target, source))
    return written(call, source, [dimension])


rewriter(aten.scatter.value, aten.scatter_.value, aten.index_fill.int_Scalar, aten.index_fill_.int_Scalar)(filled)


def written(call: Call, source: Node, dimensions: Sequence[int]) -> Effect:
    """`source` is written into `self`, at any place along some dimensions, in its place along the others."""
    target = call["self"]
    one, other = call.support(target), call.support(source)
    if any(varies(one, d) or varies(other, d) for d in dimensions):
        return call.live(reads=(target, source))
    return combined_supports(call, (target, source), (one, other))


@rewriter(aten.index_put)
def put_at_indices(call: Call) -> Effect:
    """`x[i, :, mask] = values`: each place holds the features of both, along the dimensions that are not indexed."""
    target, values, indices = call["self"], call["values"], call["indices"]
    support = call.support(target)
    indexed = indexed_dimensions(indices)
    if not indexed or any(varies(support, d) for d in indexed):
        return call.live(reads=(target, values))
    other = _unindexed(call.support(values), indices, indexed, support.ndim)
    if other is None:
        return call.live(reads=(target, values))
    return combined_supports(call, (target, values), (support, other))


def _unindexed(values: Support, indices: Sequence[Node | None], indexed: Sequence[int], rank: int) -> Support | None:
    """What is written to `x[indices]`, along the dimensions of `x`; None if it has structure along the indices'."""
    front, back = kept_around(indexed, rank)
    own = max(1 if is_mask(index) else index.meta["val"].dim() for index in indices if index is not None)
    full = values.reshape((1,) * (len(front) + own + len(back) - values.ndim) + values.shape)
    if any(varies(full, d) for d in range(len(front), len(front) + own)):
        return None
    kept = dict(zip([*front, *back], full.shape[: len(front)] + full.shape[len(front) + own :], strict=True))
    return full.reshape([kept.get(d, 1) for d in range(rank)])


@rewriter(aten.slice_scatter.default, aten.select_scatter.default)
def written_at_a_place(call: Call) -> Effect:
    """A slice becomes that of another tensor: each entry has the features of the tensor that it comes from."""
    target, source = call["self"], call["src"]
    dimension = call.dimension("dim", target)
    one, other = call.support(target), call.support(source)
    if "index" in call:
        other = np.expand_dims(other, dimension)
    if not varies(one, dimension) and not varies(other, dimension):
        return combined_supports(call, (target, source), (one, other))
    place = _place(call)
    if place is None or meets_infinity(call, target, source):
        return call.live(reads=(target, source))
    full = np.array(_at_full_size(call, one, other, dimension))
    where = (slice(None),) * dimension + (place,)
    full[where] = np.broadcast_to(other, full[where].shape)
    return Effect(compress(full), flows=tuple(dict.fromkeys((target, source))))


def _place(call: Call) -> slice | None:
    """The slice that is written; None if it is computed in the graph, or as long as a batch that may change."""
    dimension = call.dimension("dim", call["self"])
    if not isinstance(call.node.meta["val"].shape[dimension], int):
        return None
    if "index" in call:
        index = call["index"]
        return slice(index, index + 1 or None) if isinstance(index, int) else None
    bounds = call["start"], call["end"], call["step"]
    return None if any(isinstance(bound, Node) for bound in bounds) else slice(*bounds)


def _at_full_size(call: Call, one: Support, other: Support, dimension: int) -> Support:
    structured = [d for d in range(one.ndim) if d != dimension and (varies(one, d) or varies(other, d))]
    return expand(one, call.result_shape, [*structured, dimension])


@rewriter(aten.masked_scatter)
def written_in_order(call: Call) -> Effect:
    """The source's entries in the order in which places turn up: none has a place of its own."""
    reads = (call["self"], call["source"])
    return call.live(reads=tuple(node for node in reads if is_tensor(node)))
