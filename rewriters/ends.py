"""Where features end: comparisons, losses, indices. What they give depends on dead entries, too, and has no zeros."""

from __future__ import annotations

import torch

from hatify.analysis.call import Call
from hatify.analysis.effect import Effect
from rewriters.registry import rewriter

aten = torch.ops.aten


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
    """`fixed`, since behind these no zero stops what dead entries do."""
    return call.live(fixed=call.operands)
