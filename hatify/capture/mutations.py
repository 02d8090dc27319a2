"""In-place operators: each later use of the memory reads what was written, and gets it along the graph's edges.

An operator that writes into a tensor that is read under no other name stays in place. Any other write becomes a new
value: of the view that is written to, then of the tensor that it is a view of, then of all its other views.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch._ops import OpOverload
from torch.fx import Graph, Node

from hatify.capture.calls import call, is_tensor
from hatify.capture.views import assigned, base_of, same_entries, same_sizes, source
from hatify.errors import CaptureError

aten = torch.ops.aten

# These change how a tensor is seen, not what it holds.
RESHAPING: dict[Any, OpOverload] = {
    aten.unsqueeze_.default: aten.unsqueeze.default,
    aten.squeeze_.default: aten.squeeze.default,
    aten.squeeze_.dim: aten.squeeze.dim,
    aten.squeeze_.dims: aten.squeeze.dims,
    aten.t_.default: aten.t.default,
    aten.transpose_.default: aten.transpose.int,
    aten.swapaxes_.default: aten.swapaxes.default,
    aten.swapdims_.default: aten.swapdims.default,
}

# Norms move their running statistics where a flag at this position says so, which their schemas do not.
NORMS: dict[Any, int] = {aten.batch_norm.default: 5, aten.instance_norm.default: 5, aten.native_batch_norm.default: 5}


def mutates(node: Node) -> bool:
    """Whether a call writes into its first operand."""
    target = node.target
    return isinstance(target, OpOverload) and target._schema.is_mutable


def written(graph: Graph) -> set[Node]:
    """The tensors that the graph writes to, into views of them too."""
    moving = [node for node in graph.nodes if node.target in NORMS and node.args[NORMS[node.target]]]
    statistics = {value for node in moving for value in node.args[3:5] if isinstance(value, Node)}
    return {base_of(node) for node in graph.nodes if mutates(node)} | statistics


def return_outputs(graph: Graph) -> None:
    """`op(x, out=y)` becomes `y.copy_(op(x))`, which writes into its first operand like any other."""
    for node in list(graph.nodes):
        out = node.kwargs.get("out")
        functional = _without_out(node.target) if isinstance(out, Node) else None
        if functional is None:
            continue
        given = {name: value for name, value in node.kwargs.items() if name != "out"}
        with graph.inserting_before(node):
            result = call(graph, functional, *node.args, like=node, **given)
            copied = graph.call_function(aten.copy_.default, (out, result))
        copied.meta = dict(node.meta)
        node.replace_all_uses_with(copied)
        graph.erase_node(node)


def drop_counters(graph: Graph) -> None:
    """Batch norm's count of its batches goes: the layer that takes its place counts by itself."""
    for node in list(graph.nodes):
        counts = node.target is aten.add_.Tensor and node.args[0].meta.get("role") == "buffer"
        if counts and node.args[0].target.endswith("num_batches_tracked") and not node.users:
            graph.erase_node(node)


def follow_mutations(graph: Graph, keep_in_place: bool = True) -> None:
    """Let every reader of memory that was written to read the new value.

    keep_in_place: leave operators in place that need no new values of other tensors. Without, nothing is written in
        the graph but the memory that outlives it (inputs, buffers), once and at its end.

    Raises:
        CaptureError: a write through a view that cannot be undone, into memory that is read again.
    """
    outliving: dict[Node, Node] = {}
    for node in list(graph.nodes):
        if node.target in RESHAPING:
            _replace_by_view(node)
        elif mutates(node) and is_tensor(node.args[0]) and is_tensor(node):
            _follow(graph, node, keep_in_place, outliving)
    _write_back(graph, outliving)


def _follow(graph: Graph, write: Node, keep_in_place: bool, outliving: dict[Node, Node]) -> None:
    """One write. outliving: collects the latest values of what outlives the graph, by the node that reads it."""
    operand = write.args[0]
    assert isinstance(operand, Node)
    if write.target is aten.copy_.default and _is_same(operand, write.args[1]):
        return _replace(graph, write, operand)
    base = base_of(operand)
    read = [node for node in _family(base) if node is not write and any(user > write for user in node.users)]
    other_names = [node for node in read if node < write and node is not operand]
    if keep_in_place and (base.op == "get_attr" or not other_names):
        return _read_after(write, {operand: write})
    with graph.inserting_before(write):
        values = {base: _new_base(graph, write)}
    for node in (operand, *read):
        with graph.inserting_before(max(node, write)):  # a view's bounds may be computed behind the write
            _renew(graph, node, values)
    with graph.inserting_before(write):
        original = next((node for node, latest in outliving.items() if base_of(latest) is base), base)
        if original.op in ("get_attr", "placeholder"):
            outliving[original] = _renew(graph, outliving.get(original, base), values)
    _read_after(write, {node: values[node] for node in read})
    _replace(graph, write, values[operand])


