"""The table of rules, by operator."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Any

import torch
from torch._ops import OpOverloadPacket

from hatify.analysis.call import Rule

ENTRY_POINT_GROUP = "hatify.rewriters"

_RULES: dict[Any, Rule] = {}
_NAMED: dict[str, Rule] = {}  # by the names of operators that other packages bring along


def rewriter(*operators: Any) -> Callable[[Rule], Rule]:
    """Register the decorated rule for operators.

    operators: `torch.ops.my.op` (with all its overloads and, in ATen, its in-place twin `op_`), one overload of
        it such as `torch.ops.aten.add.Tensor`, or any other function that a captured graph calls. The name
        "my::op" stands for an operator of a package that need not be imported yet, or installed.

    A later registration replaces an earlier one, so a user's rule wins over the library's.
    """

    def register(rule: Rule) -> Rule:
        for operator in operators:
            if isinstance(operator, str):
                _NAMED[operator] = rule
                continue
            _RULES.update(dict.fromkeys(_overloads(operator), rule))
        return rule

    return register


def load_rules() -> dict[Any, Rule]:
    """All rules: the library's, those of the entry-point group, and those registered in this process."""
    package = importlib.import_module("rewriters")
    own = dict(_RULES)
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"rewriters.{module.name}")
    for entry_point in entry_points(group=ENTRY_POINT_GROUP):
        entry_point.load()
    _RULES.update(own)  # what the user registered before the library's rules were first loaded still wins
    named = {overload: rule for name, rule in _NAMED.items() for overload in _overloads(_packet(name))}
    return named | _RULES


def _packet(name: str) -> Any:
    """The operator of that name; None where the package that brings it along is not imported."""
    namespace, _, operator = name.partition("::")
    return getattr(getattr(torch.ops, namespace), operator, None)


def _overloads(operator: Any) -> Iterator[Any]:
    if not isinstance(operator, OpOverloadPacket):
        yield operator
        return
    for packet in (operator, _in_place_twin(operator)):
        if packet is not None:
            yield from (getattr(packet, name) for name in packet.overloads())


def _in_place_twin(packet: OpOverloadPacket) -> OpOverloadPacket | None:
    namespace, _, name = packet._qualified_op_name.partition("::")
    twin = getattr(getattr(torch.ops, namespace), f"{name}_", None) if namespace == "aten" else None
    return twin if isinstance(twin, OpOverloadPacket) else None
