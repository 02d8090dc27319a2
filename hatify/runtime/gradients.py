"""What the formulas do to gradients: the gate on locked entries, and the embeddings' compensation."""

from __future__ import annotations

import torch
from torch import Tensor


def gated_gradient(gradient: Tensor, lock: Tensor, zero: Tensor) -> Tensor:
    """The gradient with locked entries at zero, `g * (1 - lock)` (Serra et al. 2018, eq. 2), even if g is NaN.

    zero: a scalar of the gradient's type. Made once: a GPU would fill a new one for each gradient.
    """
    if gradient.is_sparse:  # the rows of a table that were looked up
        gradient = gradient.coalesce()
        indices, values = gradient.indices(), gradient.values()
        gated = torch.where(lock.expand(gradient.shape)[tuple(indices)], zero, values)
        return torch.sparse_coo_tensor(indices, gated, gradient.shape, is_coalesced=True)
    return torch.where(lock, zero, gradient)


def compensation(embedding: Tensor, mask_scale: Tensor | float, s_max: float, exponent_limit: float) -> Tensor:
    """`(s_max / s) * (cosh(clamp(s * e, -50, 50)) + 1) / (cosh(e) + 1)`, which multiplies the gradient of an embedding
    (Serra et al. 2018, eq. 4); in float32 at least.
    """
    e = embedding.to(torch.promote_types(embedding.dtype, torch.float32))  # cosh(50) is infinite in float16
    scaled = (mask_scale * e).clamp(-exponent_limit, exponent_limit)
    return (torch.cosh(scaled) + 1) / (torch.cosh(e) + 1) * (s_max / mask_scale)
