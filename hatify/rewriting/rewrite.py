"""Apply a plan: HAT layers at their old paths, gates, and the payload plumbing as graph edges."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.fx import Graph, Node

from hatify.analysis.groups import Positions
from hatify.analysis.nodes import is_parameter, locations
from hatify.analysis.plan import PlacedMask, Plan
from hatify.names import numbered
from hatify.rewriting.calls import OperatorCall, Slot
from hatify.rewriting.heads import Head
from hatify.rewriting.layers import HATLayer, for_each_example, gate, read
from hatify.rewriting.layout import CallLayout
from hatify.rewriting.root import layer_at
from hatify.rewriting.vectors import MASKED_VECTORS, has_vectors

REGISTRY = "registry"
COUNTER = "num_batches_tracked"
FUNCTIONAL = "operators"  # layers for calls whose parameters are no single module's


@dataclass
class Rewriter:
    """Rewrites one graph in place.

    names: all names of each parameter and buffer, by any of them.
    views: collects the masks that are no group's own. heads: collects the weights of each task's own head.
    """

    graph: Graph
    plan: Plan
    root: nn.Module
    names: Mapping[str, frozenset[str]]
    views: dict[str, Positions] = field(default_factory=dict)
    heads: list[Head] = field(default_factory=list)
    _read_as: dict[Node, Node] = field(default_factory=dict)
    _masked_by_layers: set[Node] = field(default_factory=set)
    _per_task: set[str] = field(default_factory=set)  # all names of what each task has its own copy of
    _task_id: Node = field(init=False)
    _mask_scale: Node = field(init=False)
    _masks: Node = field(init=False)
    _vectors: Node = field(init=False)

    def rewrite(self) -> None:
        self._per_task = {alias for name in self.plan.per_task for alias in self.names.get(name, (name,))}
        self._masked_by_layers = {node for node in self.plan.gates if self._is_used_by_layers_alone(node)}
        self._add_payload()
        self._hand_out_per_task()
        for node in list(self.graph.nodes):
            gated = self.plan.gates.get(node)
            if gated is not None and gated.placement == "multiplied" and node not in self._masked_by_layers:
                self._multiply(self._read_as.get(node, node), gated.masks)
            if self._needs_layer(node):
                self._replace(node, (*self._folded(node), *self._masks_of_weights(node)))
        self.graph.eliminate_dead_code(lambda n: n.op in ("placeholder", "output") or not _is_plumbing(n))
        for node in (self._vectors, self._masks):
            _delay(node)
        self.graph.lint()

    def _add_payload(self) -> None:
        inputs = self.graph.find_nodes(op="placeholder")
        anchor = inputs[-1] if inputs else next(iter(self.graph.nodes))
        with self.graph.inserting_after(anchor):
            self._mask_scale = self.graph.placeholder("mask_scale", default_value=None)
        with self.graph.inserting_after(anchor):
            self._task_id = self.graph.placeholder("task_id", default_value=None)
        with self.graph.inserting_after(self._mask_scale):
            self._masks = self.graph.call_module(REGISTRY, (self._task_id, self._mask_scale))
        with self.graph.inserting_after(self._masks):
            self._vectors = self.graph.call_module(MASKED_VECTORS, (self._masks, self._task_id))

    def _hand_out_per_task(self) -> None:
        """Parameters kept once a task that no layer of their own uses are read through a layer that selects."""
        for node in list(self.graph.nodes):
            if node.op != "get_attr" or node.meta.get("name") not in self.plan.per_task:
                continue
            users = [user for user in node.users if self._owner_of(user) is None]
            if not users:
                continue
            path, _, attribute = str(node.meta["name"]).rpartition(".")
            layer = self._layer(path or f"{FUNCTIONAL}.{attribute}")
            if not path:  # the model's own parameter cannot move: the layer keeps the tasks' copies only
                _share(self.root, layer, attribute)
            layer.index_by_task([attribute])
            chosen = self._call(layer, path or f"{FUNCTIONAL}.{attribute}", node, read, [Slot(attribute=attribute)])
            chosen.meta = dict(node.meta)
            self._read_as[node] = chosen
            for user in users:
                user.replace_input_with(node, chosen)

    def _call(self, layer: HATLayer, path: str, before: Node, function: Callable[..., Any], args: list[Any]) -> Node:
        position = _register(layer, OperatorCall(function, tuple(args)))
        with self.graph.inserting_after(max(before, self._masks)):
            call = self.graph.call_module(path, (), {"task_id": self._task_id, **_which(position)})
        return call

    def _needs_layer(self, node: Node) -> bool:
        effect = self.plan.effects.get(node)
        gated = self.plan.gates.get(node)
        if effect is None:
            return False
        weighted = bool(effect.uses or effect.per_task) and self._owner_of(node) is not None
        return weighted or (gated is not None and gated.placement == "folded")

    def _folded(self, node: Node) -> tuple[PlacedMask, ...]:
        """The masks of a call that its weights carry."""
        gated = self.plan.gates.get(node)
        return gated.masks if gated is not None and gated.placement == "folded" else ()

    def _masks_of_weights(self, node: Node) -> tuple[PlacedMask, ...]:
        """The masks of a call's weights themselves, for its layer to multiply."""
        held = [(argument, value) for argument, value in locations(node) if isinstance(value, Node)]
        weights = [(argument, value) for argument, value in held if value in self._masked_by_layers]
        return tuple(
            PlacedMask(mask.positions.ravel(), {argument: mask.positions.shape})
            for argument, weight in weights
            for mask in self.plan.gates[weight].masks
        )

    def _is_used_by_layers_alone(self, node: Node) -> bool:
        """Whether a node is a parameter that layers alone use, so that they can multiply it with its masks."""
        return is_parameter(node) and all(map(self._owner_of, node.users))

    def _owner_of(self, node: Node) -> str | None:
        """The one module that holds all the parameters of a weighted call."""
        effect = self.plan.effects.get(node)
        if effect is None or not (effect.uses or effect.per_task):
            return None
        arguments = {use.argument for use in effect.uses} | set(effect.per_task)
        held = [(a, v) for a, v in locations(node) if isinstance(v, Node) and "name" in v.meta]
        weights = [v for a, v in held if a in arguments]
        if not weights or len(weights) != len(held):
            return None
        owners = [{name.rpartition(".")[0] for name in self._aliases(v)} for v in weights]
        common = frozenset.intersection(*map(frozenset, owners)) - {""}
        preferred = str(node.meta.get("module_path"))
        return preferred if preferred in common else min(common, default=None)

    def _aliases(self, node: Node) -> frozenset[str]:
        return self.names.get(node.meta.get("name", ""), frozenset([str(node.meta.get("name", ""))]))

    def _layer(self, path: str) -> HATLayer:
        return layer_at(self.root, path)

    def _replace(self, node: Node, masks: tuple[PlacedMask, ...]) -> None:
        """Put a HAT layer in the place of a call."""
        owner = self._owner_of(node)
        path = owner or f"{FUNCTIONAL}.{node.name}"
        layer = self._layer(path)
        layout = CallLayout(node, owner, masks, self._aliases)
        position = _register(layer, layout.call)
        layer.index_by_task([n for n in layout.attribute_of.values() if f"{owner}.{n}" in self._per_task])
        if node.target is torch.ops.aten.batch_norm.default and layer._buffers.get(COUNTER) is not None:
            layer.counter = COUNTER
            layer.index_by_task([COUNTER])
        for argument, dimension in self.plan.heads.get(node, {}).items():
            self.heads.append(Head(path, layer, layout.attribute_of.get(argument), dimension))
        kwargs: dict[str, Any] = {}
        with self.graph.inserting_before(node):
            if masks:
                kwargs["masks"] = tuple(self._mask(mask.positions, path) for mask in masks)
            if has_vectors(layer, layout.call):
                kwargs["vectors"] = self._vectors_of(path)
            if layer.task_indexed:
                kwargs["task_id"] = self._task_id
            call = self.graph.call_module(path, tuple(layout.operands), {**kwargs, **_which(position)})
        call.meta = {k: v for k, v in node.meta.items() if k in ("val", "module_path", "stack_trace")}
        node.replace_all_uses_with(call)
        self.graph.erase_node(node)

    def _multiply(self, node: Node, masks: tuple[PlacedMask, ...]) -> None:
        """Gates of their own behind a node."""
        for positions in (mask.positions for mask in masks):
            users = list(node.users)
            after = node if node.op != "placeholder" else self._masks
            with self.graph.inserting_after(max(after, self._masks)):
                gated = self.graph.call_function(gate, (node, None))
            with self.graph.inserting_before(gated):
                mask = self._mask(positions, str(node.meta.get("module_path") or node.name))
                if _repeats(positions, node):
                    mask = self.graph.call_function(for_each_example, (mask, node))
                gated.update_arg(1, mask)
            gated.meta = {k: v for k, v in node.meta.items() if k in ("val", "module_path", "stack_trace")}
            for user in users:
                user.replace_input_with(node, gated)
            node = gated

    def _vectors_of(self, path: str) -> Node:
        """The edge that carries the masked vectors of one more call of the layer at a path."""
        known = {user.args[1] for user in self._vectors.users}
        key = next(name for name in numbered(path) if name not in known)
        return self.graph.call_function(operator.getitem, (self._vectors, key))

    def _mask(self, positions: Positions, path: str) -> Node:
        """The edge that carries a mask: a group's own, or a view over several groups."""
        return self.graph.call_function(operator.getitem, (self._masks, self._mask_name(positions, path)))

    def _mask_name(self, positions: Positions, path: str) -> str:
        for group in self.plan.groups:
            own = np.arange(group.start, group.start + group.num_features)
            if positions.ndim == 1 and np.array_equal(positions, own):
                return group.name
        for name, known in self.views.items():
            if np.array_equal(known, positions):
                return name
        taken = {*self.views, *(group.name for group in self.plan.groups)}
        name = next(name for name in numbered(path or "masks") if name not in taken)
        self.views[name] = positions
        return name


