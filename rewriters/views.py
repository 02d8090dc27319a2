"""Operators that move data: the same NumPy call on the support."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np
import torch
from torch.fx import Node

from hatify.analysis.call import Call, concrete, is_tensor
from hatify.analysis.effect import Effect
from hatify.analysis.support import LIVE, ZERO, Support, compress, expand, reshape, varies
from rewriters.elementwise import elementwise
from rewriters.registry import rewriter

aten = torch.ops.aten


def moved(operand: Node, support: Support) -> Effect:
    """The operand's entries in other places."""
    return Effect(support, flows=(operand,))


@rewriter(
    aten.reshape,
    aten.view.default,
    aten._unsafe_view,
    aten.view_as,
    aten.reshape_as,
    aten.flatten,
    aten.unflatten,
    aten.squeeze,
    aten.unsqueeze,
)
def reshaped(call: Call) -> Effect:
    operand = call["self"]
    support = reshape(call.support(operand), call.shape(operand), call.result_shape)
    return moved(operand, support) if _repeats_over_batch(call, support) else call.live(reads=(operand,))


def _repeats_over_batch(call: Call, support: Support) -> bool:
    """Whether structure along a dimension of dynamic size is the same whatever that size is.

    In `batch * heads` it is, since each example has the same heads. In `(2, batch, n) -> (batch, 2 * n)` it is not:
    what one row holds depends on the number of rows.
    """
    for dimension, size in enumerate(call.node.meta["val"].shape):
        if not isinstance(size, torch.SymInt) or not varies(support, dimension):
            continue
        once = int(size.node.expr.as_coeff_Mul()[0])
        lines = np.moveaxis(support, dimension, 0)
        examples = len(lines) // once
        is_outer = lines.reshape(examples, once, -1)
        is_inner = lines.reshape(once, examples, -1)
        if not ((is_outer == is_outer[:1]).all() or (is_inner == is_inner[:, :1]).all()):
            return False
        if once == 1:
            return False
    return True


@rewriter(aten.permute.default)
def permute(call: Call) -> Effect:
    operand = call["self"]
    return moved(operand, np.transpose(call.support(operand), call["dims"]))


@rewriter(aten.transpose.int, aten.swapaxes.default, aten.swapdims.default)
def transpose(call: Call) -> Effect:
    operand = call["self"]
    first = call["dim0"] if "dim0" in call else call["axis0"]
    second = call["dim1"] if "dim1" in call else call["axis1"]
    return moved(operand, np.swapaxes(call.support(operand), first, second))


@rewriter(aten.t.default, aten.numpy_T.default)
def transpose_matrix(call: Call) -> Effect:
    return moved(call["self"], np.transpose(call.support(call["self"])))


@rewriter(aten.movedim)
def move_dimension(call: Call) -> Effect:
    operand = call["self"]
    return moved(operand, np.moveaxis(call.support(operand), call["source"], call["destination"]))


@rewriter(aten.expand.default, aten.expand_as.default, aten.broadcast_to.default)
def expanded(call: Call) -> Effect:
    operand = call["self"]
    missing = len(call.result_shape) - len(call.shape(operand))
    return moved(operand, call.support(operand).reshape((1,) * missing + call.support(operand).shape))


@rewriter(aten.slice.Tensor)
def sliced(call: Call) -> Effect:
    operand, dimension = call["self"], call.dimension("dim", call["self"])
    support = call.support(operand)
    if varies(support, dimension):
        bounds = [None if b is None else concrete(_value(b)) for b in (call["start"], call["end"], call["step"])]
        support = support[(slice(None),) * dimension + (slice(*bounds),)]
    return moved(operand, compress(support))


@rewriter(aten.narrow.default)
def narrow(call: Call) -> Effect:
    operand, dimension = call["self"], call.dimension("dim", call["self"])
    support = call.support(operand)
    if varies(support, dimension):
        start = concrete(_value(call["start"]))
        support = support.take(range(start, start + concrete(_value(call["length"]))), dimension)
    return moved(operand, compress(support))


