"""What train mode does differently, and the state that it leaves behind."""

from __future__ import annotations

import torch
from torch.fx import Node

from hatify.analysis.call import Call
from hatify.analysis.effect import Effect
from hatify.analysis.support import broadcast, live, varies
from hatify.capture.calls import is_tensor
from hatify.capture.modes import when_training
from rewriters.elementwise import combined
from rewriters.registry import rewriter

aten = torch.ops.aten


@rewriter(when_training)
def chosen_by_mode(call: Call) -> Effect:
    """One of two tensors: zero where both are."""
    values = [value for value in call.node.args[1:] if is_tensor(value)]
    if len(values) < 2:
        return call.live(reads=call.operands)
    one, other = values
    assert isinstance(one, Node) and isinstance(other, Node)
    sizes = zip(call.shape(one), call.shape(other), strict=True)
    differing = [dimension for dimension, (size, other_size) in enumerate(sizes) if size != other_size]
    if any(varies(call.support(value), dimension) for value in (one, other) for dimension in differing):
        return call.live(reads=call.operands)  # features would lie elsewhere in each mode
    return combined(call, one, other)


@rewriter(aten.copy_.default)
def copied(call: Call) -> Effect:
    """What lay there is lost.

    State that only train mode changes is a task's own and rests once the task is trained: what it holds of dead
    features moves no more, so nothing is asked of them.
    """
    target, source = call["self"], call["src"]
    if source.target is when_training and source.args[2] is target:
        return call.live(shapes=(target, source))
    if target.op == "get_attr":
        return call.live(reads=(source,), shapes=(target,))
    support, _ = broadcast([call.support(source), live(len(call.result_shape))])
    return Effect(support, flows=(source,), shapes=(target,))
