"""Backward pass: where a mask must be applied.

A tensor is *demanded* where someone reads its dead entries. The demand is met as far upstream as zeros survive and
as cheaply as possible: by a parameter, by a weighted call that folds the mask into its weights, and only where zeros
would be lost on the way (after a sigmoid, a sum with a live tensor) by a multiplication of its own.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.fx import Graph, Node

from hatify.analysis.effect import RESULT, Argument, Effect, Gate
from hatify.analysis.nodes import is_selection, locations
from hatify.analysis.sizes import entries_per_example
from hatify.analysis.supports import Inference

Placement = Literal["folded", "multiplied"]
Origins = Mapping[Node, tuple[Node, ...]]  # see `_find_origins`

USUAL_BATCH = 64


def place_gates(graph: Graph, inference: Inference) -> dict[Node, Placement]:
    """The nodes whose result must be gated, and how, in graph order."""
    origins = _find_origins(graph, inference)
    possible = _possible(graph, inference, origins)
    demanded = {n for n in graph.output_node().all_input_nodes if inference.has_features(n)}
    placed: dict[Node, Placement] = {}
    for node in reversed(graph.nodes):
        if node in demanded:
            placement, upstream = _meet(node, inference, possible)
            if placement:
                placed[node] = placement
            demanded.update(n for n in upstream if inference.has_features(n))
        demanded.update(_demands_of(node, inference, origins, possible))
    return {node: placed[node] for node in graph.nodes if node in placed}


def fold_uncovered(
    inference: Inference, placed: Mapping[Node, Placement], covered: Collection[Node]
) -> dict[Node, Placement]:
    """Layers whose dead features nobody demands to be zero, and yet somebody may read.

    To mask their rows costs nothing, and what writes those need not be locked.
    """
    return {
        node: "folded"
        for node, effect in inference.effects.items()
        if effect.uses and effect.gates and not (node in placed or node in covered) and inference.has_features(node)
    }


def masked_operands(gate: Gate, node: Node) -> dict[Argument, tuple[int, ...]]:
    """What a folded mask multiplies: the call's weights, or its result where that is smaller (layers of an MLP)."""
    if gate.result is None:
        return gate.slots
    weights = sum(v.meta["val"].numel() for a, v in locations(node) if a in gate.slots and isinstance(v, Node))
    return {RESULT: gate.result} if _usual_entries(node.meta["val"]) < weights else gate.slots


def _usual_entries(result: Tensor) -> int:
    """The entries of a result at a usual batch, whatever the example's."""
    dynamic = any(isinstance(size, torch.SymInt) for size in result.shape)
    entries = math.prod(entries_per_example(s) if isinstance(s, torch.SymInt) else s for s in result.shape)
    return USUAL_BATCH * entries if dynamic else entries


def _demands_of(node: Node, inference: Inference, origins: Origins, possible: set[Node]) -> Iterable[Node]:
    """What a call reads whatever becomes of its own result."""
    effect = inference.effects.get(node)
    if effect is None:
        return ()
    pairs = [n for n in effect.pairs if inference.has_features(n)]
    return [*_must_be_zero(effect, inference, origins), *sorted(pairs, key=lambda n: n not in possible)[:1]]


def _must_be_zero(effect: Effect, inference: Inference, origins: Origins) -> list[Node]:
    """What must be zero for a call, whatever becomes of its own result."""
    operands = [*effect.reads, *(origin for node in effect.fixed for origin in origins[node])]
    return [node for node in operands if inference.has_features(node)]


def _find_origins(graph: Graph, inference: Inference) -> Origins:
    """Where zeros fix the dead entries of each tensor: before the functions that have made it and may lose zeros.

    A function of the domain of the next one may (`log(x + 1)`): a gate behind it would undo that. Of a sum, or of a
    product, zeros are lost where those of an operand, or of all, are.
    """
    origins: dict[Node, tuple[Node, ...]] = {}
    lost: set[Node] = set()
    for node in graph.nodes:
        origins[node] = (node,)
        effect = inference.effects.get(node)
        if effect is None or effect.gates:
            continue
        flows, factors = ([n for n in nodes if inference.has_features(n)] for nodes in (effect.flows, effect.factors))
        is_lost = all(n in lost for n in factors) if factors else not effect.keeps_zero or any(n in lost for n in flows)
        if is_lost:
            lost.add(node)
        if is_lost or (len(flows) == 1 and not factors):
            origins[node] = tuple(dict.fromkeys(each for source in factors or flows for each in origins[source]))
    return origins


def _meet(node: Node, inference: Inference, possible: set[Node]) -> tuple[Placement | None, tuple[Node, ...]]:
    """How a demand is met: a gate at this node, or demands on its operands."""
    effect = inference.effects.get(node)
    if effect is None:
        return "multiplied", ()
    if effect.keeps_zero and effect.factors and (factor := _cheapest(effect.factors, inference, possible)):
        return None, (factor,)
    flows = [n for n in effect.flows if inference.has_features(n)]
    if is_selection(node) and flows[0] not in possible:
        return "multiplied", ()  # several results cannot be multiplied at once
    if effect.keeps_zero and flows and (len(flows) == 1 or all(n in possible for n in flows)):
        if effect.gates and flows[0] not in possible:
            return "folded", ()
        return None, tuple(flows)
    return ("folded", ()) if effect.gates else ("multiplied", ())


def _cheapest(factors: tuple[Node, ...], inference: Inference, possible: set[Node]) -> Node | None:
    """A factor that can be zero for free; first a parameter (a layer scale, say), since it is smallest."""
    free = [n for n in factors if n in possible and inference.has_features(n)]
    return min(free, key=lambda n: not (n.op == "get_attr" or _is_vector(n, inference)), default=None)


def _is_vector(node: Node, inference: Inference) -> bool:
    """Whether a tensor is computed from parameters and has one entry a feature."""
    if node not in inference.weights:
        return False
    features = np.unique(inference.variables.resolve(inference.supports[node]))
    return bool(node.meta["val"].numel() == features.size)


def _possible(graph: Graph, inference: Inference, origins: Origins) -> set[Node]:
    """The nodes that can be made zero under a mask with no multiplication of an activation.

    What is read anyway is gated anyway, so it costs nothing to rely on it.
    """
    possible = {n for effect in inference.effects.values() for n in _must_be_zero(effect, inference, origins)}
    for node in graph.nodes:
        effect = inference.effects.get(node)
        if effect is None:
            free = node.op == "get_attr"
        elif effect.gates:
            free = True
        elif effect.factors:
            free = effect.keeps_zero and any(n in possible for n in effect.factors)
        else:
            flows = [n for n in effect.flows if inference.has_features(n)]
            free = effect.keeps_zero and bool(flows) and all(n in possible for n in flows)
        if free:
            possible.add(node)
    return possible
