"""A residual sum that has a mask of its own, where `branch + shortcut` couples the features of both."""

from __future__ import annotations

import torch
from torch import Tensor

from hatify.errors import InputError


@torch.library.custom_op("hatify::gated_sum", mutates_args=())
def gated_sum(branch: Tensor, shortcut: Tensor) -> Tensor:
    """`branch + shortcut`; once converted, `mask * (branch + shortcut)`.

    The mask is that of the features of `branch`. Those of `shortcut` keep their own, so that each block of a residual
    network chooses anew which features of the stream the next block sees, as in HAT-CL (Duan 2023).

    Raises:
        InputError: the tensors are not of one shape.
    """
    return _sum(branch, shortcut)


@gated_sum.register_fake
def _(branch: Tensor, shortcut: Tensor) -> Tensor:
    return _sum(branch, shortcut)


gated_sum.register_autograd(lambda context, gradient: (gradient, gradient))


def _sum(branch: Tensor, shortcut: Tensor) -> Tensor:
    if branch.shape != shortcut.shape:
        raise InputError(
            f"gated_sum takes two tensors of one shape, got {tuple(branch.shape)} and {tuple(shortcut.shape)}"
        )
    return branch + shortcut
