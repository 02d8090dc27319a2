"""Pooling, resizing and padding: along the last dimensions, each channel by itself."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from hatify.analysis.nodes import arguments_of
from hatify.extraction.channels import Channels, Track
from hatify.extraction.registry import Family, register
from hatify.extraction.smaller import Smaller

aten = torch.ops.aten

DIMENSIONS: dict[Any, int] = {
    aten.max_pool1d.default: 1,
    aten.avg_pool1d.default: 1,
    aten.adaptive_avg_pool1d.default: 1,
    aten.max_pool2d.default: 2,
    aten.avg_pool2d.default: 2,
    aten.adaptive_avg_pool2d.default: 2,
    aten.upsample_nearest2d.vec: 2,
    aten.upsample_bilinear2d.vec: 2,
    aten.upsample_bicubic2d.vec: 2,
    aten._upsample_bicubic2d_aa.vec: 2,
    aten._upsample_bilinear2d_aa.vec: 2,
}


def follow(channels: Channels, node: Node) -> Track | None:
    track = channels.only(node, node.args[0])
    if track is None or any(track.labels.shape[d] > 1 for d in range(-DIMENSIONS[node.target], 0)):
        return channels.stays(node)
    return track


def follow_padding(channels: Channels, node: Node) -> Track | None:
    given = arguments_of(node)
    track = channels.only(node, node.args[0])
    amounts = zip(given["pad"][::2], given["pad"][1::2], strict=True)
    padded = [-1 - i for i, amount in enumerate(amounts) if amount != (0, 0)]
    if track is None or any(track.labels.shape[d] > 1 for d in padded):
        return channels.stays(node)
    return Track(track.labels, track.axis, track.zero and not given["value"])


register(Family(follow, Smaller.copied), *DIMENSIONS)
register(Family(follow_padding, Smaller.copied), aten.constant_pad_nd.default, aten.pad.default)
