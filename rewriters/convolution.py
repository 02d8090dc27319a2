"""Convolutions of 1 to 3 dimensions: plain, transposed, grouped and depthwise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch.fx import Node

from hatify.analysis.call import Call
from hatify.analysis.effect import Argument, Effect, Factor, Gate, Use
from hatify.analysis.support import Support, along, has_variables
from rewriters.registry import rewriter
from rewriters.uniform import uniform

aten = torch.ops.aten

WEIGHT, BIAS = Argument("weight"), Argument("bias")


@rewriter(
    aten.conv1d.default,
    aten.conv1d.padding,
    aten.conv2d.default,
    aten.conv2d.padding,
    aten.conv3d.default,
    aten.conv3d.padding,
)
def convolution(call: Call) -> Effect:
    """weight: (out, in / groups, *kernel). `weight[o, k]` reads channel `group(o) * in / groups + k`."""
    operand, weight = call["input"], call["weight"]
    out_channels, group_width, *kernel = call.shape(weight)
    if not isinstance(call["groups"], int):
        return call.live(reads=call.operands)  # a group for each example
    channels = _channels(call, operand, len(kernel))
    if group_width == 1 and call["groups"] > 1:
        return _depthwise(call, operand, channels, out_channels)
    groups = int(call["groups"])
    inputs = channels.reshape(*channels.shape[:-1], groups, group_width)
    if groups > 1:
        inputs = np.repeat(inputs, out_channels // groups, axis=-2)
    features = call.fresh(out_channels)
    return _weighted(
        call,
        operand,
        features,
        written=features[:, None],
        read=inputs,
        mask=features,
        mask_shape=(-1, 1, *[1] * len(kernel)),
        outputs=0 if groups == 1 else None,
    )


@rewriter(
    aten.conv_transpose1d.default,
    aten.conv_transpose2d.input,
    aten.conv_transpose3d.input,
)
def transposed_convolution(call: Call) -> Effect:
    """weight: (in, out / groups, *kernel). `weight[i, k]` writes channel `group(i) * out / groups + k`."""
    operand, weight = call["input"], call["weight"]
    in_channels, group_width, *kernel = call.shape(weight)
    groups = int(call["groups"])
    channels = _channels(call, operand, len(kernel))
    features = call.fresh(group_width * groups)
    group_of_input = np.arange(in_channels) // (in_channels // groups)
    written = features[group_of_input[:, None] * group_width + np.arange(group_width)]
    mask, mask_shape = (features, (1, -1)) if groups == 1 else (written, (-1, group_width))
    return _weighted(
        call,
        operand,
        features,
        written=written,
        read=channels[..., :, None],
        mask=mask,
        mask_shape=(*mask_shape, *[1] * len(kernel)),
        outputs=1 if groups == 1 else None,
    )


@rewriter("torchvision::deform_conv2d")
def deformable_convolution(call: Call) -> Effect:
    """A convolution at places that other tensors name; their dead entries must be zero, as they move every channel."""
    effect = convolution(call)
    moved_by = tuple(call[name] for name in ("offset", "mask"))
    return replace(effect, reads=tuple(dict.fromkeys((*effect.reads, *moved_by))))


def _weighted(
    call: Call,
    operand: Node,
    features: np.ndarray,
    *,
    written: np.ndarray,
    read: np.ndarray,
    mask: np.ndarray,
    mask_shape: tuple[int, ...],
    outputs: int | None,
) -> Effect:
    """A convolution that writes new features; `written` and `read` lie along the weight's first two axes."""
    kernel = len(mask_shape) - 2
    factors = (
        Factor(written.reshape(*written.shape, *[1] * kernel), "output", call.node),
        Factor(read.reshape(*read.shape, *[1] * kernel), "input", operand, rows=read.ndim - 2),
    )
    of_weight: dict[Argument, tuple[int, ...]] = {WEIGHT: mask_shape}
    of_bias: dict[Argument, tuple[int, ...]] = {}
    uses = [Use(WEIGHT, factors, outputs=outputs)]
    if call["bias"] is not None:
        of_bias[BIAS] = (-1,)
        uses.append(Use(BIAS, (Factor(features, "output", call.node),)))
    if np.array_equal(mask, features):
        gates = [Gate(features, of_weight | of_bias, result=(-1, *[1] * kernel))]
    else:
        gates = [Gate(mask, of_weight), *([Gate(features, of_bias)] if of_bias else [])]
    result = along(features, -1 - kernel, len(call.result_shape))
    return Effect(
        result,
        reads=(operand,),
        gates=tuple(gates) if has_variables(features) else (),
        uses=tuple(uses),
    )


def _depthwise(call: Call, operand: Node, channels: Support, out_channels: int) -> Effect:
    """Each output channel reads one input channel, so it has that channel's feature; of several, each has its own."""
    kernel = len(call.shape(call["weight"])) - 2
    rows = channels.reshape(-1, channels.shape[-1])
    inputs = rows[0]
    if len(rows) > 1 or out_channels > len(inputs) or not call.variables.is_real(inputs).all():
        features = call.fresh(out_channels)
        return _weighted(
            call,
            operand,
            features,
            written=features[:, None],
            read=np.repeat(channels, out_channels // channels.shape[-1], axis=-1)[..., :, None],
            mask=features,
            mask_shape=(-1, 1, *[1] * kernel),
            outputs=None,
        )
    ids = inputs.reshape(-1, 1, *[1] * kernel)
    uses = [Use(WEIGHT, (Factor(ids, "output", call.node), Factor(ids, "input", operand)), outputs=None)]
    slots: dict[Argument, tuple[int, ...]] = {WEIGHT: (-1, 1, *[1] * kernel)}
    if call["bias"] is not None:
        uses.append(Use(BIAS, (Factor(inputs, "output", call.node),)))
        slots[BIAS] = (-1,)
    return Effect(
        along(inputs, -1 - kernel, len(call.result_shape)),
        flows=(operand,),
        keeps_zero=call["bias"] is None,
        gates=(Gate(inputs, slots),),
        uses=tuple(uses),
    )


def _channels(call: Call, operand: Node, kernel: int) -> Support:
    """The operand's support with its channels last, at full size; other dimensions are different rows."""
    support = np.moveaxis(uniform(call, call.support(operand), range(-kernel, 0)), -1 - kernel, -1)
    return np.broadcast_to(support, (*support.shape[:-1], call.shape(operand)[-1 - kernel]))
