"""The tensors that a trace holds beside the model's own: train and eval mode share what is equal."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Graph

from hatify.names import numbered


def share_constants(constants: dict[str, Any], eval_graph: Graph, eval_constants: dict[str, Any]) -> None:
    """Add eval mode's constants to those of train mode: what is equal is one, and all have names of their own."""
    for node in [node for node in eval_graph.nodes if node.meta.get("role") == "constant"]:
        value = eval_constants[str(node.target)]
        own_name_first = sorted(constants, key=lambda name: name != node.target)
        equal = (name for name in own_name_first if is_equal(value, constants[name]))
        taken = {*constants, *(eval_constants.keys() - {node.target})}
        unused = (name for name in numbered(str(node.target), "_") if name not in taken)
        name = next(equal, None) or next(unused)
        constants[name] = value
        node.target = node.meta["name"] = name


def is_equal(one: Any, other: Any) -> bool:
    """Whether two tensors are alike in all that they are, or two other things one."""
    if not isinstance(one, torch.Tensor) or not isinstance(other, torch.Tensor):
        return one is other
    same_kind = (one.dtype, one.shape, one.device) == (other.dtype, other.shape, other.device)
    return one is other or (same_kind and (one.is_meta or torch.equal(one, other)))
