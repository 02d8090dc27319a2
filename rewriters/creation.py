"""Tensors made in the graph, and results that carry no features: comparisons, losses, indices."""

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


@rewriter(
    aten.eq,
    aten.ne,
    aten.lt,
    aten.le,
    aten.gt,
    aten.ge,
    aten.all,
    aten.any,
    aten.argmax,
    aten.argmin,
    aten.logical_not,
    aten.logical_or,
    aten.bitwise_not,
    aten.bitwise_or,
    aten.__or__,
    aten.__xor__,
    aten.isinf,
    aten.isnan,
    aten.nonzero,
    aten.nonzero_numpy,
    aten.argwhere,
    aten.where.default,
    aten.masked_select,
    aten._unique2,
    aten.unique_dim,
    aten.unique_consecutive,
    aten.repeat_interleave.Tensor,
    aten.diff,
    aten.one_hot,
    aten.searchsorted,
    aten.bucketize,
    aten.meshgrid,
    aten.affine_grid_generator,
    aten.cross_entropy_loss,
    aten.nll_loss,
    aten.nll_loss_nd,
    aten.binary_cross_entropy,
    aten.binary_cross_entropy_with_logits,
    aten.mse_loss,
    aten.l1_loss,
    aten.smooth_l1_loss,
    aten.huber_loss,
    aten.kl_div,
    aten.argsort,
    aten.multinomial,
    aten.isfinite,
    aten.cosine_similarity,
    aten.pairwise_distance,
    aten.cdist,
)
def reads_everything(call: Call) -> Effect:
    """Features end here: the result depends on dead entries in a way that has no zeros."""
    return call.live(fixed=call.operands)
