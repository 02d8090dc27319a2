"""Pooling and resizing: they keep a support as long as the resized dimensions carry no structure."""

from __future__ import annotations

from dataclasses import replace

import torch

from hatify.analysis.call import Call
from hatify.analysis.effect import Effect
from hatify.analysis.support import varies
from rewriters.reduction import passed
from rewriters.registry import rewriter
from rewriters.uniform import uniform

aten = torch.ops.aten


def resized(call: Call, dimensions: int) -> Effect:
    """A function along the last `dimensions` dimensions that maps zeros to zeros.

    A resized parameter (a positional embedding) has one feature along them, so that it can still adopt others, and
    so has an image that was written pixel by pixel.
    """
    operand = call["self"] if "self" in call else call["input"]
    along = [-1 - d for d in range(dimensions)]
    support = uniform(call, call.variables.blend(call.support(operand), along), along)
    if any(varies(support, d) for d in along):
        return call.live(reads=(operand,))
    return passed(call, operand, support)


@rewriter(
    aten.max_pool1d,
    aten.max_pool1d_with_indices,
    aten.avg_pool1d,
    aten.adaptive_avg_pool1d,
    aten.adaptive_max_pool1d,
    aten.upsample_nearest1d,
    aten.upsample_linear1d,
    aten._upsample_nearest_exact1d,
)
def resized_1d(call: Call) -> Effect:
    return resized(call, 1)


@rewriter(
    aten.max_pool2d,
    aten.max_pool2d_with_indices,
    aten.avg_pool2d,
    aten.adaptive_avg_pool2d,
    aten.adaptive_max_pool2d,
    aten.upsample_nearest2d,
    aten.upsample_bilinear2d,
    aten.upsample_bicubic2d,
    aten._upsample_nearest_exact2d,
    aten._upsample_bilinear2d_aa,
    aten._upsample_bicubic2d_aa,
    aten.fractional_max_pool2d,
)
def resized_2d(call: Call) -> Effect:
    return resized(call, 2)


@rewriter(
    aten.max_pool3d,
    aten.max_pool3d_with_indices,
    aten._upsample_nearest_exact3d,
    aten.avg_pool3d,
    aten.adaptive_avg_pool3d,
    aten.adaptive_max_pool3d,
    aten.upsample_nearest3d,
    aten.upsample_trilinear3d,
)
def resized_3d(call: Call) -> Effect:
    return resized(call, 3)


@rewriter("torchvision::roi_align", "torchvision::roi_pool")
def pooled_in_boxes(call: Call) -> Effect:
    """The channels of the images that the boxes lie in; the second result of `roi_pool` is indices."""
    operand = call["input"]
    support = uniform(call, call.support(operand), [-2, -1])
    if varies(support, -2) or varies(support, -1):
        return call.live(reads=call.operands)
    effect = passed(call, operand, support)
    return replace(effect, reads=tuple(dict.fromkeys((*effect.reads, call["rois"]))))


@rewriter(aten.max_unpool2d)
def unpooled_2d(call: Call) -> Effect:
    """Each entry goes back to where pooling took it from; those places come of its dead entries, too."""
    return resized(call, 2)


@rewriter(aten.max_unpool3d)
def unpooled_3d(call: Call) -> Effect:
    """As in two dimensions."""
    return resized(call, 3)


@rewriter(aten.grid_sampler, aten.grid_sampler_2d, aten.grid_sampler_3d)
def sampled(call: Call) -> Effect:
    """Resized at places that another tensor names; its dead entries must be zero, as they move every channel."""
    effect = resized(call, len(call.result_shape) - 2)
    return replace(effect, reads=tuple(dict.fromkeys((*effect.reads, call["grid"]))))
