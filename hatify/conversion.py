"""`hatify(model)`: capture, analyse, rewrite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.fx import Graph

from hatify.analysis.groups import Positions
from hatify.analysis.plan import Plan, analyse
from hatify.blueprint import Blueprint
from hatify.capture.capture import Capture, capture
from hatify.capture.inputs import example_arguments
from hatify.config import HATConfig
from hatify.counts import checked_count
from hatify.errors import CapacityWarning, CaptureWarning, warn
from hatify.lifecycle.initial_values import initialization
from hatify.masks.registry import MaskRegistry
from hatify.module import HATModule
from hatify.request import check_heads, check_model, checked_classes
from hatify.rewriting.heads import resize_heads
from hatify.rewriting.layers import hat_layers
from hatify.rewriting.rewrite import Rewriter
from hatify.rewriting.root import copy_tensors
from rewriters import load_rules


def hatify(
    model: nn.Module,
    num_tasks: int = 1,
    *,
    example_inputs: Any = None,
    num_classes: Sequence[int] | None = None,
    heads: Sequence[str] | None = None,
    config: HATConfig | None = None,
) -> HATModule:
    """Convert a model into a network that learns tasks one after another and forgets none.

    model: any module that torch.export can capture; it is left as it was.
    num_tasks: how many tasks there is room for (`net.add_tasks` makes more).
    example_inputs: a call of the model with a batch of at least 2: a tuple of arguments, a dict of keyword
        arguments, or a pair of both. Inferred for timm models, transformers' `dummy_inputs` and simple first layers.
    num_classes: the classes of each task's own head; default: a copy of the model's head for each task.
    heads: module paths of the layers kept once a task; default: found in the graph; [] for none.
    config: settings of the mechanism.

    Raises:
        TaskError: num_tasks is no number of tasks, or num_classes does not have one number of classes a task.
        InputError: example inputs that do not fit or cannot be inferred.
        CaptureError: the model cannot be one graph; names the submodule and the line.
        ConversionError: `heads` or `num_classes` do not fit the model; it is no module, scripted, or converted already;
            it has names that the converted network needs.
    """
    num_tasks = checked_count(num_tasks, "num_tasks")
    num_classes = checked_classes(num_classes, num_tasks)
    check_heads(heads)
    check_model(model)
    captured = capture(model, example_arguments(model, example_inputs))
    plan = analyse(captured.graph, load_rules(), heads)
    _warn_of_state(plan, captured)
    net = build(model, captured, plan, num_tasks, config or HATConfig(), num_classes)
    _warn_if_scarce(net)
    return net


def build(
    model: nn.Module,
    captured: Capture,
    plan: Plan,
    num_tasks: int,
    config: HATConfig,
    num_classes: Sequence[int] | None = None,
) -> HATModule:
    """Carry a plan out on a captured graph (which is rewritten in place) with copies of the model's tensors."""
    root = copy_tensors(model, captured.constants)
    names = _aliases(model)
    unread = _unread(model, captured.graph, names)
    rewriter = Rewriter(captured.graph, plan, root, names)
    rewriter.rewrite()
    root.registry = _registry(plan, rewriter.views, num_tasks, config)
    _match_device(root.registry, root)
    for layer in hat_layers(root):
        for _ in range(num_tasks):
            layer.add_task()
    if num_classes is not None:
        resize_heads(rewriter.heads, num_classes)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    blueprint = Blueprint(
        signature=captured.signature,
        config=config,
        task_indexed=frozenset(name for name in plan.per_task if name in parameters),
        heads=tuple(dict.fromkeys(head.path for head in rewriter.heads)),
        unknown=dict(plan.unknown),
        unfollowed=plan.unfollowed,
        unread=unread,
        initialization=initialization(model),
    )
    return HATModule(root, captured.graph, blueprint)


def _registry(plan: Plan, views: Mapping[str, Positions], num_tasks: int, config: HATConfig) -> MaskRegistry:
    """The registry of a plan's groups and lock rules. views: the positions of masks that are no group's own."""
    groups = [(group.name, group.num_features, group.members) for group in plan.groups]
    lock_rules = {
        name: tuple(tuple(torch.from_numpy(side.copy()) for side in term) for term in rule.terms)
        for name, rule in plan.locks.items()
    }
    tensors = {name: torch.from_numpy(positions.copy()) for name, positions in views.items()}
    return MaskRegistry(groups, tensors, lock_rules, num_tasks, config.init)


def _aliases(model: nn.Module) -> Mapping[str, frozenset[str]]:
    """All names of each parameter and buffer, by any of them."""
    by_tensor: dict[int, set[str]] = {}
    named = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    for name, tensor in named:
        by_tensor.setdefault(id(tensor), set()).add(name)
    return {name: frozenset(by_tensor[id(tensor)]) for name, tensor in named}


def _unread(model: nn.Module, graph: Graph, names: Mapping[str, frozenset[str]]) -> frozenset[str]:
    """The parameters that the graph reads by none of their names."""
    read = {alias for node in graph.nodes if node.op == "get_attr" for alias in names.get(str(node.target), ())}
    return frozenset(name for name, _ in model.named_parameters() if name not in read)


def _match_device(registry: MaskRegistry, root: nn.Module) -> None:
    reference = next((p for p in root.parameters() if p.is_floating_point()), None)
    if reference is not None:
        registry.to(reference.device)


def _warn_of_state(plan: Plan, captured: Capture) -> None:
    lasting = sorted(plan.state & captured.lasting_state)
    if lasting:
        warn(
            f"forward changes the buffers {', '.join(lasting)}, in eval mode too: each task has its own, and what a "
            "trained task answers depends on what it was called with before",
            CaptureWarning,
        )


def _warn_if_scarce(net: HATModule) -> None:
    if not net.registry.groups and net.shared_parameters():
        warn(
            "no feature of this model can be masked, so the first task that is learned locks all that tasks share, and "
            "later ones train their own heads and norms alone; print(net.summary()) says what is not followed",
            CapacityWarning,
        )
    scarce = [group for group in net.registry.groups.values() if group.num_features < net.num_tasks]
    if scarce:
        warn(
            f"{len(scarce)} mask groups have fewer features than there are tasks (first: {scarce[0].name!r} with "
            f"{scarce[0].num_features} features for {net.num_tasks} tasks): tasks must share features there, and "
            "a task that finds none free can only re-use what earlier tasks have learned; widen the layer",
            CapacityWarning,
        )
