"""Which dead entries are certainly zero, and which are never read.

`certain`: where a feature's mask is zero, the tensor's entries of that feature are zero.
`covered`: where a feature's mask is zero, the tensor's entries of that feature reach no output (the theorem's
second half): every user multiplies them with a certain zero, or passes them on to features that are covered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.fx import Graph, Node

from hatify.analysis.effect import Effect
from hatify.analysis.gates import Placement
from hatify.analysis.supports import Inference

# What these give does not depend on a tensor's entries. (`getattr` reads its device or dtype.)
SHAPES = (torch.ops.aten.sym_size.int, torch.ops.aten.sym_numel.default, getattr)


@dataclass(frozen=True)
class Coverage:
    """certain: nodes whose dead entries are zero. covered: those, and nodes whose dead entries reach no output."""

    certain: frozenset[Node]
    covered: frozenset[Node]


def find_coverage(graph: Graph, inference: Inference, gates: Mapping[Node, Placement]) -> Coverage:
    """Which dead entries are zero, or harmless, under these gates."""
    certain = _certain(graph, inference, gates)
    covered: set[Node] = set(certain)
    for node in reversed(graph.nodes):
        if node.users and all(_covers(user, node, inference.effects, certain, covered) for user in node.users):
            covered.add(node)
    return Coverage(frozenset(certain), frozenset(covered))


def _certain(graph: Graph, inference: Inference, gates: Mapping[Node, Placement]) -> set[Node]:
    certain: set[Node] = set()

    def by_factor(effect: Effect) -> bool:
        return any(n in certain and inference.has_features(n) for n in effect.factors)

    def by_flows(effect: Effect) -> bool:
        return bool(effect.flows) and all(n in certain or not inference.has_features(n) for n in effect.flows)

    for node in graph.nodes:
        effect = inference.effects.get(node)
        if node in gates or (effect is not None and effect.keeps_zero and (by_factor(effect) or by_flows(effect))):
            certain.add(node)
    return certain


def _covers(user: Node, node: Node, effects: Mapping[Node, Effect], certain: set[Node], covered: set[Node]) -> bool:
    """Whether `user` lets no dead entry of `node` (not certain to be zero) reach an output."""
    effect = effects.get(user)
    if effect is None:
        return user.target in SHAPES
    if node in effect.reads or node in effect.fixed:
        return False
    if node in effect.pairs:
        return any(n in certain for n in effect.pairs if n is not node)
    if node in effect.factors:
        others = [n for n in effect.factors if n is not node]
        return user in covered or any(n in certain for n in others)
    if node in effect.flows:
        return user in covered
    return node in effect.shapes
