"""Lock rules: which entries of a parameter the locked tasks depend on."""

from __future__ import annotations

from dataclasses import dataclass

from torch.fx import Graph, Node

from hatify.analysis.call import Rules
from hatify.analysis.coverage import Coverage
from hatify.analysis.groups import Features, Positions
from hatify.analysis.needs import find_needs, masks_for, own_masks
from hatify.analysis.nodes import is_parameter, locations, sources_of, state_of
from hatify.analysis.supports import Inference
from hatify.errors import ConversionError


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


def find_locks(
    graph: Graph, rules: Rules, inference: Inference, coverage: Coverage, features: Features
) -> tuple[dict[str, LockRule], dict[Node, tuple[Positions, ...]]]:
    """The lock rule of each parameter in the graph, by name, and the masks that parameters must be gated by for it.

    A parameter that forward only computes with (weight norm) is followed through the computation to where the
    result is used. Where its entries are mixed on the way (by the norm), those of dead features must be zero.
    A weight that serves all features alike (over positions) is shared by its rows: those of dead ones must be zero.
    What is kept once a task has no rule.
    """
    needs = find_needs(graph, rules, inference, coverage, features)
    locks: dict[str, LockRule] = {}
    gates: dict[Node, tuple[Positions, ...]] = {}
    for node, found in needs.items():
        if not is_parameter(node) or not found:
            continue
        is_computed_with = all(user in inference.weights for user in node.users)
        masks = (*own_masks(found), *(masks_for(found, features) if is_computed_with else ()))
        is_gated = node in coverage.certain  # its dead entries are multiplied by zero, whatever becomes of that
        gated = (features.positions(inference.supports[node]),) if is_gated else ()
        locks[node.meta["name"]] = LockRule(tuple((*need.factors, *masks, *gated) for need in found))
        if masks:
            gates[node] = masks
    return locks, gates


def find_per_task(inference: Inference) -> frozenset[str]:
    """What operators want once a task (norms, heads): parameters and buffers, or those that it is computed from."""
    names: set[str] = set()
    for node, effect in inference.effects.items():
        for argument, value in locations(node):
            if argument in effect.per_task:
                sources = sources_of(value, inference.weights)
                names.update(s.meta["name"] for s in sources if s.meta.get("role") in ("parameter", "buffer"))
    return frozenset(names)


def find_state(graph: Graph) -> frozenset[str]:
    """Buffers that forward writes to: shared, they would carry one task's data into another.

    Raises:
        ConversionError: forward writes into a parameter.
    """
    names: set[str] = set()
    for node in state_of(graph):
        if is_parameter(node):
            raise ConversionError(
                f"forward writes into the parameter {node.meta['name']!r}, which trained tasks depend on; "
                "compute the new value instead of assigning it"
            )
        names.add(node.meta["name"])
    return frozenset(names)
