"""Mixtures of experts: rows sorted by expert, and a product of each run of rows with its expert's weight."""

from __future__ import annotations

from hatify.analysis.call import Call
from hatify.analysis.effect import Argument, Effect, Factor, Gate, Use
from hatify.analysis.support import along, has_variables
from rewriters.registry import rewriter


# By name: an older torch lacks the first, and the second comes with its package.
@rewriter("aten::_grouped_mm", "transformers::grouped_mm_fallback")
def grouped_product(call: Call) -> Effect:
    """weight: (experts, in, out). The experts share their features: a row may be any one's."""
    operand_name, weight_name = ("self", "mat2") if "mat2" in call else ("input", "weight")
    operand, weight = call[operand_name], Argument(weight_name)
    if len(call.shape(operand)) != 2 or len(call.shape(call[weight_name])) != 3 or call["bias"] is not None:
        return call.live(reads=call.operands)
    features = call.fresh(call.result_shape[-1])
    support = call.support(operand)
    written = Factor(along(features, 2, 3), "output", call.node)
    read = Factor(support.reshape(support.shape[0], 1, -1, 1), "input", operand, rows=1)
    gate = Gate(features, {weight: (1, 1, -1)})
    return Effect(
        along(features, -1, 2),
        reads=(operand,),
        gates=(gate,) if has_variables(features) else (),
        uses=(Use(weight, (written, read), outputs=2),),
    )
