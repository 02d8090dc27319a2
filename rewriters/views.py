"""Operators that move data: the same NumPy call on the support."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch.fx import Node

from hatify.analysis.call import Call, concrete, entries_per_example, is_tensor, is_unknown, unknown_dimensions
from hatify.analysis.effect import Effect
from hatify.analysis.support import LIVE, ZERO, Support, broadcast, compress, expand, live, reshape, varies
from rewriters.elementwise import elementwise
from rewriters.registry import rewriter
from rewriters.uniform import uniform

aten = torch.ops.aten


def moved(operand: Node, support: Support) -> Effect:
    """The operand's entries in other places."""
    return Effect(support, flows=(operand,))


def moved_like(call: Call, support: Support) -> Effect:
    """The entries of `self` in other places, in the shape that another operand may lend (`reshape_as`)."""
    lenders = tuple(node for node in call.operands if node is not call["self"])
    return replace(moved(call["self"], support), shapes=lenders)


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
    operand, old, new = call["self"], call.shape(call["self"]), call.result_shape
    if math.prod(old) != math.prod(new):
        return call.live(reads=(operand,))  # parts of an unknown size, which are no whole number here
    support = reshape(call.support(operand), old, new)
    return moved_like(call, support) if _repeats_over_batch(call, support) else call.live(reads=(operand,))


