"""The families by operator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Node

if TYPE_CHECKING:
    from hatify.extraction.channels import Channels
    from hatify.extraction.smaller import Smaller


@dataclass(frozen=True)
class Family:
    """Operators that treat channels alike.

    follow: the track of a call's result (one for each of several results; None: no labels), see `channels`. What it
        must not lose it keeps.
    shrink: the call on what is left of its operands, in the smaller graph.
    writes: whether weights of the call write channels of their own, which get labels.
    """

    follow: Callable[[Channels, Node], Any]
    shrink: Callable[[Smaller, Node], Node]
    writes: bool = False


_FAMILIES: dict[Any, Family] = {}
_POINTWISE: list[Family] = []


def register(family: Family, *targets: Any) -> None:
    """Let a family treat these operators; without any, those that PyTorch tags as pointwise."""
    _FAMILIES.update(dict.fromkeys(targets, family))
    if not targets:
        _POINTWISE.append(family)


def family_of(node: Node) -> Family | None:
    if node.target in _FAMILIES:
        return _FAMILIES[node.target]
    return _POINTWISE[0] if torch.Tag.pointwise in getattr(node.target, "tags", ()) else None
