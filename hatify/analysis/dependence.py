"""Weights that are computed: what is known of a result's entries, carried back to the entries of an operand.

What an operator does to entries, its rule tells: give the operand's entries along a dimension a feature each, and
look where the rule says that these features lie in the result.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.fx import Node

from hatify.analysis.application import apply_rule, live_like
from hatify.analysis.call import Call, Rules
from hatify.analysis.effect import Effect
from hatify.analysis.groups import Positions
from hatify.analysis.nodes import is_selection
from hatify.analysis.sizes import shape_of
from hatify.analysis.support import FIRST_VARIABLE, Support, varies
from hatify.analysis.supports import Inference
from hatify.analysis.variables import Variables

# An operand larger than this is looked at dimension by dimension only, not entry by entry.
LARGEST_LABELLED_OPERAND = 1 << 20


@dataclass(frozen=True)
class CarriedBack:
    """Positions of features, broadcastable to the operand. `mixed`: the operator mixes entries of different features,
    so an entry reaches results of other features too, unless it is zero.
    """

    positions: Positions
    mixed: bool


@dataclass(frozen=True)
class _Labelled:
    """Where a rule puts the labels of an operand's entries: `labels` over the operand, `result` over the result."""

    labels: Support
    result: Support
    mixed: bool


class Dependence:
    """How one operand of a call reaches one result of it, dimension by dimension.

    selection: the call, or where it has several results the node that picks one of them.
    """

    def __init__(self, selection: Node, operand: Node, inference: Inference, rules: Rules) -> None:
        self._selection, self._operand = selection, operand
        self._inference, self._rules = inference, rules
        self._shape = shape_of(operand.meta["val"])
        self._known: dict[tuple[int, ...], _Labelled | None] = {}

    def carry_back(self, positions: Positions, never: int) -> CarriedBack | None:
        """Positions over the result as positions over the operand; None where an entry has not just one.

        never: the position of entries that do not reach the result.
        """
        for dimensions in self._choices():
            labelled = self._label(dimensions)
            found = _match(labelled, positions, never) if labelled is not None else None
            if found is not None:
                return found
        return None

    def _choices(self) -> Iterator[tuple[int, ...]]:
        """The dimensions to label: each by itself, then all of them that the rule carries."""
        structured = [d for d, size in enumerate(self._shape) if size > 1]
        yield from ((d,) for d in structured)
        carried = tuple(d for d in structured if self._label((d,)) is not None)
        if len(carried) > 1 and np.prod([self._shape[d] for d in carried]) <= LARGEST_LABELLED_OPERAND:
            yield carried

    def _label(self, dimensions: tuple[int, ...]) -> _Labelled | None:
        if dimensions not in self._known:
            self._known[dimensions] = self._ask(dimensions)
        return self._known[dimensions]

    def _ask(self, dimensions: tuple[int, ...]) -> _Labelled | None:
        """Label the operand's entries along some dimensions and apply the rule.

        A pointwise operator needs none: an entry reaches those in its place, even of a quotient whose divisor it is.
        """
        variables = Variables()
        shape = [size if d in dimensions else 1 for d, size in enumerate(self._shape)]
        labels = variables.fresh(int(np.prod(shape)), self._operand).reshape(shape)
        call = self._selection.args[0] if is_selection(self._selection) else self._selection
        assert isinstance(call, Node)
        if torch.Tag.pointwise in getattr(call.target, "tags", ()):
            missing = call.meta["val"].dim() - labels.ndim
            return _Labelled(labels, labels.reshape((1,) * missing + labels.shape), mixed=False)
        supports = {node: live_like(node) for node in call.all_input_nodes} | {self._operand: labels}
        effect = apply_rule(Call(call, supports, variables, self._inference.weights), self._rules)
        result = effect.result
        if isinstance(result, tuple):
            index = self._selection.args[1]
            assert isinstance(index, int)
            result = result[index]
        result = variables.resolve(result)
        if not np.isin(np.unique(variables.find(labels)), result).any():
            return None
        return _Labelled(variables.find(labels), result, _mixes(effect, self._operand))


def _mixes(effect: Effect, operand: Node) -> bool:
    """Whether entries of different features meet, by the rule's own account."""
    passes = operand in effect.flows or operand in effect.factors
    return not passes or operand in effect.reads or operand in effect.pairs


def _match(labelled: _Labelled, positions: Positions, never: int) -> CarriedBack | None:
    """Read the positions off where the labels lie; None if entries with one label have several."""
    result = labelled.result
    if positions.ndim != result.ndim or any(varies(positions, d) > varies(result, d) for d in range(result.ndim)):
        return None
    label, position = (a.ravel() for a in np.broadcast_arrays(result, positions))
    pairs = np.unique(np.stack([label, position])[:, label >= FIRST_VARIABLE], axis=1)
    reached = np.unique(pairs[0])
    if len(reached) < pairs.shape[1] or (labelled.mixed and len(reached) < len(np.unique(labelled.labels))):
        return None
    found = np.full(int(labelled.labels.max()) + 1, never, dtype=np.int64)
    found[pairs[0]] = pairs[1]
    return CarriedBack(found[labelled.labels], labelled.mixed)
