"""Fourier transforms and complex numbers as pairs of real ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hatify.analysis.call import Call
from hatify.analysis.effect import Effect
from hatify.analysis.support import varies
from rewriters.registry import rewriter
from rewriters.uniform import uniform
from rewriters.views import moved

aten = torch.ops.aten


@rewriter(aten.fft_fft, aten.fft_ifft, aten.fft_rfft, aten.fft_irfft, aten.fft_hfft, aten.fft_ihfft)
def transformed(call: Call) -> Effect:
    return along(call, [call.dimension("dim", call["self"])])


@rewriter(
    aten.fft_fft2,
    aten.fft_ifft2,
    aten.fft_rfft2,
    aten.fft_irfft2,
    aten.fft_fftn,
    aten.fft_ifftn,
    aten.fft_rfftn,
    aten.fft_irfftn,
    aten.fft_fftshift,
    aten.fft_ifftshift,
)
def transformed_along_several(call: Call) -> Effect:
    """Along `dim`; without it along the last dimensions, as many as `s` has, or all."""
    rank = len(call.shape(call["self"]))
    dimensions = call["dim"]
    if dimensions is None:
        dimensions = range(-len(call["s"]) if call["s"] is not None else -rank, 0)
    return along(call, [dimensions] if isinstance(dimensions, int) else dimensions)


def along(call: Call, dimensions: Sequence[int]) -> Effect:
    """A linear function along some dimensions: what is zero along them stays zero."""
    operand = call["self"]
    support = uniform(call, call.variables.blend(call.support(operand), dimensions), dimensions)
    if any(varies(support, d) for d in dimensions):
        return call.live(reads=(operand,))
    return moved(operand, support)


@rewriter(aten.view_as_complex)
def as_complex(call: Call) -> Effect:
    """The two parts of a number, its last dimension, share a mask."""
    operand = call["self"]
    support = uniform(call, call.variables.blend(call.support(operand), [-1]), [-1])
    if varies(support, -1):
        return call.live(reads=(operand,))
    return moved(operand, support.squeeze(-1))


@rewriter(aten.view_as_real)
def as_real(call: Call) -> Effect:
    return moved(call["self"], call.support(call["self"])[..., None])
