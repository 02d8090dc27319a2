"""Many small products in one operation, forward and backward: to call an operator takes longer than to compute one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def multiplied(values: list[Tensor], factors: list[Tensor], order: list[int]) -> Sequence[Tensor]:
    """Each value times its factor. order: the position of each value's factor."""
    in_order = [factors[position] for position in order]
    if torch._C._are_functorch_transforms_active():
        return _pairwise(values, in_order)
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():  # a compiler fuses gradients
        return torch._foreach_mul(values, in_order)
    products: Sequence[Tensor] = _Multiplied.apply(order, *values, *factors)
    return products


def _pairwise(values: Sequence[Tensor], factors: Sequence[Tensor]) -> Sequence[Tensor]:
    # Neither vmap nor autograd.grad(is_grads_batched=True) knows operators on lists.
    if torch._C._are_functorch_transforms_active() or any(map(torch._C._functorch.is_legacy_batchedtensor, values)):
        return [value * factor for value, factor in zip(values, factors, strict=True)]
    return torch._foreach_mul(list(values), list(factors))


class _Multiplied(torch.autograd.Function):
    """Products whose gradients are computed all at once, too: PyTorch's own go vector by vector.

    Arguments: the position of each value's factor, then the values, then the factors.
    """

    @staticmethod
    def forward(ctx: Any, order: Sequence[int], *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.order = order
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)  # a product that no loss depends on has no gradient, and zero is not the same
        values, factors = tensors[: len(order)], tensors[len(order) :]
        return tuple(torch._foreach_mul(values, [factors[position] for position in order]))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        order, tensors = ctx.order, ctx.saved_tensors
        values, factors = tensors[: len(order)], tensors[len(order) :]
        reached = [index for index, gradient in enumerate(gradients) if gradient is not None]
        present = [gradient for gradient in gradients if gradient is not None]
        of_values: list[Tensor | None] = [None] * len(values)
        products = _pairwise(present, [factors[order[index]] for index in reached])
        for index, product in zip(reached, products, strict=True):
            of_values[index] = product
        if not any(ctx.needs_input_grad[1 + len(values) :]):  # binary masks
            return None, *of_values, *[None] * len(factors)
        parts: list[list[Tensor]] = [[] for _ in factors]
        for index, part in zip(reached, _pairwise(present, [values[i] for i in reached]), strict=True):
            parts[order[index]].append(part)
        return None, *of_values, *map(_sum, parts)


def _sum(parts: Sequence[Tensor]) -> Tensor | None:
    if len(parts) < 2:
        return parts[0] if parts else None
    return torch.stack(list(parts)).sum(0)
