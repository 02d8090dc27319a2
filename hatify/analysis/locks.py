"""Lock rules: which entries of a parameter the locked tasks depend on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch.fx import Graph, Node

from hatify.analysis.call import is_parameter, locations, written
from hatify.analysis.coverage import Coverage
from hatify.analysis.effect import Factor, Use
from hatify.analysis.groups import Features
from hatify.analysis.supports import Inference
from hatify.errors import ConversionError

Positions = npt.NDArray[np.int64]

# A weight that is used with more different rows of input features than this counts its input as live.
MOST_ROWS = 64


@dataclass(frozen=True)
class LockRule:
    """`terms[i][j]` holds feature positions, broadcastable to the parameter.

    An entry is locked where, in any term (a use of the parameter), the features of all factors are taken by locked
    tasks: `OR_i AND_j c[terms[i][j]]`, for two factors `min(c_out[o], c_in[i])` of Serra et al. 2018, eq. 2.
    A term with no factors locks the parameter whole.
    """

    terms: tuple[tuple[Positions, ...], ...]

    @property
    def whole(self) -> bool:
        return any(not term for term in self.terms)


WHOLE = LockRule(((),))


def find_locks(graph: Graph, inference: Inference, coverage: Coverage, features: Features) -> dict[str, LockRule]:
    """The lock rule of each parameter in the graph, by name; what is kept once a task has none."""
    locks: dict[str, LockRule] = {}
    for node in graph.nodes:
        if not is_parameter(node):
            continue
        terms: list[tuple[Positions, ...]] = []
        for use in _uses(node, inference):
            terms += _terms(use, inference, coverage, features)
        if terms:
            locks[node.meta["name"]] = LockRule(tuple(terms))
    return locks


def find_per_task(inference: Inference) -> frozenset[str]:
    """The parameters and buffers that their operators want once a task (norms, heads)."""
    names: set[str] = set()
    for node, effect in inference.effects.items():
        for argument, value in locations(node):
            if argument in effect.per_task and isinstance(value, Node) and value.op == "get_attr":
                names.add(value.meta["name"])
    return frozenset(names)


def find_state(graph: Graph) -> frozenset[str]:
    """Buffers that forward writes to: shared, they would carry one task's data into another.

    Raises:
        ConversionError: forward writes into a parameter.
    """
    names: set[str] = set()
    for node in written(graph):
        if is_parameter(node):
            raise ConversionError(
                f"forward writes into the parameter {node.meta['name']!r}, which trained tasks depend on; "
                "compute the new value instead of assigning it"
            )
        names.add(node.meta["name"])
    return frozenset(names)


def _uses(parameter: Node, inference: Inference) -> Iterator[Use]:
    """How each user uses the parameter: as its rule says or, where no rule does, entry by entry."""
    for user in parameter.users:
        effect = inference.effects.get(user)
        for argument, value in locations(user):
            if value is not parameter or (effect is not None and argument in effect.per_task):
                continue
            declared = [use for use in effect.uses if use.argument == argument] if effect else []
            if declared:
                yield from declared
            elif parameter in inference.supports:
                yield Use(argument, (Factor(inference.supports[parameter], "output", parameter),))
            else:
                yield Use(argument)


def _terms(use: Use, inference: Inference, coverage: Coverage, features: Features) -> Iterable[tuple[Positions, ...]]:
    """The use as terms over positions: one for each different row of features that it is used with."""
    terms: list[tuple[Positions, ...]] = [()]
    for factor in use.factors:
        if not _holds(factor, coverage):
            continue
        rows = _rows(features.positions(factor.ids), factor, inference)
        if len(rows) > MOST_ROWS or any((row == features.live).all() for row in rows):
            continue
        terms = [(*term, row) for term in terms for row in rows]
    return terms


def _holds(factor: Factor, coverage: Coverage) -> bool:
    if factor.side == "always":
        return True
    return factor.node in (coverage.certain if factor.side == "input" else coverage.covered)


def _rows(positions: Positions, factor: Factor, inference: Inference) -> list[Positions]:
    if factor.rows == 0:
        return [positions]
    tail = positions.shape[factor.rows :]
    rows = np.unique(positions.reshape(-1, int(np.prod(tail))), axis=0)
    return [row.reshape(tail) for row in rows]
