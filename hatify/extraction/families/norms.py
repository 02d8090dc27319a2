"""Normalisations. Statistics of several channels stay those of all: the ones that go are zero, and are counted."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from hatify.analysis.nodes import arguments_of
from hatify.capture.calls import given_arguments
from hatify.extraction.channels import Channels, Track
from hatify.extraction.registry import Family, register
from hatify.extraction.smaller import Smaller

aten = torch.ops.aten


# -- each channel by itself ----------------------------------------------------------------------------------------


def follow_channelwise(channels: Channels, node: Node) -> Track | None:
    track = channels.only(node, arguments_of(node)["input"])
    if track is None or not track.lies_along(1):
        return channels.stays(node)
    return Track(track.labels, 1, _is_silent(channels, node, track))


def shrink_channelwise(smaller: Smaller, node: Node) -> Node:
    given, rows = arguments_of(node), smaller.positions(node)
    held = [name for name in ("weight", "bias", "running_mean", "running_var") if given[name] is not None]
    return smaller.call(node, {**given_arguments(node), **{name: smaller.sliced(given[name], rows) for name in held}})


# -- over the last dimension ---------------------------------------------------------------------------------------


def follow_last(channels: Channels, node: Node) -> Track | None:
    given, last = arguments_of(node), node.meta["val"].dim() - 1
    track = channels.only(node, given["input"])
    if track is None or not track.zero or not track.lies_along(last) or len(given["normalized_shape"]) != 1:
        return channels.stays(node)
    return Track(track.labels, last, _is_silent(channels, node, track))


def shrink_layer_norm(smaller: Smaller, node: Node) -> Node:
    given, rows = arguments_of(node), smaller.positions(node)
    assert rows is not None
    count = given["normalized_shape"][0]
    normal = _normal(smaller, _in_full_precision(smaller, node), len(rows), count, given["eps"])
    weight, bias = (None if given[name] is None else smaller.sliced(given[name], rows) for name in ("weight", "bias"))
    return _affine(smaller, node, normal, weight, bias)


def shrink_rms_norm(smaller: Smaller, node: Node) -> Node:
    given, rows, call = arguments_of(node), smaller.positions(node), smaller.graph.call_function
    x, weight = _in_full_precision(smaller, node), given["weight"]
    eps = torch.finfo(_numbers(smaller, node)).eps if given["eps"] is None else given["eps"]
    squares = call(aten.sum.dim_IntList, (call(aten.square.default, (x,)), [-1], True))
    mean = call(aten.div.Tensor, (squares, given["normalized_shape"][0]))
    normal = call(aten.mul.Tensor, (x, call(aten.rsqrt.default, (call(aten.add.Tensor, (mean, eps)),))))
    return _affine(smaller, node, normal, None if weight is None else smaller.sliced(weight, rows), None)


# -- over groups of channels ---------------------------------------------------------------------------------------


def follow_group_norm(channels: Channels, node: Node) -> Track | None:
    given = arguments_of(node)
    track = channels.only(node, given["input"])
    if track is None or not track.zero or not track.lies_along(1) or _unknown_extent(node):
        return channels.stays(node)
    channels.stay_level(Track(track.labels.reshape(given["num_groups"], -1), 1, track.zero))
    return Track(track.labels, 1, _is_silent(channels, node, track))


def shrink_group_norm(smaller: Smaller, node: Node) -> Node:
    given, rows, call = arguments_of(node), smaller.positions(node), smaller.graph.call_function
    groups, extent = given["num_groups"], list(node.meta["val"].shape[2:])
    channels = int(node.meta["val"].shape[1])
    assert rows is not None
    left, pixels = len(rows) // groups, math.prod(extent)
    x = call(aten.unflatten.int, (_in_full_precision(smaller, node), 1, [groups, left]))
    flat = call(aten.flatten.using_ints, (x, 2))
    normal = _normal(smaller, flat, left * pixels, channels // groups * pixels, given["eps"])
    shaped = call(aten.flatten.using_ints, (call(aten.unflatten.int, (normal, 2, [left, *extent])), 1, 2))
    weight, bias = (_over_pixels(smaller, given[name], rows, len(extent)) for name in ("weight", "bias"))
    return _affine(smaller, node, shaped, weight, bias)


def _over_pixels(smaller: Smaller, held: Node | None, rows: Tensor, dimensions: int) -> Node | None:
    if held is None:
        return None
    shape = [len(rows), *[1] * dimensions]
    return smaller.graph.call_function(aten.view.default, (smaller.sliced(held, rows), shape))


def _unknown_extent(node: Node) -> bool:
    return any(isinstance(size, torch.SymInt) for size in node.meta["val"].shape[1:])


# -- the parts ---------------------------------------------------------------------------------------------------------


def _is_silent(channels: Channels, node: Node, track: Track) -> bool:
    """Whether the affine parameters leave removable channels at zero."""
    given = arguments_of(node)
    weight, bias = channels.held(given["weight"]), channels.held(given.get("bias"))
    if weight is None or (bias is None and given.get("bias") is not None):
        return False
    return channels.all(weight == 0 if bias is None else (weight == 0) & (bias == 0), track)


def _in_full_precision(smaller: Smaller, node: Node) -> Node:
    """The operand in the numbers that the operator itself computes with."""
    x = smaller.copy(node.args[0])
    if _numbers(smaller, node) in (torch.float16, torch.bfloat16):
        x = smaller.graph.call_function(aten.to.dtype, (x, torch.float32))
    return x


def _numbers(smaller: Smaller, node: Node) -> torch.dtype:
    """What an operator is given: as its weight or, without one, as in the model when it was converted."""
    weight = arguments_of(node)["weight"]
    return node.meta["val"].dtype if weight is None else smaller.value(weight).dtype


def _normal(smaller: Smaller, x: Node, left: int, count: int, eps: float) -> Node:
    """x with mean 0 and variance 1 over its last dimension, of which `left` entries are left; the others are zero."""
    call = smaller.graph.call_function
    mean = call(aten.div.Tensor, (call(aten.sum.dim_IntList, (x, [-1], True)), count))
    centered = call(aten.sub.Tensor, (x, mean))
    squares = call(aten.sum.dim_IntList, (call(aten.square.default, (centered,)), [-1], True))
    missing: dict[str, Any] = {"alpha": count - left}
    squares = call(aten.add.Tensor, (squares, call(aten.square.default, (mean,))), missing)
    variance = call(aten.add.Tensor, (call(aten.div.Tensor, (squares, count)), eps))
    return call(aten.mul.Tensor, (centered, call(aten.rsqrt.default, (variance,))))


def _affine(smaller: Smaller, node: Node, normal: Node, weight: Node | None, bias: Node | None) -> Node:
    call = smaller.graph.call_function
    if weight is None:
        plain = call(aten.type_as.default, (normal, smaller.copy(node.args[0])))
        return plain if bias is None else call(aten.add.Tensor, (plain, bias))
    normal = call(aten.type_as.default, (normal, weight))
    return (
        call(aten.mul.Tensor, (normal, weight)) if bias is None else call(aten.addcmul.default, (bias, normal, weight))
    )


register(Family(follow_channelwise, shrink_channelwise), aten.batch_norm.default, aten.instance_norm.default)
register(Family(follow_last, shrink_layer_norm), aten.layer_norm.default)
register(Family(follow_last, shrink_rms_norm), aten.rms_norm.default)
register(Family(follow_group_norm, shrink_group_norm), aten.group_norm.default)
