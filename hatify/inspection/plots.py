"""Masks and capacity of a network as plots."""

from __future__ import annotations

import torch

from hatify.errors import HatifyError
from hatify.inspection.colours import FREE, SHARED, colour_of_task
from hatify.inspection.picture import Picture, new_figure
from hatify.masks.registry import MaskRegistry

COLUMNS = 4


def plot_masks(registry: MaskRegistry) -> Picture:
    """By mask group, one row for each trained task: the features that it uses; those of several tasks are dark.

    Raises:
        HatifyError: matplotlib is not installed, or no task is trained.
    """
    figure = new_figure(layout="constrained", dpi=120)
    from matplotlib.colors import to_rgb

    tasks, groups = _trained(registry), list(registry.groups.values())
    rows = -(-len(groups) // COLUMNS)
    figure.set_size_inches(3.2 * min(COLUMNS, len(groups)), rows * (0.75 + 0.16 * len(tasks)))
    for number, group in enumerate(groups):
        axes = figure.add_subplot(rows, min(COLUMNS, len(groups)), number + 1)
        used = torch.stack([group.binary_mask(task) for task in tasks]).cpu()
        image = torch.tensor(to_rgb(FREE)).repeat(*used.shape, 1)
        for row, task in enumerate(tasks):
            image[row, used[row]] = torch.tensor(to_rgb(colour_of_task(task)))
        image[used & (used.sum(0) > 1)] = torch.tensor(to_rgb(SHARED))
        axes.imshow(image.numpy(), aspect="auto", interpolation="nearest")
        axes.set_title(f"{group.name}: {group.num_features}", fontsize=7)
        axes.set_yticks(range(len(tasks)), [f"task {task}" for task in tasks], fontsize=6)
        axes.set_xticks([])
    return Picture(figure)


def plot_capacity(registry: MaskRegistry) -> Picture:
    """By mask group, the share of its features that one task alone uses, that several use, and that are free.

    Raises:
        HatifyError: matplotlib is not installed, or no task is trained.
    """
    figure = new_figure(layout="constrained", dpi=120)
    tasks, groups = _trained(registry), list(registry.groups.values())
    figure.set_size_inches(7, 1.2 + 0.2 * len(groups))
    axes = figure.add_subplot()
    starts = [0.0] * len(groups)
    used = [torch.stack([group.binary_mask(task) for task in tasks]).cpu() for group in groups]
    alone = {
        f"task {task} alone": ([_share(u[row] & (u.sum(0) == 1)) for u in used], colour_of_task(task))
        for row, task in enumerate(tasks)
    }
    several = {"several tasks": ([_share(u.sum(0) > 1) for u in used], SHARED)}
    free = {"free": ([_share(u.sum(0) == 0) for u in used], FREE)}
    names = [f"{group.name}: {group.num_features}" for group in groups]
    for label, (shares, colour) in (alone | several | free).items():
        axes.barh(names, shares, left=starts, color=colour, label=label, height=0.8)
        starts = [start + share for start, share in zip(starts, shares, strict=True)]
    axes.set(xlim=(0, 1), xlabel="share of the group's features")
    axes.invert_yaxis()
    axes.margins(y=0.01)
    axes.tick_params(axis="y", labelsize=7)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=4, fontsize=7, frameon=False)
    return Picture(figure)


def _share(chosen: torch.Tensor) -> float:
    return chosen.float().mean().item()


def _trained(registry: MaskRegistry) -> list[int]:
    if not registry.trained:
        raise HatifyError("no task is trained, so there is nothing to plot: train one inside net.learn first")
    return sorted(registry.trained)
