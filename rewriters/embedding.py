"""Look-up tables."""

from __future__ import annotations

import torch

from hatify.analysis.call import Call
from hatify.analysis.effect import RESULT, Argument, Effect, Factor, Gate, Use
from hatify.analysis.support import along, has_variables, live
from rewriters.registry import rewriter

aten = torch.ops.aten


@rewriter(aten.embedding.default)
def embedding(call: Call) -> Effect:
    """weight: (entries, features). The looked-up rows are gated, which is cheaper than the whole table."""
    features = call.fresh(call.result_shape[-1])
    gate = Gate(features, {RESULT: (-1,)})
    use = Use(Argument("weight"), (Factor(along(features, 1, 2), "output", call.node),), outputs=1)
    result = along(features, -1, len(call.result_shape))
    return Effect(result, gates=(gate,) if has_variables(features) else (), uses=(use,))


@rewriter(aten.embedding_bag)
def embedding_bag(call: Call) -> Effect:
    """A sum, mean or maximum of rows for each bag, which is gated behind; the other results are indices and counts."""
    if any(user.args[1] != 0 for user in call.node.users):
        return call.live(reads=call.operands)  # the places of the maxima, which carry no features
    features = call.fresh(call.result_shape[-1])
    use = Use(Argument("weight"), (Factor(along(features, 1, 2), "output", call.node),), outputs=1)
    bags, *others = call.results
    return Effect((along(features, -1, len(bags)), *(live(len(shape)) for shape in others)), uses=(use,))