@rewriter(aten.select.int)
def select(call: Call) -> Effect:
    operand, dimension = call["self"], call.dimension("dim", call["self"])
    support = call.support(operand)
    index = concrete(_value(call["index"])) if varies(support, dimension) else 0
    return moved(operand, compress(support.take(index, dimension)))


@rewriter(aten.cat.default, aten.concat.default)
def concatenate(call: Call) -> Effect:
    """Along features: one after the other. Along anything else, the pieces' features are coupled."""
    pieces = [node for node in call["tensors"] if len(call.shape(node)) == len(call.result_shape)]
    dimension = int(call["dim"]) % len(call.result_shape)
    return joined(call, pieces, [call.support(node) for node in pieces], dimension)


@rewriter(aten.stack.default)
def stack(call: Call) -> Effect:
    pieces = list(call["tensors"])
    dimension = int(call["dim"]) % len(call.result_shape)
    return joined(call, pieces, [np.expand_dims(call.support(node), dimension) for node in pieces], dimension)


def joined(call: Call, pieces: Sequence[Node], supports: Sequence[Support], dimension: int) -> Effect:
    distinct = tuple(dict.fromkeys(pieces))
    if all(s.shape[dimension] == 1 for s in supports) and len(supports) > 1:
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
    if not all((s != 0).any() for s in resolved):
        return None

    def couple(left: Support | None, right: Support) -> Support | None:
        if left is None:
            return None
        combination = call.variables.combine(left, right)
        return combination.support if combination.carries == (True, True) and combination.exact else None

    return reduce(couple, resolved[1:], resolved[0])


def _piece_sizes(call: Call, pieces: Sequence[Node], dimension: int) -> list[int]:
    """How many entries of the joined dimension each piece gives (stacked pieces give one)."""
    rank = len(call.result_shape)
    return [call.shape(n)[dimension] if len(call.shape(n)) == rank else 1 for n in pieces]


@rewriter(aten.split, aten.split_with_sizes, aten.chunk.default, aten.tensor_split.sections, aten.unsafe_chunk)
def split(call: Call) -> Effect:
    operand, dimension = call["self"], call.dimension("dim", call["self"])
    support = call.support(operand)
    if not varies(support, dimension):
        return Effect(tuple(support for _ in call.results), flows=(operand,))
    ends = np.cumsum([shape[dimension] for shape in call.results])[:-1]
    return Effect(tuple(compress(s) for s in np.split(support, ends, axis=dimension)), flows=(operand,))


@rewriter(aten.unbind.int)
def unbind(call: Call) -> Effect:
    operand, dimension = call["self"], call.dimension("dim", call["self"])
    support = call.support(operand)
    picked = (compress(support.take(i if varies(support, dimension) else 0, dimension)) for i in range(len(call.results)))
    return Effect(tuple(picked), flows=(operand,))


@rewriter(aten.flip.default)
def flip(call: Call) -> Effect:
    operand = call["self"]
    return moved(operand, np.flip(call.support(operand), [d for d in call["dims"]]))


@rewriter(aten.roll.default)
def roll(call: Call) -> Effect:
    operand, shifts, dimensions = call["self"], call["shifts"], call["dims"]
    support = call.support(operand)
    if not dimensions:
        return moved(operand, support) if support.size == 1 else call.live(reads=(operand,))
    kept = [(s, d) for s, d in zip(shifts, dimensions, strict=True) if varies(support, d)]
    if any(isinstance(s, Node) for s, _ in kept):
        return call.live(reads=(operand,))
    for shift, dimension in kept:
        support = np.roll(support, shift, dimension)
    return moved(operand, support)


