"""Repeated blocks of a flow, drawn once."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from hatify.inspection.flow import Box, Flow


@dataclass(frozen=True)
class Folded:
    """A flow with one block in place of each run of alike ones.

    repeats: by block that stands for several, all of them, in order.
    """

    flow: Flow
    repeats: dict[str, tuple[str, ...]]


def folded(flow: Flow) -> Folded:
    """Fold blocks that follow one another, are numbered in order and do the same."""
    positions: dict[str, list[int]] = {}
    for position, box in enumerate(flow.boxes):
        if box.block:
            positions.setdefault(box.block, []).append(position)
    stands_for: dict[int, int] = {}
    repeats: dict[str, tuple[str, ...]] = {}
    first = ""
    for before, block in pairwise(positions):
        if _follows(before, block) and _shape(flow, before, positions) == _shape(flow, block, positions):
            first = first or before
            repeats[first] = (*repeats.get(first, (first,)), block)
            stands_for.update(zip(positions[block], positions[first], strict=True))
        else:
            first = ""
    return Folded(_quotient(flow, stands_for), repeats)


def _follows(before: str, block: str) -> bool:
    """Whether a block has the next number of the same series."""
    one, other = (name.rstrip("0123456789") for name in (before, block))
    return one == other and int(block[len(other) :]) == int(before[len(one) :]) + 1


def _shape(flow: Flow, block: str, positions: dict[str, list[int]]) -> Any:
    """What a block does: its steps with names relative to it, and its inner edges."""
    own = positions[block]
    steps = [[(s.name.removeprefix(block), s.operator, len(s.gates)) for s in flow.boxes[p].steps] for p in own]
    edges = sorted((own.index(a), own.index(b)) for a, b in flow.edges if a in own and b in own)
    return steps, edges


def _quotient(flow: Flow, stands_for: dict[int, int]) -> Flow:
    kept = [position for position in range(len(flow.boxes)) if position not in stands_for]
    numbers = {position: number for number, position in enumerate(kept)}
    boxes: list[Box] = [flow.boxes[position] for position in kept]
    edges = {(numbers[stands_for.get(a, a)], numbers[stands_for.get(b, b)]) for a, b in flow.edges}
    return Flow(boxes, {(a, b) for a, b in edges if a < b})  # from one of a run to the next: not drawn
