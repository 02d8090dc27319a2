"""`hatify(model)`: capture, analyse, rewrite."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.fx import Graph

from hatify.analysis.plan import Plan, analyse
from hatify.blueprint import Blueprint
from hatify.capture.capture import Capture, capture
from hatify.capture.inputs import example_arguments
from hatify.config import HATConfig
from hatify.errors import CapacityWarning, CaptureWarning, ConversionError, TaskError, warn
from hatify.lifecycle.initial_values import initialization
from hatify.masks.registry import MaskRegistry
from hatify.module import HATModule
from hatify.rewriting.heads import resize_heads
from hatify.rewriting.layers import HATLayer, hat_layers
from hatify.rewriting.rewrite import FUNCTIONAL, REGISTRY, Rewriter
from hatify.rewriting.root import copy_tensors
from hatify.rewriting.vectors import MASKED_VECTORS
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
        TaskError: num_tasks is no number of tasks, or num_classes does not have one entry a task.
        InputError: example inputs that do not fit or cannot be inferred.
        CaptureError: the model cannot be one graph; names the submodule and the line.
        ConversionError: `heads` or `num_classes` do not fit the model.
    """
    _check_tasks(num_tasks, num_classes)
    if not isinstance(model, nn.Module):
        raise ConversionError(f"hatify converts a torch.nn.Module, got {type(model).__name__}")
    if isinstance(model, HATModule):
        raise ConversionError("the model is converted already: model.add_tasks(n) makes room for more tasks")
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise ConversionError(
                f"{repr(name) if name else 'the model'} is a ScriptModule, which has no Python code to capture; "
                "use the module that it was made from"
            )
    if isinstance(heads, str):
        raise ConversionError(f"heads takes a sequence of module paths: [{heads!r}], not {heads!r}")
    _check_names(model)
    config = config or HATConfig()
    captured = capture(model, example_arguments(model, example_inputs))
    plan = analyse(captured.graph, load_rules(), heads)
    _warn_of_state(plan, captured)
    net = build(model, captured, plan, num_tasks, config, num_classes)
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
    views = {name: torch.from_numpy(positions.copy()) for name, positions in rewriter.views.items()}
    groups = [(group.name, group.num_features, group.members) for group in plan.groups]
    lock_rules = {
        name: tuple(tuple(torch.from_numpy(p.copy()) for p in term) for term in rule.terms)
        for name, rule in plan.locks.items()
    }
    registry = MaskRegistry(groups, views, lock_rules, num_tasks, config.init)
    root.registry = registry
    _match_device(registry, root)
    for layer in hat_layers(root):
        for _ in range(num_tasks):
            layer.add_task()
    if num_classes is not None:
        resize_heads(rewriter.heads, num_classes)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    indexed = frozenset(name for name in plan.per_task if name in parameters)
    heads = tuple(dict.fromkeys(head.path for head in rewriter.heads))
    blueprint = Blueprint(
        captured.signature,
        config,
        indexed,
        heads,
        dict(plan.unknown),
        plan.unfollowed,
        unread,
        initialization(model),
    )
    return HATModule(root, captured.graph, blueprint)


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


def _check_tasks(num_tasks: object, num_classes: Sequence[int] | None) -> None:
    if isinstance(num_tasks, bool) or not isinstance(num_tasks, int) or num_tasks < 1:
        raise TaskError(f"num_tasks must be an integer of at least 1, got {num_tasks!r}")
    if num_classes is None:
        return
    if isinstance(num_classes, int) or len(num_classes) != num_tasks:
        raise TaskError(f"num_classes takes one number a task: {num_tasks} of them, got {num_classes!r}")
    if any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in num_classes):
        raise TaskError(f"num_classes takes numbers of classes of at least 1, got {num_classes!r}")


def _check_names(model: nn.Module) -> None:
    """A model's names live on in the converted network, beside those of its methods."""
    held = [*dict(model.named_modules()), *(name for name, _ in model.named_parameters())]
    held += [name for name, _ in model.named_buffers()]
    network = (set(dir(HATModule)) - set(dir(nn.Module))) | {REGISTRY, MASKED_VECTORS, FUNCTIONAL}
    network |= {"blueprint", "task_id", "mask_scale"}
    layer = (set(dir(HATLayer())) - set(dir(nn.Module()))) - {""}
    for name in held:
        first, *rest = name.split(".")
        taken = first if first in network else next((part for part in rest if part in layer), None)
        if taken:
            raise ConversionError(
                f"the model's {name!r} is called {taken!r}, which the converted network uses: rename it"
            )
    arguments = {"task_id", "mask_scale"} & set(inspect.signature(model.forward).parameters)
    if arguments:
        raise ConversionError(f"forward takes {arguments.pop()!r}, which the converted network takes too: rename it")


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
