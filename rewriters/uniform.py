"""Features that differ along a dimension where an operator treats all entries alike: coupled, they become one.

`Linear(z, channels * 49)`, viewed as an image, writes a feature for each channel and pixel. What reads it as an image
has one weight for all pixels of a channel, so the pixels of a channel share a mask.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hatify.analysis.call import Call
from hatify.analysis.support import FIRST_VARIABLE, LIVE, Support, compress, varies

# Coupling that would leave fewer features than this is not worth it.
FEWEST_FEATURES = 8


def uniform(call: Call, support: Support, dimensions: Sequence[int]) -> Support:
    """A support with its features coupled along some dimensions, where that is possible."""
    for dimension in dimensions:
        if varies(support, dimension):
            support = _coupled_along(call, support, dimension % support.ndim)
    return compress(call.variables.find(support))


def _coupled_along(call: Call, support: Support, dimension: int) -> Support:
    is_live = call.variables.resolve(support) == LIVE
    first, *others = np.split(support, support.shape[dimension], axis=dimension)
    is_mixed = bool((is_live != is_live.take([0], dimension)).any())
    if is_mixed or len(np.unique(first[first >= FIRST_VARIABLE])) < FEWEST_FEATURES:
        return support
    coupled = first
    for other in others:
        combination = call.variables.combine(coupled, other)
        if not combination.is_coupled:
            return support
        coupled = combination.support
    return coupled
