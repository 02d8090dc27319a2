"""Attention, fused or as two products: scores contract the channels of each head, values go through."""

from __future__ import annotations

import torch
from torch.fx import Node

from hatify.analysis.nodes import arguments_of
from hatify.analysis.sizes import concrete
from hatify.extraction.channels import Channels, Track
from hatify.extraction.registry import Family, register
from hatify.extraction.smaller import Smaller

aten = torch.ops.aten


def follow(channels: Channels, node: Node) -> Track | None:
    given = arguments_of(node)
    query, key, value = (channels.tracks.get(given[name]) for name in ("query", "key", "value"))
    rest = [n for n in node.all_input_nodes if n not in (given["query"], given["key"], given["value"])]
    last = node.meta["val"].dim() - 1
    channels.keep_all(*rest, reason="they are attention scores")
    if not _contracted(channels, query, key, last):
        channels.keep_all(given["query"], given["key"], reason="queries and keys are not laid out alike")
    if value is not None and (not value.lies_in_rows(last) or given.get("enable_gqa")):
        channels.keep_all(given["value"], reason="several heads share their values")
        return None
    return value


def shrink(smaller: Smaller, node: Node) -> Node:
    """The scale follows from the width that the heads had."""
    copied, query = smaller.copied(node), arguments_of(node)["query"]
    if arguments_of(node)["scale"] is None:
        copied.kwargs = {**copied.kwargs, "scale": concrete(query.meta["val"].shape[-1]) ** -0.5}
    return copied


def follow_product(channels: Channels, node: Node) -> Track | None:
    """`scores @ values`: the channels of the values; those of anything else that is contracted stay."""
    left, right = (channels.tracks.get(operand) for operand in node.args)  # type: ignore[arg-type]
    last = node.meta["val"].dim() - 1
    if left is None and right is not None and right.lies_in_rows(last):
        return right
    if right is not None and right.labels.dim() > 1:
        columns = Track(right.labels.transpose(-1, -2), right.axis + 1, right.zero)
        if right.axis == last - 1 and _contracted(channels, left, columns, last):
            return None
    return channels.stays(node)


def _contracted(channels: Channels, one: Track | None, other: Track | None, last: int) -> bool:
    """Couple what is contracted along the last dimension of both, row with row; whether that can be done."""
    if one is None or other is None or one.labels.shape != other.labels.shape:
        return False
    if not (one.lies_in_rows(last) and other.lies_in_rows(last) and (one.zero or other.zero)):
        return False
    channels.stay_equal(one.labels, other.labels)
    return True


register(Family(follow, shrink), aten.scaled_dot_product_attention.default)
register(Family(follow_product, Smaller.copied), aten.matmul.default, aten.bmm.default)
