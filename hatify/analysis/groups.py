"""Mask groups: the gated features, coupled ones as one, in sets that a person would point at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import networkx as nx
import numpy as np
import numpy.typing as npt
from torch.fx import Node

from hatify.analysis.nodes import is_parameter, locations
from hatify.analysis.support import FIRST_VARIABLE, LIVE, ZERO, Support
from hatify.analysis.supports import Inference
from hatify.analysis.variables import Space
from hatify.names import numbered

Positions = npt.NDArray[np.int64]  # of features among all features, see `Features`


@dataclass(frozen=True)
class GroupPlan:
    """One mask group. `start`: the position of its first feature among all features.

    `members`: the module paths that write or read the group, in graph order.
    """

    name: str
    start: int
    num_features: int
    members: tuple[str, ...]


class Features:
    """Positions of the gated features among all features, group by group.

    Behind the last feature stand two constants: `live` (never masked) and `zero` (always masked).
    """

    def __init__(self, inference: Inference, groups: Sequence[Sequence[int]]) -> None:
        self._variables = inference.variables
        self.count = sum(len(roots) for roots in groups)
        self.live, self.zero = self.count, self.count + 1
        self._position: dict[int, int] = {LIVE: self.live, ZERO: self.zero}
        for position, root in enumerate(root for roots in groups for root in roots):
            self._position[root] = position

    def positions(self, support: Support) -> Positions:
        """Supports as positions; what no mask gates is live."""
        resolved = self._variables.resolve(support)
        roots, inverse = np.unique(resolved, return_inverse=True)
        found = np.array([self._position.get(root, self.live) for root in roots.tolist()], dtype=np.int64)
        return found[inverse].reshape(resolved.shape)


def find_groups(inference: Inference, gate_ids: Iterable[Support]) -> tuple[tuple[GroupPlan, ...], Features]:
    """Group the gated features: the spaces that share a feature form one group, in graph order."""
    variables = inference.variables
    gated = {root for ids in gate_ids for root in np.unique(variables.resolve(ids)).tolist() if root >= FIRST_VARIABLE}
    spaces = {space: _roots(space, inference) for space in variables.spaces}
    kept = {space: [root for root in own if root in gated] for space, own in spaces.items()}

    graph: nx.Graph[Space | int] = nx.Graph()
    for space, gated_roots in kept.items():
        graph.add_edges_from((space, root) for root in gated_roots)
    components = [[n for n in part if isinstance(n, Space)] for part in nx.connected_components(graph)]
    components = sorted((sorted(c, key=lambda s: s.start) for c in components), key=lambda c: c[0].start)

    features = [list(dict.fromkeys(root for space in component for root in kept[space])) for component in components]
    readers = _readers(inference, {root: i for i, roots in enumerate(features) for root in roots})

    plans: list[GroupPlan] = []
    start = 0
    for component, roots, reading in zip(components, features, readers, strict=True):
        writers = [module_path(space.node) for space in component]
        taken = {plan.name for plan in plans}
        name = next(name for name in numbered(writers[0]) if name not in taken)
        plans.append(GroupPlan(name, start, len(roots), tuple(dict.fromkeys([*writers, *reading]))))
        start += len(roots)
    return tuple(plans), Features(inference, features)


def module_path(node: Node) -> str:
    """The module that a person would point at: the owner of the call's weights, or the caller."""
    for _, value in locations(node):
        if is_parameter(value):
            owner = str(value.meta["name"]).rpartition(".")[0]
            return owner or str(value.meta["name"])
    return str(node.meta.get("module_path") or node.name)


def _readers(inference: Inference, group_of: Mapping[int, int]) -> list[list[str]]:
    """For each group, the modules with parameters that read any of its features, in graph order."""
    readers: list[list[str]] = [[] for _ in set(group_of.values())]
    for node, effect in inference.effects.items():
        if not effect.uses and not effect.per_task:
            continue
        for operand in (*effect.reads, *effect.flows):
            support = inference.supports[operand]
            roots = np.unique(inference.variables.resolve(support)).tolist() if isinstance(support, np.ndarray) else []
            for group in {group_of[root] for root in roots if root in group_of}:
                readers[group].append(module_path(node))
    return readers


def _roots(space: Space, inference: Inference) -> list[int]:
    ids = np.arange(space.start, space.start + space.size)
    return list(dict.fromkeys(inference.variables.find(ids).tolist()))
