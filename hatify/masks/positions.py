"""Positions, which say where in all features something lies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class PositionHolder(nn.Module):
    """A module with positions: they follow it to its device, but never lose what they say.

    positions: by name. No buffers: an average of networks over time averages buffers, and no state dict holds them. On
        the meta device, and after `to_empty`, nothing would bring them back.
    """

    def __init__(self) -> None:
        super().__init__()
        self.positions: dict[str, Tensor] = {}

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> PositionHolder:
        super()._apply(fn, recurse)
        for name, held in self.positions.items():
            moved = fn(held)
            self.positions[name] = held if moved.is_meta else held.to(moved.device)
        return self
