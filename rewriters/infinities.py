"""Infinities, or NaN, that forward puts in place of what is not to count: no gate can follow, as `0 * inf` is NaN."""

from __future__ import annotations

import math

import torch
from torch.fx import Node

from hatify.analysis.nodes import arguments_of
from hatify.capture.calls import is_tensor

aten = torch.ops.aten

FILLED = (aten.full.default, aten.full_like.default, aten.new_full.default, aten.scalar_tensor.default)

# What is made of infinities has some where these left them.
LEAVES_INFINITIES = {
    aten.add.Tensor,
    aten.cat.default,
    aten.clone.default,
    aten.contiguous.default,
    aten.detach.default,
    aten.detach_.default,
    aten.div.Tensor,
    aten.expand.default,
    aten.expand_as.default,
    aten.flatten.using_ints,
    aten.flip.default,
    aten.gather.default,
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_select.default,
    aten.lift_fresh_copy.default,
    aten.masked_fill.Scalar,
    aten.masked_fill.Tensor,
    aten.mul.Tensor,
    aten.neg.default,
    aten.permute.default,
    aten.repeat.default,
    aten.repeat_interleave.self_int,
    aten.reshape.default,
    aten.roll.default,
    aten.select.int,
    aten.select_scatter.default,
    aten.slice.Tensor,
    aten.slice_scatter.default,
    aten.squeeze.dim,
    aten.stack.default,
    aten.sub.Tensor,
    aten.to.dtype,
    aten.transpose.int,
    aten.tril.default,
    aten.triu.default,
    aten.unflatten.int,
    aten.unsqueeze.default,
    aten.view.default,
    aten.where.self,
}

LOGARITHMS = {aten.log.default, aten.log2.default, aten.log10.default}


def is_infinite(value: object) -> bool:
    """Whether an argument is infinite or NaN, or a tensor that is made of such a number, or holds some."""
    if isinstance(value, Node):
        if value.meta.get("infinite"):
            return True
        if value.target in FILLED:
            value = arguments_of(value).get("fill_value", arguments_of(value).get("s"))
    return isinstance(value, float) and not math.isfinite(value)


def holds_infinity(node: Node) -> bool:
    """Whether entries of a tensor without features are infinite, such that sums and views have left them in place."""
    seen, open_nodes = {node}, [node]
    while open_nodes:
        source = open_nodes.pop()
        filling = [arguments_of(source).get(name) for name in ("self", "other", "value")]
        if source.target in LOGARITHMS or any(map(is_infinite, (source, *filling))):
            return True
        if source.target in LEAVES_INFINITIES:
            new = [n for n in source.all_input_nodes if is_tensor(n) and n not in seen]
            seen.update(new)
            open_nodes += new
    return False
