"""All that a converted network is, as data, and the network again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule

from hatify.blueprint import Blueprint
from hatify.capture.opaque import OpaqueLeaf
from hatify.masks.positions import PositionHolder
from hatify.masks.registry import MaskRegistry
from hatify.rewriting.layers import HATLayer
from hatify.rewriting.rewrite import REGISTRY
from hatify.rewriting.root import layer_at, owner_of
from hatify.rewriting.vectors import MASKED_VECTORS
from hatify.serialization.graphs import graph_apart, graph_together
from hatify.serialization.values import decoded, encoded

__all__ = ["Contents", "Parts", "apart", "together"]


@dataclass(frozen=True)
class Contents:
    """header: JSON. tensors: each tensor once, by one of its names. leaves: submodules that are called as they are."""

    header: dict[str, Any]
    tensors: dict[str, Tensor]
    leaves: dict[str, OpaqueLeaf] = field(default_factory=dict)


@dataclass(frozen=True)
class Parts:
    """What a network is made of. task_id: the one that it is set to."""

    root: nn.Module
    graph: Graph
    blueprint: Blueprint
    task_id: int | None


def apart(net: GraphModule, blueprint: Blueprint, task_id: int | None) -> Contents:
    """A network as data.

    Raises:
        FileError: a part of it that data has no form for.
    """
    modules = {path: module for path, module in net.named_modules() if path != MASKED_VECTORS}  # which the graph tells
    registry = modules[REGISTRY]
    assert isinstance(registry, MaskRegistry)
    tensors, held = _tensors_apart(net)
    leaves = {path: module for path, module in modules.items() if isinstance(module, OpaqueLeaf)}
    header = {
        "blueprint": encoded(blueprint),
        "graph": graph_apart(net.graph),
        "subgraphs": {path: graph_apart(module.graph) for path, module in modules.items() if _is_subgraph(module, net)},
        "modules": {path: _layer_apart(module) for path, module in modules.items() if _is_own(path)},
        "leaves": {path: _leaf_apart(leaf) for path, leaf in leaves.items()},
        "registry": _registry_apart(registry),
        "tensors": held,
        "task_id": task_id,
        "training": net.training,
        "other_mode": [path for path, module in modules.items() if module.training != net.training],
    }
    return Contents(header, tensors, leaves)


def together(contents: Contents) -> Parts:
    """The parts of the network.

    Raises:
        FileError: something that does not exist here.
        AttributeError, KeyError, TypeError, ValueError: `apart` never made these contents.
    """
    header = contents.header
    root = nn.Module()
    registry = root.registry = _registry_together(header["registry"], contents.tensors)
    for path, layer in header["modules"].items():
        if layer is None:
            owner_of(root, f"{path}.")
        else:
            _fill_layer(layer_at(root, path), layer, registry.num_tasks)
    _add_tensors(root, header["tensors"], contents.tensors)
    for path, leaf in contents.leaves.items():
        owner, attribute = owner_of(root, path)
        owner.add_module(attribute, leaf)
    for path in sorted(header["subgraphs"], key=len, reverse=True):  # the innermost first
        owner, attribute = owner_of(root, path)
        held = owner._modules.get(attribute) or nn.Module()
        owner.add_module(attribute, GraphModule(held, graph_together(header["subgraphs"][path], _names(held))))
    other_mode = set(header["other_mode"])
    for path, module in root.named_modules():
        module.training = header["training"] != (path in other_mode)
    graph = graph_together(header["graph"], {*_names(root), MASKED_VECTORS})
    blueprint: Blueprint = decoded(header["blueprint"])
    return Parts(root, graph, blueprint, header["task_id"])


def _is_subgraph(module: nn.Module, net: GraphModule) -> bool:
    return isinstance(module, GraphModule) and module is not net


def _names(root: nn.Module) -> set[str]:
    """What a graph may use."""
    named = (
        root.named_modules(),
        root.named_parameters(remove_duplicate=False),
        root.named_buffers(remove_duplicate=False),
    )
    return {"training", *(name for names in named for name, _ in names)}


# -- tensors -----------------------------------------------------------------------------------------------------


def _tensors_apart(net: nn.Module) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Each tensor once, and for every name how it is held: what it is, and whose tensor it shares."""
    first: dict[int, str] = {}
    tensors: dict[str, Tensor] = {}
    held: dict[str, Any] = {}
    for path, module in net.named_modules():
        positions = module.positions if isinstance(module, PositionHolder) else {}
        for name, tensor in [*module._parameters.items(), *module._buffers.items(), *positions.items()]:
            if tensor is None:
                continue
            full = f"{path}.{name}" if path else name
            shared = first.setdefault(id(tensor), full)
            tensors.setdefault(shared, tensor.detach())
            held[full] = [_kind(module, name, tensor), *([] if shared == full else [shared])]
    return tensors, held


