"""Fused attention and softmax."""

from __future__ import annotations

import numpy as np
import torch

from hatify.analysis.call import Call
from hatify.analysis.effect import Effect
from hatify.analysis.support import varies
from rewriters.contraction import couple, matrices
from rewriters.registry import rewriter

aten = torch.ops.aten


@rewriter(aten.scaled_dot_product_attention.default)
def attention(call: Call) -> Effect:
    """Queries and keys are contracted over their head dimension; the result has the value's features."""
    query, key, value = call["query"], call["key"], call["value"]
    support = call.support(value)
    if varies(support, -2):
        return call.live(reads=call.operands)
    reads, pairs = couple(call, matrices(call, query, "row", "summed"), matrices(call, key, "column", "summed"))
    if call["enable_gqa"] and varies(support, -3):
        repeats = call.shape(query)[-3] // call.shape(value)[-3]
        support = np.repeat(support, repeats, axis=-3)
    return Effect(support, flows=(value,), reads=reads, pairs=pairs)


@rewriter(
    aten.softmax.int,
    aten._softmax.default,
    aten.special_softmax.default,
    aten.log_softmax.int,
    aten._log_softmax.default,
    aten.special_log_softmax.default,
)
def softmax(call: Call) -> Effect:
    """Mixes one dimension, where dead entries are read as zeros; its own zeros become non-zero."""
    operand = call["self"]
    mixes = varies(call.support(operand), call.dimension("dim", operand))
    reads = (operand,) if mixes else ()
    return Effect(call.support(operand), flows=(operand,), reads=reads, keeps_zero=False)
