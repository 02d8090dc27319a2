"""Calls that capture puts into a graph, with the values that tracing would have recorded for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._ops import OpOverload
from torch.amp.autocast_mode import _enter_autocast as enter_autocast
from torch.amp.autocast_mode import _exit_autocast as exit_autocast
from torch.fx import Graph, Node
from torch.fx.node import map_arg

VMAP = "torch._functorch.predispatch"  # the module of what `torch.vmap` puts into a graph


def call(graph: Graph, target: Callable[..., Any], *args: Any, like: Node, **kwargs: Any) -> Node:
    """A call at the graph's point of insertion. like: the node whose module the call belongs to."""
    node = graph.call_function(target, args, kwargs)
    node.meta = {key: value for key, value in like.meta.items() if key in ("module_path", "stack_trace")}
    node.meta["val"] = value_of(node)
    return node


def value_of(node: Node) -> Any:
    """The fake value of a call, computed from those of its arguments."""
    args, kwargs = map_arg((node.args, node.kwargs), lambda argument: argument.meta["val"])
    with torch.no_grad():
        return node.target(*args, **kwargs)  # type: ignore[operator]


def is_tensor(node: Any) -> bool:
    """Whether a node's result is one tensor."""
    return isinstance(node, Node) and isinstance(node.meta.get("val"), torch.Tensor)


def switch_autocast_off(device_type: str, dtype: torch.dtype, enabled: bool, cache_enabled: bool) -> str | None:
    """Begin a block with autocast off, where it is on; what ends it. The arguments are those of `_enter_autocast`.

    Unlike that, it opens no level: an error inside would leave it open, and casts that autocast has stored would never
    be forgotten.
    """
    if not torch.is_autocast_enabled(device_type):
        return None
    torch.set_autocast_enabled(device_type, False)
    return device_type


def switch_autocast_back(device_type: str | None) -> None:
    """End a block with autocast off. device_type: what its beginning gave."""
    if device_type is not None:
        torch.set_autocast_enabled(device_type, True)


# What stands at the ends of a block, and what PyTorch itself has for it.
WITHOUT_AUTOCAST: dict[Any, Any] = {switch_autocast_off: enter_autocast, switch_autocast_back: exit_autocast}


def is_level(node: Node) -> bool:
    """Whether a call opens or closes a level of `torch.vmap`, or a block without autocast."""
    is_of_vmap = getattr(node.target, "__module__", "") == VMAP
    return is_of_vmap or node.target in WITHOUT_AUTOCAST or node.target in WITHOUT_AUTOCAST.values()


def given_arguments(node: Node) -> dict[str, Any]:
    """The arguments of a call by name, without those left at their defaults."""
    assert isinstance(node.target, OpOverload)
    names = [argument.name for argument in node.target._schema.arguments]
    return dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