def _kind(module: nn.Module, name: str, tensor: Tensor) -> str:
    if isinstance(tensor, nn.Parameter):
        return "parameter" if tensor.requires_grad else "frozen"
    persistent = name in module._buffers and name not in module._non_persistent_buffers_set
    return "buffer" if persistent else "transient"


def _add_tensors(root: nn.Module, held: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    made: dict[str, Tensor] = {}
    for name, (kind, *shared) in held.items():
        source = shared[0] if shared else name
        if source not in made:
            is_parameter = kind in ("parameter", "frozen")
            made[source] = nn.Parameter(tensors[source], kind == "parameter") if is_parameter else tensors[source]
        owner, attribute = owner_of(root, name)
        tensor = made[source]
        if isinstance(tensor, nn.Parameter) and kind in ("parameter", "frozen"):
            owner.register_parameter(attribute, tensor)
        elif isinstance(owner, PositionHolder):
            owner.positions[attribute] = tensor
        else:
            owner._buffers.pop(attribute, None)
            owner.register_buffer(attribute, tensor, persistent=kind == "buffer")


# -- modules -----------------------------------------------------------------------------------------------------


def _is_own(path: str) -> bool:
    """Whether a path is of the tree that carries the model's names: neither the network nor its registry."""
    return path.partition(".")[0] not in ("", REGISTRY)


def _layer_apart(module: nn.Module) -> list[Any] | None:
    """None: no layer, but a module that holds something."""
    return [encoded(module.calls), list(module.task_indexed), module.counter] if isinstance(module, HATLayer) else None


def _fill_layer(layer: HATLayer, data: list[Any], num_tasks: int) -> None:
    calls, task_indexed, layer.counter = data
    layer.task_indexed = tuple(task_indexed)
    layer.calls = decoded(calls)
    layer.per_task.extend(nn.Module() for _ in range(num_tasks))


def _leaf_apart(leaf: OpaqueLeaf) -> list[Any]:
    return [list(leaf.parameter_names), list(leaf.buffer_names), encoded(leaf.calls)]


def _registry_apart(registry: MaskRegistry) -> dict[str, Any]:
    return {
        "groups": [[name, size, list(members)] for name, size, members in registry.layout],
        "views": registry.views,
        "init": registry.init,
        "num_tasks": registry.num_tasks,
        "trained": registry.trained,
        "interrupted": list(registry.interrupted.items()),
        "fingerprints": list(registry.fingerprints.items()),
        "locks": registry.locks.terms,
    }


def _registry_together(data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> MaskRegistry:
    groups = [(name, size, tuple(members)) for name, size, members in data["groups"]]
    views = {name: tensors[f"{REGISTRY}.{buffer}"] for name, buffer in data["views"].items()}
    positions = {name: tensors[f"{REGISTRY}.locks.{name}"] for term in _terms(data["locks"]) for name in term}
    lock_rules = {
        name: tuple(tuple(positions[p] for p in term) for term in terms) for name, terms in data["locks"].items()
    }
    with torch.random.fork_rng(devices=[]):  # the embeddings drawn here make way for those of the file
        registry = MaskRegistry(groups, views, lock_rules, data["num_tasks"], data["init"])
    registry.trained = data["trained"]
    registry.interrupted, registry.fingerprints = dict(data["interrupted"]), dict(data["fingerprints"])
    return registry


def _terms(locks: Mapping[str, list[list[str]]]) -> Iterator[list[str]]:
    return (term for terms in locks.values() for term in terms)
