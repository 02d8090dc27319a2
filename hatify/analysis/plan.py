"""The plan of a conversion: everything that the rewriting and the runtime need to know, as plain data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch.fx import Graph, Node

from hatify.analysis.call import Rules
from hatify.analysis.coverage import Coverage, find_coverage
from hatify.analysis.effect import Argument, Effect
from hatify.analysis.gates import Placement, fold_uncovered, masked_operands, place_gates
from hatify.analysis.groups import Features, GroupPlan, Positions, find_groups
from hatify.analysis.heads import find_heads, find_last_layers, heads_at
from hatify.analysis.locks import LockRule, find_locks, find_per_task, find_state
from hatify.analysis.nodes import gives_tensors, is_parameter, is_selection
from hatify.analysis.sizes import entries_per_example
from hatify.analysis.support import Support, varies
from hatify.analysis.supports import Inference, infer_supports

# Parameters that only a whole lock would keep safe are kept once a task instead, smallest first, as long as all
# the copies for one task together stay below this share of the model's parameters.
PER_TASK_SHARE = 0.02


class PlacedMask(NamedTuple):
    """A mask at one node.

    positions: of the features that it gates, in the shape in which they lie there. operands: the arguments of a call
    that it multiplies, and its shape in each; none where it multiplies what the node gives.
    """

    positions: Positions
    operands: dict[Argument, tuple[int, ...]]


@dataclass(frozen=True)
class GatePlan:
    """The masks at one node."""

    placement: Placement
    masks: tuple[PlacedMask, ...]


@dataclass(frozen=True)
class Plan:
    """What a conversion does, node by node and parameter by parameter.

    groups: the mask groups in graph order. num_features: of all of them.
    gates: where masks are applied.
    locks: the lock rule of each shared parameter, by name.
    per_task: names of the parameters and buffers kept once a task.
    heads: the calls whose weights are each task's own head; for each weight the dimension of its outputs, if any.
    state: names of the buffers that forward changes (kept once a task, too).
    unknown: operators that no rule knows, and how often each occurs: what they read or return counts as live.
    unfollowed: names of the parameters locked whole, or kept once a task to avoid that.
    effects: what the rules say of each call.
    """

    groups: tuple[GroupPlan, ...]
    num_features: int
    gates: dict[Node, GatePlan]
    locks: dict[str, LockRule]
    per_task: frozenset[str]
    heads: dict[Node, dict[Argument, int | None]]
    state: frozenset[str]
    effects: dict[Node, Effect]
    unknown: Counter[str]
    unfollowed: frozenset[str]

    def __str__(self) -> str:
        lines = [f"{len(self.groups)} mask groups, {self.num_features} features"]
        lines += [f"  {group.name}: {group.num_features} features" for group in self.groups]
        by_parameters = [gate.placement == "folded" or is_parameter(node) for node, gate in self.gates.items()]
        lines.append(f"gates: {sum(by_parameters)} folded into weights, {by_parameters.count(False)} of their own")
        lines += [f"no rule for {name} (x{count}): live" for name, count in self.unknown.items()]
        return "\n".join(lines)


def analyse(graph: Graph, rules: Rules, heads: Sequence[str] | None = None) -> Plan:
    """Analyse a captured graph.

    rules: the rule of each operator. heads: module paths of the layers kept once a task; None finds them.
    """
    first = infer_supports(graph, rules)
    last_layers = find_last_layers(graph, first.effects)
    head_calls = find_heads(last_layers, first.weights) if heads is None else heads_at(graph, first, heads)
    inference = infer_supports(graph, rules, head_calls, last_layers)
    placed, coverage = _placed(graph, inference)
    groups, features = find_groups(inference, _gated(placed, inference))
    gates = {node: _gate_plan(node, placement, inference, features) for node, placement in placed.items()}
    locks, masked = find_locks(graph, rules, inference, coverage, features)
    state = find_state(graph)
    per_task = find_per_task(inference) | state
    unfollowed = {name: rule for name, rule in locks.items() if rule.whole and name not in per_task}
    per_task |= _small(graph, unfollowed)
    shared = {node: masks for node, masks in masked.items() if node.meta["name"] not in per_task}
    return Plan(
        groups=groups,
        num_features=features.count,
        gates=gates | {node: _with_masks(gates.get(node), masks) for node, masks in shared.items()},
        locks={name: rule for name, rule in locks.items() if name not in per_task},
        per_task=per_task,
        heads={head: {use.argument: use.outputs for use in first.effects[head].uses} for head in head_calls},
        state=state,
        effects=inference.effects,
        unknown=_unknown(graph, rules),
        unfollowed=frozenset(unfollowed),
    )


def _placed(graph: Graph, inference: Inference) -> tuple[dict[Node, Placement], Coverage]:
    """Where masks go, and which zeros are certain then."""
    placed = place_gates(graph, inference)
    placed |= fold_uncovered(inference, placed, find_coverage(graph, inference, placed).covered)
    return placed, find_coverage(graph, inference, placed)


def _gated(placed: Mapping[Node, Placement], inference: Inference) -> Iterator[Support]:
    """The features that any mask gates."""
    for node, placement in placed.items():
        for ids, _ in _masks(node, placement, inference):
            yield ids
    for effect in inference.effects.values():
        yield from effect.masks_of_weights


def _gate_plan(node: Node, placement: Placement, inference: Inference, features: Features) -> GatePlan:
    masks = (
        PlacedMask(np.broadcast_to(features.positions(ids), ids.shape), operands)
        for ids, operands in _masks(node, placement, inference)
    )
    return GatePlan(placement, tuple(masks))


def _with_masks(gate: GatePlan | None, masks: Iterable[Positions]) -> GatePlan:
    """The masks of a parameter: those that are demanded there, if any, and those that its lock rule counts on."""
    demanded = gate.masks if gate is not None else ()
    return GatePlan("multiplied", (*demanded, *(PlacedMask(positions, {}) for positions in masks)))


def _masks(
    node: Node, placement: Placement, inference: Inference
) -> list[tuple[Support, dict[Argument, tuple[int, ...]]]]:
    """The features of each mask at a node, and the operands that it multiplies."""
    if placement == "folded":
        return [(gate.ids, masked_operands(gate, node)) for gate in inference.effects[node].gates]
    return [(_of_one_example(inference.variables.resolve(inference.supports[node]), node), {})]


def _of_one_example(support: Support, node: Node) -> Support:
    """A support whose dynamic dimensions have the entries of one example: they are alike, and a gate repeats them."""
    for dimension, size in enumerate(node.meta["val"].shape):
        if isinstance(size, torch.SymInt) and varies(support, dimension):
            support = support.take(range(entries_per_example(size)), dimension)
    return support


def _small(graph: Graph, names: Collection[str]) -> frozenset[str]:
    """The smallest of the named parameters, as many as may be kept once a task."""
    sizes = {n.meta["name"]: n.meta["val"].numel() for n in graph.nodes if is_parameter(n)}
    budget = PER_TASK_SHARE * sum(sizes.values())
    chosen: set[str] = set()
    for name in sorted(names, key=sizes.__getitem__):
        budget -= sizes[name]
        if budget < 0:
            break
        chosen.add(name)
    return frozenset(chosen)


def _unknown(graph: Graph, rules: Rules) -> Counter[str]:
    computing = [n for n in graph.nodes if n.op == "call_function" and gives_tensors(n) and not is_selection(n)]
    return Counter(str(node.target) for node in computing if node.target not in rules)
