"""The families by operator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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


def register(family: Family, *kinds: Any) -> None:
    """Let a family treat operators: these, or all that have a tag of PyTorch's."""
    _FAMILIES.update(dict.fromkeys(kinds, family))


def family_of(node: Node) -> Family | None:
    kinds = (node.target, *getattr(node.target, "tags", ()))
    return next((_FAMILIES[kind] for kind in kinds if kind in _FAMILIES), None)