def _repeats_over_batch(call: Call, support: Support) -> bool:
    """Whether structure along a dimension of dynamic size is the same whatever that size is.

    In `batch * heads` it is, since each example has the same heads. In `(2, batch, n) -> (batch, 2 * n)` it is
    not: what one row holds depends on the number of rows.
    """
    for dimension, size in enumerate(call.node.meta["val"].shape):
        if isinstance(size, torch.SymInt) and varies(support, dimension):
            entries = entries_per_example(size)
            examples = np.moveaxis(support, dimension, 0).reshape(-1, entries, support.size // support.shape[dimension])
            if entries == 1 or not (examples == examples[:1]).all():
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
def reverse_dimensions(call: Call) -> Effect:
    return moved(call["self"], np.transpose(call.support(call["self"])))


@rewriter(aten.mT.default, aten.mH.default, aten.matrix_H.default, aten.adjoint.default)
def transpose_matrices(call: Call) -> Effect:
    return moved(call["self"], np.swapaxes(call.support(call["self"]), -1, -2))


@rewriter(aten.movedim, aten.moveaxis)
def move_dimension(call: Call) -> Effect:
    operand = call["self"]
    return moved(operand, np.moveaxis(call.support(operand), call["source"], call["destination"]))


@rewriter(aten.expand.default, aten.expand_as.default, aten.broadcast_to.default)
def expanded(call: Call) -> Effect:
    operand = call["self"]
    missing = len(call.result_shape) - len(call.shape(operand))
    return moved_like(call, call.support(operand).reshape((1,) * missing + call.support(operand).shape))


@rewriter(aten.broadcast_tensors.default)
def broadcast_together(call: Call) -> Effect:
    supports = [call.support(node) for node in call["tensors"]]
    return Effect(tuple(broadcast([*supports, live(len(call.result_shape))])[:-1]), flows=call.operands)


@rewriter(aten.slice.Tensor)
def sliced(call: Call) -> Effect:
    operand, dimension = call["self"], call.dimension("dim", call["self"])
    support = call.support(operand)
    bounds = call["start"], call["end"], call["step"]
    if varies(support, dimension):
        if not all(bound is None or _is_known(bound) for bound in bounds):
            return call.live(reads=(operand,))
        numbers = [None if bound is None else concrete(_value(bound)) for bound in bounds]
        support = support[(slice(None),) * dimension + (slice(*numbers),)]
    return moved(operand, compress(support))


@rewriter(aten.narrow.default)
def narrow(call: Call) -> Effect:
    operand, dimension = call["self"], call.dimension("dim", call["self"])
    support = call.support(operand)
    if varies(support, dimension):
        if not (_is_known(call["start"]) and _is_known(call["length"])):
            return call.live(reads=(operand,))
        start = concrete(_value(call["start"]))
        support = support.take(range(start, start + concrete(_value(call["length"]))), dimension)
    return moved(operand, compress(support))


@rewriter(aten.select.int)
def select(call: Call) -> Effect:
    operand, dimension = call["self"], call.dimension("dim", call["self"])
    support = call.support(operand)
    if varies(support, dimension) and not _is_known(call["index"]):
        return call.live(reads=(operand,))
    return moved(operand, entry(support, dimension, concrete(_value(call["index"]))))


def entry(support: Support, dimension: int, position: int) -> Support:
    """The support of one entry of a dimension."""
    picked = np.take(support, [position if varies(support, dimension) else 0], dimension)
    return compress(picked.squeeze(dimension))


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
        if combination.carries != (True, True) or not combination.exact:
            return None
        coupled = combination.support
    return coupled


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


@rewriter(aten.flip.default)
def flip(call: Call) -> Effect:
    operand = call["self"]
    return moved(operand, np.flip(call.support(operand), tuple(call["dims"])))


@rewriter(aten.rot90.default)
def rotate(call: Call) -> Effect:
    operand = call["self"]
    return moved(operand, np.rot90(call.support(operand), call["k"], tuple(call["dims"])))


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


@rewriter(aten.repeat.default, aten.tile.default)
def repeat(call: Call) -> Effect:
    operand, shape = call["self"], call.result_shape
    support = call.support(operand)
    support = support.reshape((1,) * (len(shape) - support.ndim) + support.shape)
    times = [shape[d] // support.shape[d] if varies(support, d) else 1 for d in range(support.ndim)]
    return moved(operand, np.tile(support, times))


@rewriter(aten.repeat_interleave.self_int, aten.repeat_interleave.self_Tensor)
def repeat_interleave(call: Call) -> Effect:
    """The counts may be a tensor: exact along dimensions without structure."""
    operand, repeats = call["self"], call["repeats"]
    support = call.support(operand)
    if call["dim"] is None:
        return moved(operand, support.reshape(1)) if support.size == 1 else call.live(reads=(operand,))
    dimension = call.dimension("dim", operand)
    if varies(support, dimension):
        if is_tensor(repeats) or not _is_known(repeats):
            return call.live(reads=(operand,))
        support = np.repeat(support, concrete(_value(repeats)), dimension)
    return moved(operand, support)


@rewriter(aten.pixel_shuffle.default)
def shuffle_pixels(call: Call) -> Effect:
    """The pixels that one channel is made of share its mask."""
    operand = call["self"]
    support, factor = call.support(operand), int(call["upscale_factor"])
    if varies(support, -3):
        pixels = support.reshape(*support.shape[:-3], -1, factor**2, *support.shape[-2:])
        channels = uniform(call, pixels, [-3])
        if not varies(channels, -3):
            return moved(operand, channels.squeeze(-3))
    return by_the_operator_itself(call, [-3, -2, -1])


@rewriter(aten.pixel_unshuffle.default)
def unshuffle_pixels(call: Call) -> Effect:
    return by_the_operator_itself(call, [-3, -2, -1])


@rewriter(aten.channel_shuffle.default)
def shuffle_channels(call: Call) -> Effect:
    return by_the_operator_itself(call, [1])


def by_the_operator_itself(call: Call, dimensions: Sequence[int]) -> Effect:
    """The operator, applied to the support at full size of the dimensions that it rearranges."""
    operand = call["self"]
    full = [d % len(call.shape(operand)) for d in dimensions]
    support = np.array(expand(call.support(operand), call.shape(operand), full))
    result = call.node.target(torch.from_numpy(support), *call.node.args[1:])  # type: ignore[operator]
    return moved(operand, compress(result.numpy()))


@rewriter(aten.unfold.default)
def sliding_windows(call: Call) -> Effect:
    """The windows along a dimension, each along a new last dimension."""
    operand = call["self"]
    support = call.support(operand)
    dimension = call.dimension("dimension", operand)
    if not varies(support, dimension):
        return moved(operand, support[..., None])
    windows = np.lib.stride_tricks.sliding_window_view(support, call["size"], dimension)
    return moved(operand, compress(np.take(windows, range(0, windows.shape[dimension], call["step"]), dimension)))


@rewriter(aten.im2col.default)
def unfold_patches(call: Call) -> Effect:
    """(.., C, H, W) to (.., C * patch, positions): each channel is repeated for the pixels of a patch."""
    operand = call["self"]
    support, shape = call.support(operand), call.shape(operand)
    if varies(support, -1) or varies(support, -2):
        return call.live(reads=(operand,))
    patch = call.result_shape[-2] // shape[-3]
    channels = np.repeat(support[..., 0], patch, axis=-2) if varies(support, -3) else support[..., 0]
    return moved(operand, channels)


@rewriter(aten.col2im.default)
def fold_patches(call: Call) -> Effect:
    """(.., C * patch, positions) to (.., C, H, W): sums, within a channel, the pixels that overlap."""
    operand = call["self"]
    support = call.support(operand)
    channels = call.result_shape[-3]
    if varies(support, -1):
        return call.live(reads=(operand,))
    if varies(support, -2):
        pixels = support.reshape(*support.shape[:-2], channels, -1)
        if not (pixels == pixels[..., :1]).all():
            return call.live(reads=(operand,))
        support = pixels[..., :1]
    return moved(operand, support[..., None])


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


@rewriter(aten.pad.default, aten.constant_pad_nd.default)
def pad(call: Call) -> Effect:
    """Padding with zeros is zero under every mask; padding with entries of the tensor repeats a support."""
    operand = call["self"]
    support = call.support(operand)
    if not all(_is_known(amount) for amount in call["pad"]):
        return call.live(reads=(operand,))
    widths = _pad_widths(call, support.ndim)
    structured = [width if varies(support, d) else (0, 0) for d, width in enumerate(widths)]
    is_constant = "mode" not in call or call["mode"] == "constant"
    if is_constant and not call["value"]:
        return moved(operand, compress(_cropped_and_padded(support, structured)))
    if any(width != (0, 0) for width in structured):
        return call.live(reads=(operand,))
    if is_constant and math.isinf(call["value"]):
        return call.live(reads=(operand,))  # no gate can follow: 0 * inf is NaN
    return elementwise(call, keeps_zero=not is_constant)


def _pad_widths(call: Call, rank: int) -> list[tuple[int, int]]:
    """How many entries are put before and behind each dimension; below zero they are cut off."""
    amounts = [concrete(_value(amount)) for amount in call["pad"]]
    last_first = list(zip(amounts[::2], amounts[1::2], strict=True))
    return [(0, 0)] * (rank - len(last_first)) + last_first[::-1]


def _cropped_and_padded(support: Support, widths: Sequence[tuple[int, int]]) -> Support:
    kept = tuple(slice(max(-before, 0), -max(-behind, 0) or None) for before, behind in widths)
    added = [(max(before, 0), max(behind, 0)) for before, behind in widths]
    return np.pad(support[kept], added, constant_values=ZERO)


def _is_known(argument: object) -> bool:
    """Whether a size does not depend on the data."""
    return not is_unknown(_value(argument))


def _value(argument: object) -> int | torch.SymInt:
    """A size that may be computed in the graph."""
    value = argument.meta["val"] if isinstance(argument, Node) else argument
    assert isinstance(value, int | torch.SymInt)
    return value
