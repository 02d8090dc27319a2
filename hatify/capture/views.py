"""Views: which nodes share memory, and how a new value of a view becomes a new value of what it is a view of."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import get_unwrapped, is_batchedtensor
from torch._ops import OpOverload
from torch.fx import Graph, Node
from torch.fx.experimental.symbolic_shapes import statically_known_true

from hatify.capture.calls import call, given_arguments, is_tensor

aten = torch.ops.aten

RESHAPES = {
    aten.view.default,
    aten._unsafe_view.default,
    aten.reshape.default,
    aten.view_as.default,
    aten.reshape_as.default,
    aten.flatten.using_ints,
    aten.unflatten.int,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.unsqueeze.default,
}

TRANSPOSES = {aten.transpose.int, aten.swapaxes.default, aten.swapdims.default}

TRANSPOSES_OF_MATRICES = {aten.t.default, aten.numpy_T.default, aten.mT.default, aten.adjoint.default}

SPLITS = {
    aten.split.Tensor,
    aten.split.sizes,
    aten.split_with_sizes.default,
    aten.chunk.default,
    aten.tensor_split.sections,
    aten.unsafe_chunk.default,
}


def is_view(node: Node) -> bool:
    """Whether a call returns memory of its first operand."""
    target = node.target
    return isinstance(target, OpOverload) and any(r.alias_info is not None for r in target._schema.returns)


def source(node: Node) -> Node | None:
    """The tensor whose memory a tensor is, in whole or in part; None if it has memory of its own.

    An operator that may return a view (`reshape`, `contiguous`, `to`) does so if it did while the model was traced.
    """
    if node.op != "call_function" or not is_tensor(node) or not node.args or not isinstance(node.args[0], Node):
        return None
    if node.target is aten.lift_fresh_copy.default:  # of a constant in forward, whose memory it has while traced
        return None
    operand = node.args[0].args[0] if node.target is operator.getitem else node.args[0]
    if not is_tensor(operand):
        return None
    assert isinstance(operand, Node)
    returns_memory = is_view(node.args[0] if node.target is operator.getitem else node)
    is_constant = operand.op == "get_attr"  # what is traced for it is a copy
    return operand if _storage(node) == _storage(operand) or (returns_memory and is_constant) else None


def base_of(node: Node) -> Node:
    """The tensor that a view is a view of, in the end."""
    while (above := source(node)) is not None:
        node = above
    return node


def same_sizes(one: Sequence[int | torch.SymInt], other: Sequence[int | torch.SymInt]) -> bool:
    """Whether sizes are the same in every call, as far as is known: those that only the data tells may differ."""
    return len(one) == len(other) and all(statically_known_true(a == b) for a, b in zip(one, other, strict=True))


def same_entries(one: Node, other: Node) -> bool:
    """Whether two tensors are the same entries of the same memory, in the same order."""
    return _storage(one) == _storage(other) and _is_whole(one, other)


def assigned(graph: Graph, base: Node, view: Node, value: Node) -> Node | None:
    """`base`, with `value` as the new content of its `view`; None for a view that cannot be undone."""
    operation = view.args[0] if view.target is operator.getitem else view
    assert isinstance(operation, Node)

    def emit(target: Callable[..., Any], *args: Any) -> Node:
        return call(graph, target, *args, like=view)

    if operation.target in RESHAPES:
        return emit(aten.reshape_as.default, value, base)
    if operation.target in SPLITS:
        return _assigned_piece(emit, base, view, value)
    if operation.target in TRANSPOSES_OF_MATRICES and base.meta["val"].dim() == 2:
        return emit(aten.t.default, value)
    inverse = INVERSES.get(operation.target)
    if inverse is not None:
        return inverse(emit, base, view, value)
    return value if _is_whole(view, base) else None


Emit = Callable[..., Node]


def _assigned_slice(emit: Emit, base: Node, view: Node, value: Node) -> Node:
    given = given_arguments(view)
    bounds = given.get("start"), given.get("end"), given.get("step", 1)
    if _is_whole(view, base):
        return value
    return _scattered(emit, aten.slice_scatter.default, base, value, given.get("dim", 0), *bounds)


def _assigned_narrow(emit: Emit, base: Node, view: Node, value: Node) -> Node:
    given = given_arguments(view)
    start = given["start"]
    if not isinstance(start, Node) and start < 0:
        start += base.meta["val"].shape[given["dim"]]
    is_number = not isinstance(start, Node) and not isinstance(given["length"], Node)
    end = start + given["length"] if is_number else emit(operator.add, start, given["length"])
    return _scattered(emit, aten.slice_scatter.default, base, value, given["dim"], start, end)


def _assigned_entry(emit: Emit, base: Node, view: Node, value: Node) -> Node:
    given = given_arguments(view)
    return _scattered(emit, aten.select_scatter.default, base, value, given["dim"], given["index"])


def _assigned_unbound(emit: Emit, base: Node, view: Node, value: Node) -> Node:
    operation, index = view.args
    assert isinstance(operation, Node)
    dimension = given_arguments(operation).get("dim", 0)
    return _scattered(emit, aten.select_scatter.default, base, value, dimension, index)


def _assigned_piece(emit: Emit, base: Node, view: Node, value: Node) -> Node | None:
    operation, index = view.args
    assert isinstance(operation, Node) and isinstance(index, int)
    dimension = given_arguments(operation).get("dim", 0)
    sizes = [piece.shape[dimension] for piece in operation.meta["val"][: index + 1]]
    if any(isinstance(size, torch.SymInt) for size in sizes):
        return None
    return _scattered(emit, aten.slice_scatter.default, base, value, dimension, sum(sizes[:-1]), sum(sizes))


def _scattered(emit: Emit, target: OpOverload, base: Node, value: Node, dimension: int, *place: Any) -> Node:
    """`base` with `value` in a place along a dimension.

    Complex numbers as pairs of real ones: of the others PyTorch knows no gradient there.
    """
    operand: Tensor = base.meta["val"]
    if not operand.is_complex():
        return emit(target, base, value, dimension, *place)
    pairs = [emit(aten.view_as_real.default, emit(aten.resolve_conj.default, each)) for each in (base, value)]
    return emit(aten.view_as_complex.default, emit(target, *pairs, dimension % operand.dim(), *place))


def _assigned_diagonal(emit: Emit, base: Node, view: Node, value: Node) -> Node:
    given = given_arguments(view)
    dimensions = given.get("dim1", 0), given.get("dim2", 1)
    return emit(aten.diagonal_scatter.default, base, value, given.get("offset", 0), *dimensions)


def _transposed_back(emit: Emit, base: Node, view: Node, value: Node) -> Node:
    return emit(aten.transpose.int, value, *view.args[1:])


def _permuted_back(emit: Emit, base: Node, view: Node, value: Node) -> Node:
    dimensions = [dimension % base.meta["val"].dim() for dimension in given_arguments(view)["dims"]]
    return emit(aten.permute.default, value, [dimensions.index(d) for d in range(len(dimensions))])


def _moved_back(emit: Emit, base: Node, view: Node, value: Node) -> Node:
    assert isinstance(view.target, OpOverload)
    given = given_arguments(view)
    return emit(view.target, value, given["destination"], given["source"])


def _of_complex(emit: Emit, base: Node, view: Node, value: Node) -> Node:
    return emit(aten.view_as_complex.default, value)


def _of_real(emit: Emit, base: Node, view: Node, value: Node) -> Node:
    return emit(aten.view_as_real.default, value)


INVERSES: dict[Any, Callable[[Emit, Node, Node, Node], Node]] = {
    aten.slice.Tensor: _assigned_slice,
    aten.narrow.default: _assigned_narrow,
    aten.select.int: _assigned_entry,
    aten.unbind.int: _assigned_unbound,
    aten.diagonal.default: _assigned_diagonal,
    **dict.fromkeys(TRANSPOSES, _transposed_back),
    aten.permute.default: _permuted_back,
    aten.movedim.int: _moved_back,
    aten.movedim.intlist: _moved_back,
    aten.view_as_real.default: _of_complex,
    aten.view_as_complex.default: _of_real,
}


def _is_whole(view: Node, base: Node) -> bool:
    """Whether a view is all of its base, entry by entry (`detach`, `contiguous` that had nothing to do)."""
    a: Tensor = view.meta["val"]
    b: Tensor = base.meta["val"]
    layouts = ((t.storage_offset(), *t.shape, *t.stride()) for t in (a, b))
    return a.dtype == b.dtype and same_sizes(*layouts)


def _storage(node: Node) -> int:
    value = node.meta["val"]
    while is_batchedtensor(value):  # inside `torch.vmap`
        value = get_unwrapped(value)
    return int(value.untyped_storage()._cdata)
