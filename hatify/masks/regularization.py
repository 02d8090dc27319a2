"""The regularizer: what a task pays for features that no locked task has taken."""

from __future__ import annotations

import torch
from torch import Tensor

from hatify.config import Regularizer
from hatify.masks.registry import MaskRegistry


def regularization(
    registry: MaskRegistry, task_id: int, mask_scale: float | None, *, mode: Regularizer, quota: bool
) -> Tensor:
    """`sum(a * (1 - c)) / sum(1 - c)`, a scalar in [0, 1] (Serra et al. 2018, eq. 5).

    a: the task's masks at `mask_scale`. c: the features that other trained tasks have taken.
    mode: "network" over all features at once, "layer" the mean over groups (Duan 2023).
    quota: `num_features / num_tasks` features (of each group, or of all) are free of charge.
    """
    shares: list[Tensor] = []
    paid: list[tuple[Tensor, Tensor, int]] = []
    for group in registry.groups.values():
        masks = group.mask(task_id, mask_scale) if mask_scale is not None else group.binary_mask(task_id).float()
        free = (~group.locked_mask(task_id)).to(masks.dtype)
        paid.append(((masks * free).sum(), free.sum(), group.num_features))
    if not paid:
        return torch.zeros(())
    if mode == "network":
        used, free_count = torch.stack([p[0] for p in paid]).sum(), torch.stack([p[1] for p in paid]).sum()
        paid = [(used, free_count, sum(p[2] for p in paid))]
    for used, free_count, size in paid:
        charged = (used - size / registry.num_tasks).clamp(min=0) if quota else used
        shares.append(charged / free_count.clamp(min=1))
    return torch.stack(shares).mean()
