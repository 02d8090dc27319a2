"""Operators that repeat entries, or put others around them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from hatify.analysis.call import Call
from hatify.analysis.effect import Effect
from hatify.analysis.support import ZERO, Support, compress, varies
from hatify.capture.calls import is_tensor
from rewriters.elementwise import elementwise
from rewriters.registry import rewriter
from rewriters.sizes import is_known, number
from rewriters.views import moved

aten = torch.ops.aten


@rewriter(aten.repeat.default, aten.tile.default)
def repeat(call: Call) -> Effect:
    operand, shape = call["self"], call.result_shape
    support = call.support(operand)
    support = support.reshape((1,) * (len(shape) - support.ndim) + support.shape)
    times = [shape[d] // support.shape[d] if varies(support, d) else 1 for d in range(support.ndim)]
    return moved(operand, np.tile(support, times))


@rewriter(aten.repeat_interleave.self_int, aten.repeat_interleave.self_Tensor)
def repeat_interleave(call: Call) -> Effect:
    """The counts may be a tensor: exact along dimensions without structure."""
    operand, repeats = call["self"], call["repeats"]
    support = call.support(operand)
    if call["dim"] is None:
        return moved(operand, support.reshape(1)) if support.size == 1 else call.live(reads=(operand,))
    dimension = call.dimension("dim", operand)
    if varies(support, dimension):
        if is_tensor(repeats) or not is_known(repeats):
            return call.live(reads=(operand,))
        support = np.repeat(support, number(repeats), dimension)
    return moved(operand, support)


@rewriter(aten.pad.default, aten.constant_pad_nd.default)
def pad(call: Call) -> Effect:
    """Padding with zeros is zero under every mask; padding with entries of the tensor repeats a support."""
    operand = call["self"]
    support = call.support(operand)
    if not all(is_known(amount) for amount in call["pad"]):
        return call.live(reads=(operand,))
    widths = _pad_widths(call, support.ndim)
    structured = [width if varies(support, d) else (0, 0) for d, width in enumerate(widths)]
    is_constant = "mode" not in call or call["mode"] == "constant"
    if is_constant and not call["value"]:
        return moved(operand, compress(_cropped_and_padded(support, structured)))
    if any(width != (0, 0) for width in structured):
        return call.live(reads=(operand,))
    if is_constant and math.isinf(call["value"]):
        return call.live(reads=(operand,))  # no gate can follow: 0 * inf is NaN
    return elementwise(call, keeps_zero=not is_constant)


def _pad_widths(call: Call, rank: int) -> list[tuple[int, int]]:
    """How many entries are put before and behind each dimension; below zero they are cut off."""
    amounts = [number(amount) for amount in call["pad"]]
    last_first = list(zip(amounts[::2], amounts[1::2], strict=True))
    return [(0, 0)] * (rank - len(last_first)) + last_first[::-1]


def _cropped_and_padded(support: Support, widths: Sequence[tuple[int, int]]) -> Support:
    kept = tuple(slice(max(-before, 0), -max(-behind, 0) or None) for before, behind in widths)
    added = [(max(before, 0), max(behind, 0)) for before, behind in widths]
    return np.pad(support[kept], added, constant_values=ZERO)
