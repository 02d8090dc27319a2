"""The arguments of a call, sorted into what a layer is given and what it holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.fx import Node

from hatify.analysis.effect import RESULT, Argument
from hatify.analysis.nodes import arguments_of
from hatify.analysis.plan import PlacedMask
from hatify.rewriting.calls import OperatorCall, Slot


class CallLayout:
    """How a call's arguments are laid out over a layer's operands and its own parameters.

    owner: the module whose layer takes the call; None if its parameters are operands like any other.
    masks: the masks folded into the call, as in `GatePlan`. aliases: all names of a parameter or buffer.

    call: the operator with its slots. operands: the nodes that the layer is called with, in order.
    attribute_of: the layer's attribute behind each argument that is its own.
    """

    def __init__(
        self,
        node: Node,
        owner: str | None,
        masks: Sequence[PlacedMask],
        aliases: Callable[[Node], frozenset[str]],
    ) -> None:
        self.operands: list[Node] = []
        self.attribute_of: dict[Argument, str] = {}
        self._owner, self._aliases = owner, aliases
        self._masks: dict[Argument, list[tuple[int, tuple[int, ...]]]] = {}
        for position, mask in enumerate(masks):
            for argument, shape in mask.operands.items():
                self._masks.setdefault(argument, []).append((position, shape))
        assert isinstance(node.target, torch._ops.OpOverload)
        args: list[Any] = []
        kwargs: list[tuple[str, Any]] = []
        given = arguments_of(node)
        for parameter in node.target._schema.arguments:
            if parameter.name not in given:
                continue
            value = self._lay_out(given[parameter.name], parameter.name)
            if not parameter.kwarg_only:
                args.append(value)
            elif parameter.name in node.kwargs:
                kwargs.append((parameter.name, value))
        self.call = OperatorCall(node.target, tuple(args), tuple(kwargs), self._places(RESULT))

    def _lay_out(self, value: Any, name: str) -> Any:
        if isinstance(value, list | tuple) and any(isinstance(v, Node) for v in value):
            return [self._slot(v, Argument(name, i)) for i, v in enumerate(value)]
        return self._slot(value, Argument(name))

    def _slot(self, value: Any, argument: Argument) -> Any:
        places = self._places(argument)
        if not isinstance(value, Node):
            if isinstance(value, list | tuple):
                return list(value)
            return Slot(masks=places) if places and value is None else value
        if value.op == "get_attr" and value.meta.get("role") == "flag":
            return Slot(attribute="training")
        if self._owner is not None and value.op == "get_attr":
            name = min(n for n in self._aliases(value) if n.rpartition(".")[0] == self._owner)
            attribute = name.rpartition(".")[2]
            self.attribute_of[argument] = attribute
            return Slot(attribute=attribute, masks=places)
        if value not in self.operands:
            self.operands.append(value)
        return Slot(operand=self.operands.index(value), masks=places)

    def _places(self, argument: Argument) -> tuple[tuple[int, tuple[int, ...]], ...]:
        return tuple(self._masks.get(argument, ()))
