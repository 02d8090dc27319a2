"""Positions, which say where in all features something lies, as buffers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn


class PositionHolder(nn.Module):
    """A module whose buffers are positions: they follow it to its device, but never lose what they say.

    No state dict holds them. On the meta device, and after `to_empty`, nothing would bring them back.
    """

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> PositionHolder:
        positions = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, before in positions.items():
            moved = self._buffers[name]
            assert before is not None and moved is not None
            self._buffers[name] = before if moved.is_meta else before.to(moved.device)
        return self
