"""Sizes and positions that are arguments of an operator, as numbers."""

from __future__ import annotations

import torch
from torch.fx import Node

from hatify.analysis.sizes import concrete, is_unknown


def is_known(argument: object) -> bool:
    """Whether a size does not depend on the data."""
    return not is_unknown(_value(argument))


def number(argument: object) -> int:
    """A known size, as in the example where it is dynamic."""
    return concrete(_value(argument))


def _value(argument: object) -> int | torch.SymInt:
    """A size that may be computed in the graph."""
    value = argument.meta["val"] if isinstance(argument, Node) else argument
    assert isinstance(value, int | torch.SymInt)
    return value
