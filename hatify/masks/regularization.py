"""The regularizer: what a task pays for features that no locked task has taken."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hatify.config import Regularizer
from hatify.masks.registry import MaskRegistry


@dataclass(frozen=True)
class Tariff:
    """What a task pays for, and where; it stays the same as long as the task is learned.

    free: 1 where no other trained task has taken the feature, else 0 [num_features].
    account: the account that each feature is charged to [num_features].
    num_free: the free features of each account. allowance: how many of them cost nothing.
    """

    free: Tensor
    account: Tensor
    num_free: Tensor
    allowance: Tensor


def tariff(registry: MaskRegistry, task_id: int, *, mode: Regularizer, quota: bool) -> Tariff:
    """mode: "network" has one account for all features, "layer" one for each group (Duan 2023).

    quota: `num_features / num_tasks` features of each account are free of charge.
    """
    sizes = [group.num_features for group in registry.groups.values()]
    if mode == "network":
        sizes = [sum(sizes)]
    free = (~registry.taken(task_id)[: sum(sizes)]).to(registry.dtype)
    total = free.new_tensor(sizes)
    account = torch.arange(len(sizes), device=free.device).repeat_interleave(total.long())
    allowance = total / registry.num_tasks if quota else torch.zeros_like(total)
    return Tariff(free, account, torch.zeros_like(total).index_add(0, account, free), allowance)


def regularization(masks: Tensor, tariff: Tariff) -> Tensor:
    """`sum(a * (1 - c)) / sum(1 - c)`, the mean over accounts: a scalar in [0, 1] (Serra et al. 2018, eq. 5), where the
    allowance is taken off first, if there is one (Duan 2023).

    masks: the task's masks `a` of all features. c: the features that other trained tasks have taken.
    """
    if not masks.numel():
        return masks.sum()
    used = torch.zeros_like(tariff.num_free).index_add(0, tariff.account, masks * tariff.free)
    charged = (used - tariff.allowance).clamp(min=0)
    return (charged / tariff.num_free.clamp(min=1)).mean()
