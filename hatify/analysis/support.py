"""Supports: for each entry of a tensor, the feature whose mask makes that entry zero.

A support is an integer array with one dimension a tensor dimension. A dimension that carries no structure has
size 1 (all its entries are alike) and any other has the tensor's size, so a (B, C, H, W) activation has a support
of shape (1, C, 1, 1). Entries are variables (see `variables`), or

    LIVE   nothing is certain: the entry may be non-zero under every mask
    ZERO   the entry is zero under every mask (padding, zeros that were concatenated)

Because a support has the tensor's layout, the rule of an operator that moves data is the same NumPy call.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Support = npt.NDArray[np.int64]

LIVE = 0
ZERO = 1
FIRST_VARIABLE = 2


def live(dimensions: int) -> Support:
    """The support of a tensor of which nothing is known."""
    return np.full((1,) * dimensions, LIVE, dtype=np.int64)


def zero(dimensions: int) -> Support:
    """The support of a tensor of zeros."""
    return np.full((1,) * dimensions, ZERO, dtype=np.int64)


def along(ids: npt.NDArray[np.int64], dimension: int, dimensions: int) -> Support:
    """Lay the vector `ids` along one dimension of a tensor of `dimensions` dimensions."""
    shape = [1] * dimensions
    shape[dimension] = -1
    return ids.reshape(shape)


def has_variables(support: Support) -> bool:
    return bool((support >= FIRST_VARIABLE).any())


def varies(support: Support, dimension: int) -> bool:
    """Whether the support has structure along a dimension."""
    return support.shape[dimension] > 1


def compress(support: Support) -> Support:
    """Shrink every dimension along which the support is constant to size 1."""
    for dimension in range(support.ndim):
        if support.shape[dimension] > 1:
            first = np.take(support, [0], axis=dimension)
            if (support == first).all():
                support = first
    return support


def expand(support: Support, shape: Sequence[int], dimensions: Sequence[int] | None = None) -> Support:
    """Give the named dimensions (default: all) their full size."""
    target = list(support.shape)
    for dimension in range(support.ndim) if dimensions is None else dimensions:
        target[dimension] = shape[dimension]
    return np.broadcast_to(support, target)


def reshape(support: Support, old: Sequence[int], new: Sequence[int]) -> Support:
    """Reshape, expanding only the dimensions that are split or merged and carry structure."""
    shape: list[int] = []
    moved = support
    for old_dimensions, new_dimensions in blocks(old, new):
        if all(support.shape[d] == 1 for d in old_dimensions):
            shape += [1] * len(new_dimensions)
        else:
            moved = expand(moved, old, old_dimensions)
            shape += [new[d] for d in new_dimensions]
    return compress(np.ascontiguousarray(moved).reshape(shape))


def blocks(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Split two shapes of equal size into the shortest runs of dimensions of equal size."""
    blocks: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        olds, news, old_size, new_size = [], [], 1, 1
        if i < len(old):
            olds, old_size, i = [i], old[i], i + 1
        if j < len(new) and (not olds or old_size != 1 or new[j] == 1):
            news, new_size, j = [j], new[j], j + 1
        while old_size != new_size:
            if old_size < new_size:
                olds.append(i)
                old_size *= old[i]
                i += 1
            else:
                news.append(j)
                new_size *= new[j]
                j += 1
        blocks.append((olds, news))
    return blocks


def broadcast(supports: Sequence[Support]) -> list[Support]:
    """Align supports to the right, as PyTorch aligns shapes; sizes of 1 stay."""
    dimensions = max(s.ndim for s in supports)
    return [s.reshape((1,) * (dimensions - s.ndim) + s.shape) for s in supports]
