"""Tensors made in the graph: constants, and random numbers."""

from __future__ import annotations

import torch

from hatify.analysis.call import Call
from hatify.analysis.effect import Effect
from hatify.analysis.support import zero
from rewriters.registry import rewriter

aten = torch.ops.aten


@rewriter(aten.zeros, aten.zeros_like, aten.new_zeros)
def zeros(call: Call) -> Effect:
    return Effect(zero(len(call.result_shape)), shapes=call.operands)


@rewriter(
    aten.ones,
    aten.ones_like,
    aten.new_ones,
    aten.full,
    aten.full_like,
    aten.new_full,
    aten.empty,
    aten.empty_like,
    aten.new_empty,
    aten.arange,
    aten.linspace,
    aten.eye,
    aten.scalar_tensor,
    aten.rand,
    aten.rand_like,
    aten.randn,
    aten.randn_like,
    aten.randint,
    aten.randint_like,
    aten.randperm,
    aten.bernoulli.p,
    aten.bernoulli_.float,
    aten.uniform,
    aten.uniform_,
    aten.normal_functional,
    aten.normal_,
    aten.exponential,
    aten.exponential_,
)
def live(call: Call) -> Effect:
    """A tensor that is an operand (of `ones_like`, or one that is filled with random numbers) lends its shape only."""
    return call.live(shapes=call.operands)
