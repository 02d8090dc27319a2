"""Colours of mask groups and tasks, the same in trees, drawings and plots."""

from __future__ import annotations

from collections.abc import Sequence

PALETTE = (
    *("#9ecae9", "#ffbf79", "#98d594", "#f4a6a3", "#cfb6e2"),
    *("#d2b29d", "#f2b8dc", "#c4c4c4", "#dcdc8c", "#8fdfe8"),
)
EVERY_TASK = "#ffffff"  # of what is no task's in particular
FREE, SHARED = "#eeeeee", "#555555"


def colour_of_group(group: str | None, groups: Sequence[str]) -> str:
    """The colour of a mask group: neighbours in the list of all groups have unlike ones."""
    return EVERY_TASK if group is None else PALETTE[list(groups).index(group) % len(PALETTE)]


def colour_of_task(task_id: int) -> str:
    return PALETTE[task_id % len(PALETTE)]
