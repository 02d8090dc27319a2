"""An operator call as a rule sees it: arguments by their schema names, shapes, and supports."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch.fx import Node

from hatify.analysis.effect import Effect
from hatify.analysis.nodes import arguments_of, gives_tensors
from hatify.analysis.sizes import shape_of
from hatify.analysis.support import Support, live
from hatify.analysis.variables import Variables

Rule: TypeAlias = "Callable[[Call], Effect]"
Rules: TypeAlias = Mapping[Any, Rule]


class Call:
    """One `call_function` node, for a rule.

    `call["weight"]` is the argument of that name (its default where the call leaves it out); `call.support(node)`
    the support of an operand; `call.shape(node)` its shape; `call.fresh(n)` n new features written by this call.
    """

    def __init__(
        self, node: Node, supports: Mapping[Node, Any], variables: Variables, weights: Collection[Node]
    ) -> None:
        self.node = node
        self.variables = variables
        self._supports = supports
        self._weights = weights
        self._arguments = arguments_of(node)

    def __getitem__(self, name: str) -> Any:
        return self._arguments.get(name)

    def __contains__(self, name: str) -> bool:
        return name in self._arguments

    @property
    def operands(self) -> tuple[Node, ...]:
        """The tensor operands, in order, each once."""
        return tuple(n for n in self.node.all_input_nodes if gives_tensors(n))

    @property
    def results(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of the results."""
        value = self.node.meta.get("val")
        values = value if isinstance(value, tuple | list) else [value]
        return tuple(shape_of(v) if isinstance(v, torch.Tensor) else () for v in values)

    @property
    def result_shape(self) -> tuple[int, ...]:
        """The shape of the result, of several that of the first."""
        return self.results[0]

    def shape(self, node: Node) -> tuple[int, ...]:
        """The shape of an operand; a dynamic dimension has its size in the example inputs."""
        return shape_of(node.meta["val"])

    def support(self, node: Node) -> Support:
        """The support of an operand: the feature of each entry, as an array broadcastable to it."""
        support = self._supports[node]
        assert isinstance(support, np.ndarray), f"{node} returns several tensors"
        return self.variables.find(support)

    def supports(self, node: Node) -> tuple[Support, ...]:
        """The supports of a node that returns several tensors."""
        support = self._supports[node]
        return tuple(self.variables.find(s) for s in support)

    def fresh(self, size: int) -> npt.NDArray[np.int64]:
        """New features [size], written by this call."""
        return self.variables.fresh(size, self.node)

    def has_features(self, node: Node) -> bool:
        """Whether a mask can gate any entry of a tensor; none of one that no rule has asked for yet."""
        return node in self._supports and self.variables.has_features(self.support(node))

    def is_weight(self, node: object) -> bool:
        """Whether a tensor is a parameter, or computed from parameters alone."""
        return node in self._weights

    def dimension(self, name: str, node: Node) -> int:
        """An argument that names a dimension, counted from the front."""
        return int(self[name]) % max(len(self.shape(node)), 1)

    def live(self, **parts: Any) -> Effect:
        """Nothing is known of the results."""
        value = self.node.meta.get("val")
        several = isinstance(value, tuple | list)
        supports = tuple(live(len(shape)) for shape in self.results)
        return Effect(supports if several else supports[0], **parts)
