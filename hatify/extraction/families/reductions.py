"""Sums, means, maxima and softmax over some dimensions."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.fx import Node

from hatify.analysis.nodes import arguments_of
from hatify.capture.calls import given_arguments
from hatify.extraction.channels import Channels, Track
from hatify.extraction.registry import Family, register
from hatify.extraction.smaller import Smaller

aten = torch.ops.aten

SOFTMAX = (aten.softmax.int, aten._softmax.default)
SUMS: set[Any] = {aten.sum.dim_IntList, aten.sum.default, aten.linalg_vector_norm.default}  # zeros add nothing
MEANS: set[Any] = {aten.mean.dim}


def follow(channels: Channels, node: Node) -> Track | None:
    track = channels.only(node, node.args[0])
    if track is None:
        return channels.stays(node)
    dimensions = _dimensions(node)
    across = [d for d in dimensions if track.labels.shape[d] > 1]
    if across:
        others = [d for d, size in enumerate(track.labels.shape) if size > 1 and d not in across]
        return None if track.zero and not others and _skips_zeros(node) else channels.stays(node)
    if node.target in SOFTMAX or arguments_of(node).get("keepdim"):
        return Track(track.labels, track.axis, track.zero and node.target not in SOFTMAX)
    labels = track.labels.reshape([s for d, s in enumerate(track.labels.shape) if d not in dimensions])
    return Track(labels, track.axis - sum(d < track.axis for d in dimensions), track.zero)


def shrink(smaller: Smaller, node: Node) -> Node:
    """A mean over channels is that of all channels: those that go are zero."""
    track = smaller.channels.tracks.get(node)
    if node.target not in MEANS or track is not None:
        return smaller.copied(node)
    named = given_arguments(node)
    sizes: list[int] = [node.args[0].meta["val"].shape[d] for d in _dimensions(node)]  # type: ignore[union-attr]
    operands = smaller.copy(node.args[0]), named["dim"], named.get("keepdim", False)
    total = smaller.graph.call_function(aten.sum.dim_IntList, operands, {"dtype": named.get("dtype")})
    return smaller.graph.call_function(aten.div.Tensor, (total, math.prod(sizes)))


def _dimensions(node: Node) -> list[int]:
    """What is reduced, counted from the front."""
    dimension, rank = arguments_of(node).get("dim"), node.args[0].meta["val"].dim()  # type: ignore[union-attr]
    if dimension is None or dimension == []:
        return list(range(rank))
    return [d % rank for d in (dimension if isinstance(dimension, list | tuple) else [dimension])]


def _skips_zeros(node: Node) -> bool:
    """Whether the result without zeros among the operands follows from that with them."""
    if node.target in MEANS:
        shape = node.args[0].meta["val"].shape  # type: ignore[union-attr]
        return not any(isinstance(shape[d], torch.SymInt) for d in _dimensions(node))
    return node.target in SUMS and 0 < arguments_of(node).get("ord", 1) < math.inf


register(Family(follow, shrink), *SOFTMAX, *SUMS, *MEANS, aten.amax.default)