def _register(layer: HATLayer, call: OperatorCall) -> int:
    """The position of a call among the layer's; calls that are alike are one."""
    for position, known in enumerate(layer.calls):
        if known == call:
            return position
    layer.calls.append(call)
    return len(layer.calls) - 1


def _repeats(positions: Positions, node: Node) -> bool:
    """Whether a mask varies along a dimension that holds one example after the other."""
    sizes = zip(positions.shape, node.meta["val"].shape, strict=True)
    return any(own > 1 and isinstance(size, torch.SymInt) for own, size in sizes)


def _which(position: int) -> dict[str, int]:
    return {"call": position} if position else {}


def _share(root: nn.Module, layer: HATLayer, attribute: str) -> None:
    value = getattr(root, attribute)
    if isinstance(value, nn.Parameter):
        layer.register_parameter(attribute, value)
    else:
        layer.register_buffer(attribute, value, persistent=False)


def _delay(node: Node) -> None:
    """To just before its first use: a GPU has work by then, and does not wait until the masks are there."""
    if node.users:
        min(node.users).prepend(node)


def _is_plumbing(node: Node) -> bool:
    """What may go when nothing uses it: reads, and masks that no gate took."""
    return node.op == "get_attr" or node.target in (operator.getitem, REGISTRY, MASKED_VECTORS)
