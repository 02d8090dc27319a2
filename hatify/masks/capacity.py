"""How much of each mask group is taken."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hatify.errors import first_few
from hatify.masks.registry import MaskGroup, MaskRegistry

NEARLY_FULL = 0.1  # the share of a group's features that are free


@dataclass(frozen=True)
class GroupCapacity:
    """How a group's features are used: by each trained task, by several of them, by none."""

    num_features: int
    used: dict[int, int]
    shared: int
    free: int


def capacity(registry: MaskRegistry) -> dict[str, GroupCapacity]:
    """By group name, how its features are used."""
    return {name: _group_capacity(group, registry.trained) for name, group in registry.groups.items()}


def _group_capacity(group: MaskGroup, trained: list[int]) -> GroupCapacity:
    used = {task: group.binary_mask(task).cpu() for task in trained}
    counts = sum((mask.long() for mask in used.values()), torch.zeros(group.num_features, dtype=torch.long))
    return GroupCapacity(
        group.num_features,
        {task: int(mask.sum()) for task, mask in used.items()},
        int((counts > 1).sum()),
        int((counts == 0).sum()),
    )


def describe_scarcity(registry: MaskRegistry, task_id: int) -> str | None:
    """In words, with numbers, which groups have hardly any feature left for a task; None if all have some."""
    groups = registry.groups.values()
    free = {group.name: int((~group.locked_mask(task_id)).sum()) for group in groups}
    scarce = [group for group in groups if free[group.name] < NEARLY_FULL * group.num_features]
    if not scarce:
        return None
    fullest = min(scarce, key=lambda group: free[group.name] / group.num_features)
    return (
        f"{len(scarce)} of {len(groups)} mask groups are nearly full: of {fullest.name!r}, the fullest, "
        f"{free[fullest.name]} of {fullest.num_features} features are free, the others are taken by tasks "
        f"{', '.join(map(str, registry.trained))}; task {task_id} can only re-use there what they have learned"
    )


def describe_emptiness(registry: MaskRegistry, task_id: int) -> str | None:
    """In words, of which groups a task uses no feature at all; None if it uses some of each."""
    empty = [name for name, group in registry.groups.items() if not bool(group.binary_mask(task_id).any())]
    if not empty:
        return None
    return (
        f"task {task_id} uses no feature of {len(empty)} of {len(registry.groups)} mask groups ({first_few(empty)}): "
        "what flows through them alone does not reach its output; give the regularizer less weight, or the masks a "
        "lower learning rate"
    )
