"""Operators that give the entries of a tensor other places: the same NumPy call on the support."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch.fx import Node

from hatify.analysis.call import Call
from hatify.analysis.effect import Effect
from hatify.analysis.sizes import entries_per_example
from hatify.analysis.support import Support, blocks, broadcast, live, reshape, varies
from rewriters.registry import rewriter

aten = torch.ops.aten


def moved(operand: Node, support: Support) -> Effect:
    """The operand's entries in other places."""
    return Effect(support, flows=(operand,))


def moved_like(call: Call, support: Support) -> Effect:
    """The entries of `self` in other places, in the shape that another operand may lend (`reshape_as`)."""
    lenders = tuple(node for node in call.operands if node is not call["self"])
    return replace(moved(call["self"], support), shapes=lenders)


@rewriter(
    aten.reshape,
    aten.view.default,
    aten._unsafe_view,
    aten.view_as,
    aten.reshape_as,
    aten.flatten,
    aten.unflatten,
    aten.squeeze,
    aten.unsqueeze,
)
def reshaped(call: Call) -> Effect:
    operand, old, new = call["self"], call.shape(call["self"]), call.result_shape
    if math.prod(old) != math.prod(new):
        return call.live(reads=(operand,))  # parts of an unknown size, which are no whole number here
    support = reshape(call.support(operand), old, new)
    holds = _keeps_batch_outermost(call) and _repeats_over_batch(call, support)
    return moved_like(call, support) if holds else call.live(reads=(operand,))


def _keeps_batch_outermost(call: Call) -> bool:
    """Whether a dimension of dynamic size is merged with features, or split, with no features outside of it.

    In `(batch, n) -> (n, batch)` the entries of a feature lie elsewhere for each size of the batch.
    """
    operand, support = call["self"], call.support(call["self"])
    for old, new in blocks(call.shape(operand), call.result_shape):
        structured = [d for d in old if varies(support, d)]
        if not structured:
            continue
        was_inside = any(d > structured[0] for d in _dynamic(operand) if d in old)
        is_inside = any(d in new[1:] for d in _dynamic(call.node))
        if was_inside or is_inside:
            return False
    return True


def _dynamic(node: Node) -> list[int]:
    """The dimensions of dynamic size."""
    return [d for d, size in enumerate(node.meta["val"].shape) if isinstance(size, torch.SymInt)]


def _repeats_over_batch(call: Call, support: Support) -> bool:
    """Whether structure along a dimension of dynamic size is the same whatever that size is.

    In `batch * heads` it is, since each example has the same heads. In `(2, batch, n) -> (batch, 2 * n)` it is
    not: what one row holds depends on the number of rows.
    """
    for dimension, size in enumerate(call.node.meta["val"].shape):
        if isinstance(size, torch.SymInt) and varies(support, dimension):
            entries = entries_per_example(size)
            examples = np.moveaxis(support, dimension, 0).reshape(-1, entries, support.size // support.shape[dimension])
            if entries == 1 or not (examples == examples[:1]).all():
                return False
    return True


@rewriter(aten.permute.default)
def permute(call: Call) -> Effect:
    operand = call["self"]
    return moved(operand, np.transpose(call.support(operand), call["dims"]))


@rewriter(aten.transpose.int, aten.swapaxes.default, aten.swapdims.default)
def transpose(call: Call) -> Effect:
    operand = call["self"]
    first = call["dim0"] if "dim0" in call else call["axis0"]
    second = call["dim1"] if "dim1" in call else call["axis1"]
    return moved(operand, np.swapaxes(call.support(operand), first, second))


@rewriter(aten.t.default, aten.numpy_T.default)
def reverse_dimensions(call: Call) -> Effect:
    return moved(call["self"], np.transpose(call.support(call["self"])))


@rewriter(aten.mT.default, aten.mH.default, aten.matrix_H.default, aten.adjoint.default)
def transpose_matrices(call: Call) -> Effect:
    return moved(call["self"], np.swapaxes(call.support(call["self"]), -1, -2))


@rewriter(aten.movedim, aten.moveaxis)
def move_dimension(call: Call) -> Effect:
    operand = call["self"]
    return moved(operand, np.moveaxis(call.support(operand), call["source"], call["destination"]))


@rewriter(aten.expand.default, aten.expand_as.default, aten.broadcast_to.default)
def expanded(call: Call) -> Effect:
    operand = call["self"]
    missing = len(call.result_shape) - len(call.shape(operand))
    return moved_like(call, call.support(operand).reshape((1,) * missing + call.support(operand).shape))


@rewriter(aten.broadcast_tensors.default)
def broadcast_together(call: Call) -> Effect:
    supports = [call.support(node) for node in call["tensors"]]
    return Effect(tuple(broadcast([*supports, live(len(call.result_shape))])[:-1]), flows=call.operands)


@rewriter(aten.flip.default)
def flip(call: Call) -> Effect:
    operand = call["self"]
    return moved(operand, np.flip(call.support(operand), tuple(call["dims"])))


@rewriter(aten.rot90.default)
def rotate(call: Call) -> Effect:
    operand = call["self"]
    return moved(operand, np.rot90(call.support(operand), call["k"], tuple(call["dims"])))


@rewriter(aten.roll.default)
def roll(call: Call) -> Effect:
    operand, shifts, dimensions = call["self"], call["shifts"], call["dims"]
    support = call.support(operand)
    if not dimensions:
        return moved(operand, support) if support.size == 1 else call.live(reads=(operand,))
    kept = [(s, d) for s, d in zip(shifts, dimensions, strict=True) if varies(support, d)]
    if any(isinstance(s, Node) for s, _ in kept):
        return call.live(reads=(operand,))
    for shift, dimension in kept:
        support = np.roll(support, shift, dimension)
    return moved(operand, support)
