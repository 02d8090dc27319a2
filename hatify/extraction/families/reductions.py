"""Sums, means, maxima and softmax over some dimensions."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.fx import Node

from hatify.analysis.call import arguments_of
from hatify.capture.calls import given_arguments
from hatify.extraction.channels import Channels, Track
from hatify.extraction.families.registry import Family, register
from hatify.extraction.smaller import Smaller

aten = torch.ops.aten

SOFTMAX = (aten.softmax.int, aten._softmax.default)
OVER_ZEROS: set[Any] = {aten.sum.dim_IntList, aten.mean.dim, aten.linalg_vector_norm.default}  # zeros add nothing


def follow(channels: Channels, node: Node) -> Track | None:
    track = channels.only(node, node.args[0])
    dimensions = _dimensions(node)
    if track is None or dimensions is None:
        return channels.stays(node)
    across = [d for d in dimensions if track.labels.shape[d] > 1]
    if across:
        if not track.zero or node.target not in OVER_ZEROS or not _has_known_size(node, dimensions):
            return channels.stays(node)
        rest = [d for d, size in enumerate(track.labels.shape) if size > 1 and d not in across]
        return channels.stays(node) if rest else None
    if node.target in SOFTMAX or arguments_of(node).get("keepdim"):
        return Track(track.labels, track.axis, track.zero and node.target not in SOFTMAX)
    labels = track.labels.reshape([s for d, s in enumerate(track.labels.shape) if d not in dimensions])
    return Track(labels, track.axis - sum(d < track.axis for d in dimensions), track.zero)


def shrink(smaller: Smaller, node: Node) -> Node:
    """A mean over channels is that of all channels: those that go are zero."""
    track = smaller.channels.tracks.get(node)
    if node.target is not aten.mean.dim or track is not None:
        return smaller.copied(node)
    named = given_arguments(node)
    count = math.prod(int(node.args[0].meta["val"].shape[d]) for d in _dimensions(node) or ())  # type: ignore[union-attr]
    total = smaller.graph.call_function(
        aten.sum.dim_IntList, (smaller.copy(node.args[0]), named["dim"], named.get("keepdim", False))
    )
    return smaller.graph.call_function(aten.div.Tensor, (total, count))


def _dimensions(node: Node) -> list[int] | None:
    """What is reduced, counted from the front; None: everything."""
    dimension, rank = arguments_of(node)["dim"], node.args[0].meta["val"].dim()  # type: ignore[union-attr]
    if dimension is None or dimension == []:
        return None
    return [d % rank for d in (dimension if isinstance(dimension, list | tuple) else [dimension])]


def _has_known_size(node: Node, dimensions: list[int]) -> bool:
    shape = node.args[0].meta["val"].shape  # type: ignore[union-attr]
    is_norm = node.target is aten.linalg_vector_norm.default
    finite = not is_norm or 0 < arguments_of(node)["ord"] < math.inf
    return finite and not any(isinstance(shape[d], torch.SymInt) for d in dimensions)


register(Family(follow, shrink), *SOFTMAX, *OVER_ZEROS, aten.amax.default)
