"""Needs: which entries of a weight the locked tasks depend on, use by use."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch.fx import Graph, Node

from hatify.analysis.call import Rules
from hatify.analysis.coverage import Coverage
from hatify.analysis.dependence import Dependence
from hatify.analysis.effect import Argument, Factor, Use
from hatify.analysis.groups import Features, Positions
from hatify.analysis.nodes import is_selection, locations
from hatify.analysis.supports import Inference
from hatify.capture.calls import is_tensor

Entries = npt.NDArray[np.bool_]  # broadcastable to a parameter

# A weight that is used with more different rows of input features than this counts its input as live.
MOST_ROWS = 64


@dataclass(frozen=True)
class Need:
    """One use of a weight: an entry is needed where the features of *every* factor are taken.

    factors: feature positions, broadcastable to the weight; none of them: every entry is needed.
    mixed: further factors, if the weight is gated by them: its entries are mixed with those of other features.
    own: further factors that the weight is gated by in any case, as its rule asks.
    """

    factors: tuple[Positions, ...]
    mixed: tuple[Positions, ...] = ()
    own: tuple[Positions, ...] = ()


def find_needs(
    graph: Graph, rules: Rules, inference: Inference, coverage: Coverage, features: Features
) -> dict[Node, list[Need]]:
    """The needs of every weight, from its uses back to the parameters that it is computed from."""
    needs: dict[Node, list[Need]] = {}
    for node in reversed(graph.nodes):
        if node in inference.weights and is_tensor(node):
            needs[node] = _distinct(_needs_of(node, needs, rules, inference, coverage, features))
    return dict(reversed(needs.items()))


def own_masks(needs: Iterable[Need]) -> tuple[Positions, ...]:
    """The masks that the rules ask for on a weight itself."""
    return tuple({_key(p): p for need in needs for p in need.own}.values())


def masks_for(needs: Iterable[Need], features: Features) -> tuple[Positions, ...]:
    """The masks that a parameter must be gated by for what is computed from it.

    They are those of factors that are mixed on the way, or that not every use of the same entries has.
    """
    pieces: dict[tuple[object, ...], list[Need]] = {}
    for need in needs:
        pieces.setdefault(tuple(map(_key, _reached(need, features))), []).append(need)
    common = {piece: set.intersection(*({_key(p) for p in n.factors} for n in own)) for piece, own in pieces.items()}
    entries = {piece: _reached(own[0], features) for piece, own in pieces.items()}
    masks: list[Positions] = []
    for piece, own in pieces.items():
        reached = entries[piece]
        meeting = [common[other] for other in pieces if _meet(reached, entries[other])]
        for need in own:
            gating = [*need.mixed, *(p for p in need.factors if not all(_key(p) in keys for keys in meeting))]
            masks += [_masked_where(reached, p, features) for p in gating]
    return tuple({_key(mask): mask for mask in masks if not _is_live(mask, features)}.values())


def _reached(need: Need, features: Features) -> list[Entries]:
    """The entries that reach a use: those in all of these. Where one does not, a factor has the position zero."""
    found = {_key(reached): reached for p in need.factors if not (reached := p != features.zero).all()}
    return [found[key] for key in sorted(found)]


def _meet(one: Iterable[Entries], other: Iterable[Entries]) -> bool:
    """Whether any entry reaches both of two uses, as far as one of each tells."""
    return all((a & b).any() for a in one for b in other)


def _masked_where(reached: Iterable[Entries], positions: Positions, features: Features) -> Positions:
    """Positions that mask none of the other entries: these may reach other uses."""
    for entries in (positions != features.zero, *reached):
        positions = np.where(entries, positions, features.live)
    return positions


def _needs_of(
    node: Node,
    needs: dict[Node, list[Need]],
    rules: Rules,
    inference: Inference,
    coverage: Coverage,
    features: Features,
) -> Iterator[Need]:
    for user in node.users:
        if user in inference.weights:
            for result in _results(user):
                dependence = Dependence(result, node, inference, rules)
                yield from (_carried_back(need, dependence, features) for need in needs.get(result, ()))
        else:
            for use in _uses(node, user, inference):
                yield from _terms(use, coverage, features)


def _results(call: Node) -> Iterable[Node]:
    """The tensors that a call gives: itself, or what is picked from it."""
    return (call,) if is_tensor(call) else tuple(user for user in call.users if is_selection(user))


def _carried_back(need: Need, dependence: Dependence, features: Features) -> Need:
    """A need of a result as a need of the operand; what cannot be carried back is dropped, which locks more."""
    factors: list[Positions] = []
    mixed: list[Positions] = []
    for known, positions in [*((False, p) for p in need.factors), *((True, p) for p in need.mixed)]:
        found = dependence.carry_back(positions, features.zero)
        if found is not None and not _is_live(found.positions, features):
            (mixed if known or found.mixed else factors).append(found.positions)
    return Need(tuple(factors), tuple(mixed))


def _uses(weight: Node, user: Node, inference: Inference) -> Iterator[Use]:
    """How a call uses a weight: as its rule says or, where no rule does, entry by entry."""
    effect = inference.effects.get(user)
    for argument, value in locations(user):
        if value is not weight or (effect is not None and argument in effect.per_task):
            continue
        declared = [use for use in effect.uses if use.argument == argument] if effect else []
        yield from declared or [_entry_by_entry(weight, argument, inference)]


def _entry_by_entry(weight: Node, argument: Argument, inference: Inference) -> Use:
    if weight not in inference.supports:
        return Use(argument)
    return Use(argument, (Factor(inference.supports[weight], "output", weight),))


def _terms(use: Use, coverage: Coverage, features: Features) -> Iterable[Need]:
    """The use over positions: one need for each different row of features that it is used with.

    Beside features that are read, what is written stands first even where it is every task's: so it can be told.
    """
    terms: list[tuple[Positions, ...]] = [()]
    own = () if use.mask is None else (features.positions(use.mask),)
    for factor in use.factors:
        rows = _rows(features.positions(factor.ids), factor)
        if not _holds(factor, coverage) or len(rows) > MOST_ROWS or any(_is_live(row, features) for row in rows):
            if factor.side != "output":
                continue
            rows = [np.full_like(rows[0], features.live)]
        terms = [(*term, row) for term in terms for row in rows]
    return [Need(() if all(_is_live(p, features) for p in term) else term, own=own) for term in terms]


def _holds(factor: Factor, coverage: Coverage) -> bool:
    if factor.side == "always":
        return True
    return factor.node in (coverage.certain if factor.side == "input" else coverage.covered)


def _rows(positions: Positions, factor: Factor) -> list[Positions]:
    """The different rows of a factor."""
    tail = positions.shape[factor.rows :]
    return list({row.tobytes(): row for row in positions.reshape(-1, *tail)}.values())


def _is_live(positions: Positions, features: Features) -> bool:
    return bool((positions == features.live).all())


def _distinct(needs: Iterable[Need]) -> list[Need]:
    """Each need once: several paths through a computation often end in the same."""
    found = {tuple(tuple(map(_key, p)) for p in (n.factors, n.mixed, n.own)): n for n in needs}
    return list(found.values())


def _key(positions: Positions | Entries) -> tuple[tuple[int, ...], bytes]:
    return positions.shape, positions.tobytes()
