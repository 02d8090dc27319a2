"""The table of rules, by operator."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Any

import torch
from torch._ops import OpOverloadPacket

from hatify.analysis.call import Rule

ENTRY_POINT_GROUP = "hatify.rewriters"

_REGISTERED: list[tuple[Any, Rule]] = []  # operators, or names of them, in the order in which their rules are tried


def rewriter(*operators: Any) -> Callable[[Rule], Rule]:
    """Register the decorated rule for operators.

    operators: `torch.ops.my.op` (with all its overloads and, in ATen, its in-place twin `op_`), one overload of
        it such as `torch.ops.aten.add.Tensor`, or any other function that a captured graph calls. The name
        "my::op" stands for an operator of a package that need not be imported yet, or installed.

    A later registration replaces an earlier one, and a user's rule wins over the library's.
    """

    def register(rule: Rule) -> Rule:
        _REGISTERED.extend((operator, rule) for operator in operators)
        return rule

    return register


def load_rules() -> dict[Any, Rule]:
    """All rules: the library's, those of the entry-point group, and those registered in this process."""
    _register_all()
    return {overload: rule for operator, rule in _REGISTERED for overload in _overloads(operator)}


@functools.cache
def _register_all() -> None:
    """Put the library's rules, and those of packages, before what a user has registered until now, which wins."""
    registered = _REGISTERED.copy()
    _REGISTERED.clear()
    package = importlib.import_module("rewriters")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"rewriters.{module.name}")
    for entry_point in entry_points(group=ENTRY_POINT_GROUP):
        entry_point.load()
    _REGISTERED.extend(registered)
    _REGISTERED.sort(key=lambda each: not _is_the_librarys(each[1]))  # otherwise the order stays


def _is_the_librarys(rule: Rule) -> bool:
    return str(getattr(rule, "__module__", "")).startswith("rewriters.")


def _overloads(operator: Any) -> Iterator[Any]:
    if isinstance(operator, str):
        operator = _named(operator)
    if not isinstance(operator, OpOverloadPacket):
        yield from () if operator is None else (operator,)
        return
    for packet in (operator, _in_place_twin(operator)):
        if packet is not None:
            yield from (getattr(packet, name) for name in packet.overloads())


def _named(name: str) -> Any:
    """The operator of that name; None where the package that brings it along is not imported."""
    namespace, _, operator = name.partition("::")
    return getattr(getattr(torch.ops, namespace), operator, None)


def _in_place_twin(packet: OpOverloadPacket) -> OpOverloadPacket | None:
    namespace, _, name = packet._qualified_op_name.partition("::")
    twin = getattr(getattr(torch.ops, namespace), f"{name}_", None) if namespace == "aten" else None
    return twin if isinstance(twin, OpOverloadPacket) else None
