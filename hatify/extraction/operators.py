"""What is known of operators: where the channels of a tensor go in them."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

aten = torch.ops.aten

LINEAR: set[Any] = {aten.linear.default}
CONVOLUTIONS: set[Any] = {aten.conv1d.default, aten.conv2d.default, aten.conv3d.default}
CONVOLUTIONS |= {aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding}

# Entries move, or are repeated, as they are: the operator does the same to labels.
MOVES: set[Any] = {
    aten.view.default,
    aten.reshape.default,
    aten._unsafe_view.default,
    aten.unflatten.int,
    aten.flatten.using_ints,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.unsqueeze.default,
    aten.permute.default,
    aten.transpose.int,
    aten.t.default,
    aten.expand.default,
    aten.slice.Tensor,
    aten.narrow.default,
    aten.select.int,
    aten.unbind.int,
    aten.split.Tensor,
    aten.split_with_sizes.default,
    aten.chunk.default,
    aten.cat.default,
    aten.stack.default,
    aten.flip.default,
    aten.roll.default,
    aten.contiguous.default,
}

# Zero where any operand is, or where the first is.
PRODUCTS: set[Any] = {aten.mul.Tensor, aten.mul_.Tensor}
QUOTIENTS: set[Any] = {aten.div.Tensor, aten.div_.Tensor}

# The names of arguments that hold the shape of the result.
SHAPES: dict[Any, str] = {
    aten.view.default: "size",
    aten.reshape.default: "shape",
    aten._unsafe_view.default: "size",
    aten.expand.default: "size",
    aten.unflatten.int: "sizes",
}
PIECES: set[Any] = {aten.split.Tensor, aten.split_with_sizes.default, aten.chunk.default}

# These work along their last dimensions, each channel by itself.
SPATIAL: dict[Any, int] = {
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
PADDINGS: set[Any] = {aten.constant_pad_nd.default, aten.pad.default}
REDUCTIONS: set[Any] = {aten.mean.dim, aten.sum.dim_IntList, aten.amax.default, aten.softmax.int, aten._softmax.default}

# Pointwise, but without the tag.
UNTAGGED: set[Any] = {
    aten.alias.default,
    aten.clone.default,
    aten.detach.default,
    aten.div_.Tensor,
    aten.gelu_.default,
    aten.hardswish.default,
    aten.hardswish_.default,
    aten.masked_fill.Scalar,
    aten.mish_.default,
    aten.relu6_.default,
    aten.rsub.Scalar,
    aten.to.dtype,
    aten.to.dtype_layout,
    aten.type_as.default,
}


def is_pointwise(node: Node) -> bool:
    tags = getattr(node.target, "tags", ())
    return torch.Tag.pointwise in tags or node.target in UNTAGGED
