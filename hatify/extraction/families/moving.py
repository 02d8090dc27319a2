"""Entries move, or are repeated, as they are: the operator does the same to labels."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from hatify.analysis.nodes import arguments_of
from hatify.analysis.sizes import concrete
from hatify.capture.calls import given_arguments
from hatify.extraction.channels import UNLABELLED, Channels, Track, is_float
from hatify.extraction.registry import Family, register
from hatify.extraction.smaller import Smaller, laid_out

aten = torch.ops.aten

MOVES = (
    *(aten.view.default, aten.reshape.default, aten._unsafe_view.default, aten.unflatten.int, aten.flatten.using_ints),
    *(aten.squeeze.dim, aten.squeeze.dims, aten.unsqueeze.default, aten.expand.default),
    *(aten.permute.default, aten.transpose.int, aten.t.default, aten.flip.default, aten.roll.default),
    *(aten.slice.Tensor, aten.narrow.default, aten.select.int, aten.unbind.int),
    *(aten.cat.default, aten.stack.default, aten.contiguous.default),
)
ALIKE = (aten.reshape_as.default, aten.view_as.default)  # the second operand lends its shape
SHAPES: dict[Any, str] = {  # the names of arguments that hold the shape of the result
    aten.view.default: "size",
    aten.reshape.default: "shape",
    aten._unsafe_view.default: "size",
    aten.expand.default: "size",
    aten.unflatten.int: "sizes",
}
PIECES = (aten.split.Tensor, aten.split_with_sizes.default, aten.chunk.default)


def follow(channels: Channels, node: Node) -> Any:
    if node.target in ALIKE and node.args[0] not in channels.tracks:
        return channels.stays(node)  # only the shape has channels
    if node.target is aten.roll.default and not arguments_of(node)["dims"]:
        return channels.stays(node)  # over the ends of all dimensions
    like = _adopted(channels, node)
    labels = channels.run(node, lambda n: _full(channels, n, like)[0])
    axes = channels.run(node, lambda n: _full(channels, n, like)[1])
    moved = node.all_input_nodes[:1] if node.target in ALIKE else node.all_input_nodes
    floats = [n for n in moved if is_float(n)]
    zero = all(channels.tracks[n].zero if n in channels.tracks else channels.is_zero(n, like) for n in floats)
    several = isinstance(labels, list | tuple)
    pairs = zip(labels, axes, strict=True) if several else [(labels, axes)]
    results = [_reduced(one, axis, zero) for one, axis in pairs]
    values = node.meta["val"] if several else [node.meta["val"]]
    shapes = [value.shape for value in values]
    if any(t is not None and isinstance(s[t.axis], torch.SymInt) for t, s in zip(results, shapes, strict=True)):
        return channels.stays(node)  # channels among the examples of a batch
    return results if several else results[0]


def shrink(smaller: Smaller, node: Node) -> Node:
    """The call with the sizes of what is left, if it does to the labels that are left what is expected."""
    track, named = smaller.channels.tracks.get(node), given_arguments(node)
    if node.target in SHAPES and isinstance(track, Track) and smaller.removes(track):
        sizes = list(named[SHAPES[node.target]])
        axis = track.axis - (int(named["dim"]) % node.args[0].meta["val"].dim() if "dim" in named else 0)  # type: ignore[union-attr]
        if 0 <= axis < len(sizes) and sizes[axis] != -1:
            sizes[axis] = smaller.length(track)
        named[SHAPES[node.target]] = sizes
    like = _adopted(smaller.channels, node)
    args, kwargs = laid_out(node.target, named, lambda operand: smaller.left(operand, like))
    smaller.check(node, lambda: node.target(*args, **kwargs))  # type: ignore[operator]
    fitting = None if like is None else partial(smaller.fitting, track=like, rank=like.labels.dim())
    return smaller.call(node, named, fitting)


def shrink_pieces(smaller: Smaller, node: Node) -> Node:
    """A tensor taken apart, with the lengths that its pieces have then."""
    given = arguments_of(node)
    source, dimension = given["self"], int(given["dim"]) % given["self"].meta["val"].dim()
    tracks = smaller.channels.tracks.get(node) or [None] * len(node.meta["val"])
    lengths = [
        smaller.length(track) if track is not None and track.axis == dimension else concrete(piece.shape[dimension])
        for track, piece in zip(tracks, node.meta["val"], strict=True)
    ]
    smaller.check(node, lambda: smaller.left(source, None).split_with_sizes(lengths, dimension))
    return smaller.graph.call_function(aten.split_with_sizes.default, (smaller.copy(source), lengths, dimension))


def follow_size(channels: Channels, node: Node) -> None:
    """The size of a tensor, along another dimension than that of its channels."""
    operand, dimension = node.args
    track = channels.tracks[operand]  # type: ignore[index]
    if not isinstance(track, Track) or track.axis == dimension:
        channels.stays(node)


def follow_property(channels: Channels, node: Node) -> None:
    """A tensor's dtype or device has nothing to do with its channels."""


def _adopted(channels: Channels, node: Node) -> Track | None:
    """What tensors without labels, joined along another dimension with one that has some, take over from it."""
    tracks = [channels.tracks[n] for n in node.all_input_nodes if n in channels.tracks]
    joins = node.target is aten.cat.default and isinstance(tracks[0], Track)
    dimension = arguments_of(node)["dim"] if joins else 0
    return tracks[0] if joins and tracks[0].labels.shape[dimension] == 1 else None


def _full(channels: Channels, node: Node, like: Track | None) -> tuple[Any, Any]:
    """The labels of all entries of an operand, and where each stands along the axis."""
    value = node.meta["val"]
    if not isinstance(value, Tensor):
        return concrete(value), concrete(value)
    shape, track = channels.shape(node), channels.tracks.get(node, like)
    if track is None:
        return torch.full(shape, UNLABELLED), torch.zeros(shape, dtype=torch.int64)
    along = [1] * len(shape)
    along[track.axis] = -1
    places = torch.arange(1, shape[track.axis] + 1).reshape(along)
    return track.labels.expand(shape).contiguous(), places.expand(shape).contiguous()


def _reduced(labels: Tensor, places: Tensor, zero: bool) -> Track | None:
    """A track from labels at full size; its axis is the last dimension along which the old axis runs."""
    if bool((labels == UNLABELLED).all()):
        return None
    runs = [d for d in range(labels.dim()) if _varies(places, d)]
    for dimension in range(labels.dim()):
        if not _varies(labels, dimension):
            labels = labels.narrow(dimension, 0, 1)
    return Track(labels.contiguous(), runs[-1] if runs else labels.dim() - 1, zero)


def _varies(values: Tensor, dimension: int) -> bool:
    return not torch.equal(values, values.narrow(dimension, 0, 1).expand_as(values))


register(Family(follow, shrink), *MOVES, *ALIKE)
register(Family(follow, shrink_pieces), *PIECES)
register(Family(follow_size, Smaller.copied), aten.sym_size.int)
register(Family(follow_property, Smaller.copied), getattr)
