"""The mask groups behind the positions that lock rules consist of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from hatify.capture.opaque import OpaqueLeaf
from hatify.masks.registry import MaskRegistry
from hatify.rewriting.layers import for_each_example


def groups_written(net: nn.Module, registry: MaskRegistry, heads: Sequence[str]) -> dict[str, str | None]:
    """By path of a layer or parameter, the mask group that it writes: what stands first in the parameter's rules.

    None: what it writes belongs to every task, as with heads and with submodules that are called as they are.
    """
    features = FeatureNames(net, registry)
    written: dict[str, str | None] = dict.fromkeys(heads)
    written |= {path: None for path, module in net.named_modules() if isinstance(module, OpaqueLeaf)}
    for name, parameter in net.named_parameters():
        written_sides = [side for use in features.sides_of(parameter) for side in use[:1]]
        groups = [group for _, side in written_sides for group in side]
        if groups:
            written[name] = groups[0]
            written.setdefault(name.rpartition(".")[0], groups[0])
    written.pop("", None)  # of the network's own parameters
    return written


class FeatureNames:
    """Which mask groups the features of a parameter's entries belong to."""

    def __init__(self, net: nn.Module, registry: MaskRegistry) -> None:
        self._table, self._registry = registry.locks, registry
        self._rules = {id(net.get_parameter(name)): name for name in registry.locks.names}  # a tied one has many names
        self._names = [name for name, _, _ in registry.layout]
        self._ends = np.cumsum([size for _, size, _ in registry.layout])

    def groups_at(self, positions: Tensor) -> tuple[str, ...]:
        """The groups of features at these positions, in graph order; constants belong to none."""
        found = np.searchsorted(self._ends, positions.unique().cpu().numpy(), side="right")
        return tuple(self._names[i] for i in dict.fromkeys(found.tolist()) if i < len(self._names))

    def groups_of_mask(self, name: str) -> tuple[str, ...]:
        """The groups whose features a mask has, by the name under which the graph asks for it."""
        view = self._registry.views.get(name)
        return (name,) if view is None else self.groups_at(self._registry.positions[view])

    def sides_of(self, parameter: Tensor) -> Iterator[tuple[tuple[int, tuple[str, ...]], ...]]:
        """For each use of a parameter, its sides: a dimension and the groups whose features lie along it.

        What the parameter writes comes first, as in the rules. No uses: no rule follows the parameter.
        """
        for term in self._table.terms.get(self._rules.get(id(parameter), ""), ()):
            yield tuple(self._side(self._table.positions[side], parameter.dim()) for side in term)

    def _side(self, positions: Tensor, dimensions: int) -> tuple[int, tuple[str, ...]]:
        """The dimension of a parameter along which positions vary; they may have more dimensions in front, or fewer."""
        shape = (1,) * (dimensions - positions.dim()) + tuple(positions.shape[max(positions.dim() - dimensions, 0) :])
        return next((d for d, size in enumerate(shape) if size > 1), 0), self.groups_at(positions)


def mask_name(mask: Any) -> str:
    """The name under which a node takes a mask from the registry's masks; repeated ones have it inside."""
    source = mask.args[0] if mask.target is for_each_example else mask
    return str(source.args[1])
