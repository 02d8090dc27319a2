"""Operators that turn pixels and positions into channels, and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from hatify.analysis.call import Call
from hatify.analysis.effect import Effect
from hatify.analysis.support import compress, expand, varies
from rewriters.registry import rewriter
from rewriters.uniform import uniform
from rewriters.views import moved

aten = torch.ops.aten


@rewriter(aten.unfold.default)
def sliding_windows(call: Call) -> Effect:
    """The windows along a dimension, each along a new last dimension."""
    operand = call["self"]
    support = call.support(operand)
    dimension = call.dimension("dimension", operand)
    if not varies(support, dimension):
        return moved(operand, support[..., None])
    windows = np.lib.stride_tricks.sliding_window_view(support, call["size"], dimension)
    return moved(operand, compress(np.take(windows, range(0, windows.shape[dimension], call["step"]), dimension)))


@rewriter(aten.im2col.default)
def unfold_patches(call: Call) -> Effect:
    """(.., C, H, W) to (.., C * patch, positions): each channel is repeated for the pixels of a patch."""
    operand = call["self"]
    support, shape = call.support(operand), call.shape(operand)
    if varies(support, -1) or varies(support, -2):
        return call.live(reads=(operand,))
    patch = call.result_shape[-2] // shape[-3]
    channels = np.repeat(support[..., 0], patch, axis=-2) if varies(support, -3) else support[..., 0]
    return moved(operand, channels)


@rewriter(aten.col2im.default)
def fold_patches(call: Call) -> Effect:
    """(.., C * patch, positions) to (.., C, H, W): sums, within a channel, the pixels that overlap."""
    operand = call["self"]
    support = call.support(operand)
    channels = call.result_shape[-3]
    if varies(support, -1):
        return call.live(reads=(operand,))
    if varies(support, -2):
        pixels = support.reshape(*support.shape[:-2], channels, -1)
        if not (pixels == pixels[..., :1]).all():
            return call.live(reads=(operand,))
        support = pixels[..., :1]
    return moved(operand, support[..., None])


@rewriter(aten.pixel_shuffle.default)
def shuffle_pixels(call: Call) -> Effect:
    """The pixels that one channel is made of share its mask."""
    operand = call["self"]
    support, factor = call.support(operand), int(call["upscale_factor"])
    if varies(support, -3) and not (varies(support, -2) or varies(support, -1)):
        pixels = support.reshape(*support.shape[:-3], -1, factor**2, *support.shape[-2:])
        channels = uniform(call, pixels, [-3])
        if not varies(channels, -3):
            return moved(operand, channels.squeeze(-3))
    return by_the_operator_itself(call, [-3, -2, -1])


@rewriter(aten.pixel_unshuffle.default)
def unshuffle_pixels(call: Call) -> Effect:
    return by_the_operator_itself(call, [-3, -2, -1])


@rewriter(aten.channel_shuffle.default)
def shuffle_channels(call: Call) -> Effect:
    return by_the_operator_itself(call, [1])


def by_the_operator_itself(call: Call, dimensions: Sequence[int]) -> Effect:
    """The operator, applied to the support at full size of the dimensions that it rearranges."""
    operand = call["self"]
    full = [d % len(call.shape(operand)) for d in dimensions]
    support = np.array(expand(call.support(operand), call.shape(operand), full))
    result = call.node.target(torch.from_numpy(support), *call.node.args[1:])  # type: ignore[operator]
    return moved(operand, compress(result.numpy()))
