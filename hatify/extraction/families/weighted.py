"""Linear layers and convolutions: their rows write channels, their columns read some."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from hatify.analysis.nodes import arguments_of
from hatify.capture.calls import given_arguments
from hatify.extraction.channels import Channels, Track, is_float
from hatify.extraction.operators import CONVOLUTIONS, LINEAR, TRANSPOSED
from hatify.extraction.registry import Family, register
from hatify.extraction.smaller import Smaller


def follow(channels: Channels, node: Node) -> Track | None:
    given = arguments_of(node)
    x, held, bias = given["input"], channels.held(given["weight"]), channels.held(given["bias"])
    if held is None or (given["bias"] is not None and bias is None) or not all(map(is_float, node.all_input_nodes)):
        return channels.stays(node)
    groups = given.get("groups", 1)
    weight = rows_first(node, held, groups)
    axis = node.meta["val"].dim() - 1 if node.target in LINEAR else node.meta["val"].dim() - weight.dim() + 1
    track = channels.tracks.get(x)
    dead = (weight.reshape(len(weight), -1) == 0).all(-1)
    if bias is not None:
        dead &= bias == 0
    if is_depthwise(weight, groups) and track is not None:
        if not track.lies_along(axis):
            return channels.stays(node)
        silent = bias is None or channels.all(bias == 0, track)
        return Track(track.labels, axis, (track.zero and silent) or channels.all(dead, track))
    if track is not None and _works_along_another(node, track):
        return Track(track.labels, track.axis, track.zero and bias is None)
    if track is not None:
        contract(channels, node, track, axis, weight, groups)
    result = channels.begin(node, given["weight"], dead, axis)
    if groups > 1:
        for one in (track, result):
            if one is not None:
                channels.stay_level(Track(one.labels.reshape(groups, -1), 1, one.zero))
    return result


def shrink(smaller: Smaller, node: Node) -> Node:
    given = arguments_of(node)
    weight, bias, track = given["weight"], given["bias"], smaller.channels.tracks.get(given["input"])
    is_held = weight.op == "get_attr" and (bias is None or bias.op == "get_attr")
    if not is_held or (track is not None and _works_along_another(node, track)):
        return smaller.copied(node)
    groups = given.get("groups", 1)
    value = rows_first(node, smaller.value(weight), groups)
    rows, columns = smaller.positions(node), smaller.positions(given["input"])
    changed: dict[str, Any] = {}
    if is_depthwise(value, groups):
        value = value if rows is None else value[rows.to(value.device)]
        changed |= {} if rows is None else {"groups": len(rows)}
    else:
        value = cut(value, rows, columns, groups)
    changed["weight"] = smaller.read(str(weight.target), rows_first(node, value, changed.get("groups", groups)))
    if bias is not None:
        changed["bias"] = smaller.sliced(bias, rows)
    return smaller.call(node, {**given_arguments(node), **changed})


def _works_along_another(node: Node, track: Track) -> bool:
    """Whether a linear layer works along another dimension than that of its operand's channels."""
    return node.target in LINEAR and track.axis != node.meta["val"].dim() - 1 and track.labels.shape[-1] == 1


def contract(channels: Channels, node: Node, track: Track, axis: int, weight: Tensor, groups: int = 1) -> None:
    """A weight (out, in / groups, ...) reads channels: those that go must be zero, or be read with zeros."""
    if not track.lies_along(axis):
        channels.keep(track.labels, f"{node.target} reads them along another dimension")
    elif not track.zero:
        by_group = weight.reshape(groups, len(weight) // groups, weight.shape[1], -1)
        unread = (by_group == 0).all(-1).all(1).flatten()
        channels.keep(track.labels.flatten()[~unread.cpu()], f"{node.target} reads them, and they are not zero")


def cut(weight: Tensor, rows: Tensor | None, columns: Tensor | None, groups: int = 1) -> Tensor:
    """The rows and columns of a weight (out, in / groups, ...) that are left; each group has as many."""
    inputs = weight.shape[1]
    rows = torch.arange(len(weight)) if rows is None else rows
    columns = torch.arange(inputs * groups) if columns is None else columns
    pairs = zip(rows.chunk(groups), columns.chunk(groups), strict=True)
    return torch.cat([weight[own.to(weight.device)][:, (read % inputs).to(weight.device)] for own, read in pairs])


def rows_first(node: Node, weight: Tensor, groups: int) -> Tensor:
    """A transposed convolution's weight (in, out / groups, ...) as (out, in / groups, ...), and back."""
    if node.target not in TRANSPOSED:
        return weight
    by_group = weight.unflatten(0, (groups, -1)).transpose(1, 2)
    return by_group.flatten(0, 1)


def is_depthwise(weight: Tensor, groups: int) -> bool:
    return groups > 1 and groups == len(weight) and weight.shape[1] == 1


register(Family(follow, shrink, writes=True), *LINEAR, *CONVOLUTIONS, *TRANSPOSED)