@rewriter(aten.repeat.default)
def repeat(call: Call) -> Effect:
    operand = call["self"]
    support = call.support(operand)
    support = support.reshape((1,) * (len(call.result_shape) - support.ndim) + support.shape)
    times = [call.result_shape[d] // support.shape[d] if varies(support, d) else 1 for d in range(support.ndim)]
    return moved(operand, np.tile(support, times))


@rewriter(aten.repeat_interleave.self_int)
def repeat_interleave(call: Call) -> Effect:
    operand = call["self"]
    support = call.support(operand)
    if call["dim"] is None:
        return moved(operand, support.reshape(1)) if support.size == 1 else call.live(reads=(operand,))
    dimension = call.dimension("dim", operand)
    if varies(support, dimension):
        support = np.repeat(support, call["repeats"], dimension)
    return moved(operand, support)


@rewriter(aten.pixel_shuffle.default, aten.pixel_unshuffle.default, aten.channel_shuffle.default)
def shuffle(call: Call) -> Effect:
    """The support at full size of its last three dimensions, shuffled by the operator itself."""
    operand = call["self"]
    shape = call.shape(operand)
    support = np.ascontiguousarray(expand(call.support(operand), shape, range(len(shape) - 3, len(shape))))
    arguments = [a for a in call.node.args[1:]]
    result = call.node.target(torch.from_numpy(support), *arguments)  # type: ignore[operator]
    return moved(operand, compress(result.numpy()))


@rewriter(aten.index.Tensor, aten.index_select.default, aten.gather.default, aten.take_along_dim.default)
def index(call: Call) -> Effect:
    """Picks entries that are only known at run time: exact where the indexed dimensions carry no structure."""
    operand = call["self"]
    support = call.support(operand)
    if call.node.target is not aten.index.Tensor:
        dimension = call.dimension("dim", operand)
        return moved(operand, support) if not varies(support, dimension) else call.live(reads=(operand,))
    indexed = [d for d, i in enumerate(call["indices"]) if i is not None]
    if any(varies(support, d) for d in indexed) or not all(is_tensor(call["indices"][d]) for d in indexed):
        return call.live(reads=(operand,))
    return moved(operand, _indexed(support, indexed, len(call.result_shape)))


def _indexed(support: Support, indexed: Sequence[int], rank: int) -> Support:
    """Replace the indexed dimensions by those of the indices: in place if adjacent, else in front."""
    kept = [d for d in range(support.ndim) if d not in indexed]
    new = (1,) * (rank - len(kept))
    adjacent = list(indexed) == list(range(indexed[0], indexed[-1] + 1))
    front = [d for d in kept if d < indexed[0]] if adjacent else []
    back = [d for d in kept if d not in front]
    shape = [support.shape[d] for d in front] + list(new) + [support.shape[d] for d in back]
    return support.reshape(shape)


@rewriter(aten.pad.default, aten.constant_pad_nd.default)
def pad(call: Call) -> Effect:
    """Padding with zeros is zero under every mask; any other constant is live."""
    operand = call["self"]
    support, shape = call.support(operand), call.shape(operand)
    amounts = [concrete(_value(a)) for a in call["pad"]]
    mode = call["mode"] if "mode" in call else "constant"
    widths = [(0, 0)] * support.ndim
    for i in range(len(amounts) // 2):
        widths[-1 - i] = (amounts[2 * i], amounts[2 * i + 1])
    padded = [d for d, width in enumerate(widths) if width != (0, 0)]
    value = call["value"] or 0
    if mode != "constant":
        structured = any(varies(support, d) for d in padded)
        return call.live(reads=(operand,)) if structured else moved(operand, support)
    if value != 0 and padded:
        return elementwise(call, keeps_zero=False) if not any(varies(support, d) for d in padded) else call.live(
            reads=(operand,)
        )
    structured_dimensions = [d for d in padded if varies(support, d)]
    kept = [widths[d] if d in structured_dimensions else (0, 0) for d in range(support.ndim)]
    if any(low < 0 or high < 0 for low, high in kept):
        return call.live(reads=(operand,))
    del shape
    return moved(operand, np.pad(support, kept, constant_values=1))


def _value(argument: object) -> int | torch.SymInt:
    """A size that may be computed in the graph."""
    value = argument.meta["val"] if isinstance(argument, Node) else argument
    assert isinstance(value, int | torch.SymInt)
    return value

