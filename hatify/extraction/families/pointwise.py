"""Functions of each entry by itself."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from hatify.extraction.channels import Channels, Track
from hatify.extraction.registry import Family, register
from hatify.extraction.smaller import Misplaced, Smaller

aten = torch.ops.aten

# Pointwise, but without the tag.
UNTAGGED = (
    *(aten.alias.default, aten.clone.default, aten.detach.default, aten.type_as.default),
    *(aten.to.dtype, aten.to.dtype_layout, aten.rsub.Scalar, aten.masked_fill.Scalar),
    *(aten.div_.Tensor, aten.gelu_.default, aten.hardswish.default, aten.hardswish_.default),
    *(aten.mish_.default, aten.relu6_.default),
)
PRODUCTS: set[Any] = {aten.mul.Tensor, aten.mul_.Tensor}  # zero where any operand is
QUOTIENTS: set[Any] = {aten.div.Tensor, aten.div_.Tensor}  # zero where the first operand is


def follow(channels: Channels, node: Node) -> Track | None:
    if not isinstance(node.meta.get("val"), Tensor):
        return channels.stays(node)
    rank = node.meta["val"].dim()
    operands = [n for n in node.all_input_nodes if n in channels.tracks]
    if not operands:
        return None
    aligned = [channels.tracks[n].aligned(rank) for n in operands]
    first = max(aligned, key=lambda track: track.labels.numel())
    length = channels.shape(node)[first.axis]
    for track in aligned:
        if track.labels.shape != first.labels.shape or track.axis != first.axis:
            return channels.stays(node)
        if track.labels.shape[track.axis] != length:
            return channels.stays(node)  # one channel for all of another operand
        if track is not first:
            channels.stay_equal(first.labels, track.labels)
    return Track(first.labels, first.axis, _maps_to_zero(channels, node, first))


def shrink(smaller: Smaller, node: Node) -> Node:
    track, rank = smaller.channels.tracks.get(node), node.meta["val"].dim()
    if track is None:
        raise Misplaced(node, smaller.channels.around(node))
    fitting = partial(smaller.fitting, track=track, rank=rank)
    if node.target in PRODUCTS and (whole := _untouched(smaller, node, fitting)) is not None:
        return whole
    return smaller.graph.node_copy(node, fitting)


def _maps_to_zero(channels: Channels, node: Node, like: Track) -> bool:
    """Whether the operator is known to give zero for removable channels."""
    operands: Sequence[Node] = node.all_input_nodes
    zeros = [channels.tracks[n].zero if n in channels.tracks else channels.is_zero(n, like) for n in operands]
    if node.target in PRODUCTS and any(zeros):
        return True
    if node.target in QUOTIENTS and zeros[0] and node.args[0] in channels.tracks:
        return True
    if not all(zeros) or not all(isinstance(n.meta.get("val"), Tensor) for n in operands):
        return False
    result = channels.run(node, lambda n: torch.zeros((), dtype=n.meta["val"].dtype))
    return result.is_floating_point() and bool(result == 0)


def _untouched(smaller: Smaller, node: Node, fitting: Any) -> Node | None:
    """The other operand of a product with a mask that lets through all that is left."""
    for operand, other in (node.args[:2], node.args[1::-1]):
        if isinstance(operand, Node) and isinstance(other, Node) and smaller.is_mask(other):
            mask = fitting(other)
            if mask.op == "get_attr" and bool((smaller.tensors[str(mask.target)] == 1).all()):
                return fitting(operand)
    return None


register(Family(follow, shrink), torch.Tag.pointwise, *UNTAGGED)
