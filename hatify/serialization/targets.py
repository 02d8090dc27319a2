"""What a graph calls, by name: operators, and the few functions that capture and rewriting put in. A graph that comes
from a file can call nothing else."""

from __future__ import annotations

import importlib
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch._ops import HigherOrderOperator, OpOverload, OpOverloadPacket

from hatify.capture.calls import VMAP, switch_autocast_back, switch_autocast_off
from hatify.capture.modes import when_training
from hatify.errors import FileError
from hatify.rewriting.layers import for_each_example, gate, read

Target = Callable[..., Any]

HIGHER_ORDER = "higher_order"
FUNCTIONS: dict[str, Target] = {
    f"{function.__module__.lstrip('_')}.{function.__name__}": function
    for function in (
        *(gate, for_each_example, read, when_training, switch_autocast_off, switch_autocast_back),
        *(getattr, operator.getitem, operator.add, operator.sub, operator.mul, operator.floordiv, operator.truediv),
        *(operator.mod, operator.neg, operator.pow, operator.eq, operator.ne, operator.lt, operator.le, operator.gt),
        *(operator.ge, operator.and_, operator.or_, operator.not_),
        *(torch.sym_float, torch.sym_int, torch.sym_ite, torch.sym_max, torch.sym_min, torch.sym_not),
    )
}

# Operators that reach beyond the network, to other processes or to an interpreter; those that name files do, too.
FORBIDDEN_NAMESPACES = {"prim", "profiler", "c10d", "dist_autograd", "rpc", "image", "video_reader"}
FILE_NAMES = ("file", "path")


def name_of(target: Target) -> str:
    """The name of what a graph calls.

    Raises:
        FileError: something that is neither an operator nor one of `FUNCTIONS`.
    """
    if isinstance(target, OpOverload):
        return str(target)
    if isinstance(target, HigherOrderOperator):
        return f"{HIGHER_ORDER}.{target.name()}"
    if getattr(target, "__module__", "") == VMAP:
        return f"{VMAP}.{target.__name__}"
    name = next((name for name, function in FUNCTIONS.items() if function is target), None)
    if name is None:
        raise FileError(f"the graph calls {target!r}, which has no name that a file could keep")
    return name


def target_of(name: str) -> Target:
    """What has this name.

    Raises:
        FileError: an operator that does not exist here, or that no network calls.
    """
    if name in FUNCTIONS:
        return FUNCTIONS[name]
    path, _, last = name.rpartition(".")
    found: Any = None
    if path == VMAP:
        found = getattr(importlib.import_module(VMAP), last, None)
        found = found if getattr(found, "__module__", "") == VMAP else None
    elif path == HIGHER_ORDER:
        found = getattr(torch.ops.higher_order, last, None)
    elif name.count(".") == 2:
        found = _operator(*name.split("."))
    if found is None:
        raise FileError(f"the graph calls {name!r}, which does not exist here: import the package that defines it")
    target: Target = found
    return target


def _operator(namespace: str, name: str, overload: str) -> OpOverload | None:
    packet = getattr(getattr(torch.ops, namespace), name, None)
    found = getattr(packet, overload, None) if isinstance(packet, OpOverloadPacket) else None
    if not isinstance(found, OpOverload):
        return None
    if found.namespace in FORBIDDEN_NAMESPACES or _names_a_file(found):
        raise FileError(f"the graph calls {str(found)!r}, which no network does: do not trust this file")
    return found


def _names_a_file(operator: OpOverload) -> bool:
    arguments = [argument.name for argument in operator._schema.arguments if "str" in str(argument.type)]
    return any(name in argument for argument in arguments for name in FILE_NAMES)