def _new_base(graph: Graph, write: Node) -> Node:
    """What a write leaves in the memory that its operand is a view of."""
    view, value = write.args[0], _new_value(graph, write)
    assert isinstance(view, Node)
    while (above := source(view)) is not None:
        renewed = value if mutates(view) else assigned(graph, above, view, value)
        cuts_gradient = view.target is aten.detach.default and base_of(above).op not in ("get_attr", "placeholder")
        if renewed is None or cuts_gradient:
            raise CaptureError(
                f"forward writes into a part of a tensor that it reads again, through {view.target} ({write.name}, in "
                f"{write.meta.get('module_path') or 'the model'}), which cannot be followed; "
                "write it without the in-place assignment"
            )
        view, value = above, renewed
    return value


def _new_value(graph: Graph, write: Node) -> Node:
    """What an in-place operator leaves in its first operand, as a value of its own."""
    operand, *others = write.args
    assert isinstance(operand, Node) and isinstance(write.target, OpOverload)
    kind = write.target.overloadpacket
    if kind is aten.copy_ or write.target is aten.fill_.Tensor:
        stored = _as_stored(graph, others[0], operand, write)  # type: ignore[arg-type]
        return call(graph, aten.clone.default, stored, like=write)  # the other tensor may change later on
    if kind is aten.zero_:
        value = call(graph, aten.zeros_like.default, operand, like=write)
    elif write.target is aten.fill_.Scalar:
        value = call(graph, aten.full_like.default, operand, others[0], like=write)
    elif (functional := _functional(write.target)) is not None:
        value = call(graph, functional, *write.args, like=write, **write.kwargs)
    else:  # random numbers, say: written into a copy
        copied = call(graph, aten.clone.default, operand, like=write)
        value = call(graph, write.target, copied, *others, like=write, **write.kwargs)
    return _as_stored(graph, value, operand, write)


def _as_stored(graph: Graph, value: Node, written: Node, write: Node) -> Node:
    """A value with the dtype and the shape of the memory that it is written to."""
    if value.meta["val"].device != written.meta["val"].device or value.meta["val"].dtype != written.meta["val"].dtype:
        value = call(graph, aten.type_as.default, value, written, like=write)
    if not same_sizes(value.meta["val"].shape, written.meta["val"].shape):
        value = call(graph, aten.expand_as.default, value, written, like=write)
    return value


def _renew(graph: Graph, node: Node, values: dict[Node, Node]) -> Node:
    """The new value of another view of what was written to: the same view of the new value."""
    if node not in values:
        base = source(node)
        assert base is not None
        renewed = _renew(graph, base, values)
        values[node] = renewed if mutates(node) else _same_view(graph, node, base, renewed)
    return values[node]


def _same_view(graph: Graph, view: Node, base: Node, renewed: Node) -> Node:
    operation = view.args[0]
    if operation is base:
        return call(graph, view.target, renewed, *view.args[1:], like=view, **view.kwargs)  # type: ignore[arg-type]
    assert isinstance(operation, Node)  # one of several results
    pieces = call(graph, operation.target, renewed, *operation.args[1:], like=operation)  # type: ignore[arg-type]
    return call(graph, view.target, pieces, *view.args[1:], like=view)  # type: ignore[arg-type]


def _write_back(graph: Graph, outliving: dict[Node, Node]) -> None:
    with graph.inserting_before(graph.output_node()):
        for original, latest in outliving.items():
            call(graph, aten.copy_.default, original, latest, like=original)


def _read_after(write: Node, values: dict[Node, Node]) -> None:
    for node, value in values.items():
        for user in [user for user in node.users if user > write]:
            user.replace_input_with(node, value)


def _replace(graph: Graph, write: Node, value: Node) -> None:
    write.replace_all_uses_with(value)
    graph.erase_node(write)


def _replace_by_view(node: Node) -> None:
    operand = node.args[0]
    assert isinstance(operand, Node)
    _read_after(node, {operand: node})
    node.target = RESHAPING[node.target]


def _family(base: Node) -> Iterator[Node]:
    """A tensor, its views, and theirs."""
    yield base
    for user in base.users:
        for node in [user] if is_tensor(user) else list(user.users):
            if source(node) is base:
                yield from _family(node)


def _is_same(written: Node, value: Any) -> bool:
    """Whether a tensor is copied onto itself, as the last step of `x[i] += y` does."""
    return is_tensor(value) and same_entries(written, value)


def _functional(target: OpOverload) -> Any:
    """The operator that returns what an in-place operator writes."""
    namespace, _, name = target._schema.name.partition("::")
    packet = getattr(getattr(torch.ops, namespace), name.removesuffix("_"), None) if name.endswith("_") else None
    functional = getattr(packet, target._overloadname, None)
    return functional if functional is not None and _types(functional) == _types(target) else None


def _without_out(target: Any) -> Any:
    """The overload of an operator that returns its result instead of writing it into `out`."""
    if not isinstance(target, OpOverload):
        return None
    overloads = (getattr(target.overloadpacket, name) for name in target.overloadpacket.overloads())
    return next((o for o in overloads if not o._schema.is_mutable and _types(o) == _types(target)), None)


def _types(target: OpOverload) -> list[str]:
    """The types of an operator's arguments, `out` aside."""
    return [str(argument.type) for argument in target._schema.arguments if argument.name != "out"]
