"""Feature variables and their coupling.

Every feature that a weighted operator writes is a variable; features that must live and die together (the two
sides of a residual add) are coupled, by union-find. A raw parameter's entries are *floating* variables: they adopt
the identity of the first feature they are combined with, or become LIVE.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from networkx.utils import UnionFind
from torch.fx import Node

from hatify.analysis.support import FIRST_VARIABLE, LIVE, ZERO, Support, broadcast, compress

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Space:
    """The features that one node writes: the variables `start ... start + size - 1`."""

    node: Node
    start: int
    size: int


@dataclass(frozen=True)
class Combination:
    """What an elementwise operator makes of two supports.

    `carries`: for each operand, whether the result's features are also its features.
    `exact`: no feature is combined with a live entry, so a sum is zero where both operands are.
    """

    support: Support
    carries: tuple[bool, bool]
    exact: bool

    @property
    def is_coupled(self) -> bool:
        """Whether both operands have the result's features, and it is zero where they are."""
        return self.carries == (True, True) and self.exact


class Variables:
    """A union-find over feature variables; LIVE and ZERO are its first two elements."""

    def __init__(self) -> None:
        self._count = FIRST_VARIABLE
        self._parent: Ids = np.arange(FIRST_VARIABLE, dtype=np.int64)  # longer than `_count`, to grow by doubling
        self._floating = np.zeros(FIRST_VARIABLE, dtype=bool)
        self.spaces: list[Space] = []

    def fresh(self, size: int, node: Node) -> Ids:
        """New variables for the features that `node` writes.

        A single feature stays LIVE: masking it would switch the whole layer off.
        """
        if size < 2:
            return np.full(size, LIVE, dtype=np.int64)
        ids = self._allocate(size, floating=False)
        self.spaces.append(Space(node, int(ids[0]), size))
        return ids

    def floating(self, shape: tuple[int, ...]) -> Support:
        """New floating variables, one for each entry of a raw parameter."""
        return self._allocate(int(np.prod(shape, dtype=np.int64)), floating=True).reshape(shape)

    def _allocate(self, size: int, floating: bool) -> Ids:
        start, self._count = self._count, self._count + size
        if self._count > len(self._parent):
            parent, was_floating = self._parent, self._floating
            self._parent = np.arange(2 * self._count, dtype=np.int64)
            self._floating = np.zeros(2 * self._count, dtype=bool)
            self._parent[:start], self._floating[:start] = parent[:start], was_floating[:start]
        self._floating[start : self._count] = floating
        return np.arange(start, self._count, dtype=np.int64)

    def find(self, ids: Ids) -> Ids:
        """The representative of each variable."""
        roots = self._parent[ids]
        while not np.array_equal(parents := self._parent[roots], roots):
            roots = parents
        return np.asarray(roots)  # indexing with an array of no dimensions gives a number

    def resolve(self, support: Support) -> Support:
        """A support in terms of representatives; what is still floating is LIVE."""
        roots = self.find(support)
        return compress(np.where(self._floating[roots], LIVE, roots))

    def is_real(self, ids: Ids) -> npt.NDArray[np.bool_]:
        """Where `ids` are features that a mask can gate (not LIVE, ZERO or floating)."""
        roots = self.find(ids)
        return (roots >= FIRST_VARIABLE) & ~self._floating[roots]

    def has_features(self, support: Support) -> bool:
        return bool(self.is_real(support).any())

    def is_part(self, support: Support) -> bool:
        """Whether a node writes features of which the support has some, but not all."""
        own = np.unique(self.find(support))
        written = (np.unique(self.find(np.arange(space.start, space.start + space.size))) for space in self.spaces)
        return any(0 < np.isin(features, own).sum() < len(features) for features in written)

    def combine(self, left: Support, right: Support) -> Combination:
        """Combine two supports elementwise: couple features, let floating entries adopt.

        Where coupling would identify different features of one operand (a broadcast along a structured
        dimension, a shifted copy), the operands stay uncoupled and the result keeps the finer one.
        """
        left, right = broadcast([self.find(left), self.find(right)])
        if self._shares_floats(left, right):
            self._settle(right)
        if self._shares_floats(right, left):
            self._settle(left)
        left, right = self.find(left), self.find(right)
        if self.has_features(right) and (not self.has_features(left) or _is_coarser(left, right)):
            combination = self._combine_onto(right, left)
            return replace(combination, carries=combination.carries[::-1])
        return self._combine_onto(left, right)

    def _combine_onto(self, left: Support, right: Support) -> Combination:
        """`combine`, where the result keeps the left operand's features if they cannot be coupled."""
        if (left == LIVE).all():
            return self._combine_with_live(right)
        if (right == LIVE).all():
            return self._combine_with_live(left)
        a, b = _pairs(left, right)
        both = self.is_real(a) & self.is_real(b) & (a != b)
        if both.any() and not self._couple(a[both], b[both]):
            return Combination(compress(left), carries=(True, False), exact=False)
        self._adopt(a, b)
        a, b = self.find(left), self.find(right)
        real_a, real_b = self.is_real(a), self.is_real(b)
        exact = not ((real_a & (b == LIVE)) | (real_b & (a == LIVE))).any()
        rest = np.where((a == ZERO) & (b == ZERO), ZERO, LIVE)
        ids = np.where(a >= FIRST_VARIABLE, a, np.where(b >= FIRST_VARIABLE, b, rest))
        return Combination(compress(ids), carries=(True, True), exact=exact)

    def _combine_with_live(self, support: Support) -> Combination:
        """`_combine_onto`, with an operand of which nothing is known; such are many, and large (attention biases)."""
        self._settle(support)
        ids = self.find(support)
        features = ids >= FIRST_VARIABLE
        return Combination(compress(np.where(features, ids, LIVE)), (True, True), exact=not features.any())

    def release(self, support: Support) -> None:
        """Make the features of a support LIVE, so that no mask ever makes them zero."""
        roots = self.find(support)
        self._parent[roots[roots >= FIRST_VARIABLE]] = LIVE

    def blend(self, support: Support, dimensions: Sequence[int]) -> Support:
        """A support whose entries an operator mixes along some dimensions (a resized positional embedding).

        Floating entries that are mixed become one; where features differ along a dimension it stays as it is.
        """
        for dimension in dimensions:
            ids = self.find(support)
            first = np.broadcast_to(np.take(ids, [0], axis=dimension), ids.shape)
            if self._floating[ids].all():
                entries, firsts = _pairs(ids, first)
                if len(np.unique(entries)) < len(entries):
                    self._settle(ids)  # an entry that stands in several places
                else:
                    self._parent[entries] = firsts
        return compress(self.find(support))

    def _shares_floats(self, one: Support, other: Support) -> bool:
        """Whether a floating entry of `other` meets different variables of `one`."""
        if not self._floating[other].any() or not (one >= FIRST_VARIABLE).any():
            return False
        if any(size > 1 and repeats == 1 for size, repeats in zip(one.shape, other.shape, strict=True)):
            return True
        _, met = _pairs(one, other)
        shared = met[self._floating[met]]
        return len(np.unique(shared)) < len(shared)

    def _settle(self, support: Support) -> None:
        """Make the floating entries of a support LIVE."""
        roots = self.find(support)
        self._parent[roots[self._floating[roots]]] = LIVE

    def _adopt(self, a: Ids, b: Ids) -> None:
        """Let floating entries take the identity (or the liveness) of what they are combined with."""
        for one, other in ((a, b), (b, a)):
            one, other = self.find(one), self.find(other)
            adopts = self._floating[one] & ~self._floating[other] & (other != ZERO)
            self._parent[one[adopts]] = other[adopts]
        one, other = self.find(a), self.find(b)
        both = self._floating[one] & self._floating[other]
        # always the later one the earlier: in `w + w.t()` each of two entries meets the other
        self._parent[np.maximum(one, other)[both]] = np.minimum(one, other)[both]

    def _couple(self, a: Ids, b: Ids) -> bool:
        """Couple the features `a[i]` and `b[i]`; False, and nothing changed, if less than half of them are left."""
        distinct = max(len(np.unique(a)), len(np.unique(b)))
        if len(np.unique(a)) == len(a) == len(np.unique(b)) and not np.isin(a, b).any():
            self._parent[np.maximum(a, b)] = np.minimum(a, b)
            return True
        chains: UnionFind[int] = UnionFind()
        for left, right in zip(a.tolist(), b.tolist(), strict=True):
            chains.union(left, right)
        coupled = [sorted(chain) for chain in chains.to_sets()]
        if 2 * len(coupled) < distinct:
            return False
        for chain in coupled:
            self._parent[chain] = chain[0]
        return True


def _pairs(left: Support, right: Support) -> tuple[Ids, Ids]:
    """The different pairs of variables that meet when two supports are broadcast."""
    a, b = (x.ravel() for x in np.broadcast_arrays(left, right))
    base = int(b.max(initial=0)) + 1  # a pair as one number: sorting those is many times faster
    met = np.unique(a * base + b)
    return met // base, met % base


def _is_coarser(left: Support, right: Support) -> bool:
    """Whether `left` has structure along fewer dimensions, all of them also `right`'s."""
    return left.size < right.size and all(
        one == 1 or other > 1 for one, other in zip(left.shape, right.shape, strict=True)
    )
