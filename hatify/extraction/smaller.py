"""A plain graph without the channels that can go."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node
from torch.fx.node import map_arg

from hatify.analysis.call import arguments_of, concrete
from hatify.capture.calls import given_arguments
from hatify.errors import ExtractionError
from hatify.extraction.channels import UNLABELLED, Channels, Track, is_depthwise
from hatify.extraction.operators import CONVOLUTIONS, LINEAR, MOVES, PIECES, SHAPES, is_pointwise
from hatify.extraction.plain import PlainGraph, name_for

aten = torch.ops.aten


class Misplaced(Exception):
    """An operator would not put the channels that are left where they belong: all of these have to stay."""

    def __init__(self, node: Node, tracks: Sequence[Track]) -> None:
        super().__init__(str(node))
        self.tracks = tracks


def without_removable_channels(plain: PlainGraph) -> tuple[Graph, dict[str, Tensor]]:
    """The same function, with tensors from which the channels that can go are cut."""
    channels = Channels(plain)
    while True:
        try:
            smaller = _Smaller(plain, channels)
            return smaller.graph, smaller.tensors
        except Misplaced as misplaced:
            if all(bool(channels.mask(track).all()) for track in misplaced.tracks):
                raise ExtractionError(
                    f"the channels of {misplaced} cannot be followed: this is a bug of hatify"
                ) from None
            for track in misplaced.tracks:
                channels.keep(track.labels)
            channels.settle()


class _Smaller:
    """The smaller graph, while it is built."""

    def __init__(self, plain: PlainGraph, channels: Channels) -> None:
        self.graph = Graph()
        self.tensors: dict[str, Tensor] = {}
        self._plain, self._channels = plain, channels
        self._copies: dict[Node, Node] = {}
        for node in plain.graph.nodes:
            if node.op != "get_attr":
                self._copies[node] = self._smaller(node)

    def _smaller(self, node: Node) -> Node:
        if node.target in LINEAR or node.target in CONVOLUTIONS:
            return self._weighted(node)
        if node.op != "call_function" or node.target is operator.getitem or not self._is_cut(node):
            return self.graph.node_copy(node, self._copy)
        if node.target is aten.batch_norm.default:
            return self._batch_norm(node)
        if node.target is aten.layer_norm.default:
            return self._layer_norm(node)
        if node.target is aten.scaled_dot_product_attention.default:
            return self._attention(node)
        if is_pointwise(node):
            return self._pointwise(node)
        return self._moved(node)

    def _is_cut(self, node: Node) -> bool:
        """Whether anything goes from a node's result or operands."""
        return any(map(self._removes, self._channels.around(node)))

    # -- operators with parameters -----------------------------------------------------------------------------

    def _weighted(self, node: Node) -> Node:
        given = arguments_of(node)
        weight, bias, track = given["weight"], given["bias"], self._channels.tracks.get(given["input"])
        along_another = track is not None and node.target in LINEAR and track.axis != node.meta["val"].dim() - 1
        is_held = weight.op == "get_attr" and (bias is None or bias.op == "get_attr")
        if not is_held or along_another:
            return self.graph.node_copy(node, self._copy)
        value, groups = self._value(weight), given.get("groups", 1)
        rows, columns = self._positions(node), self._positions(given["input"])
        changed: dict[str, Any] = {}
        if is_depthwise(value, groups):
            value = value if rows is None else value[rows.to(value.device)]
            changed |= {} if rows is None else {"groups": len(rows)}
        else:
            value = _cut(value, rows, columns, groups)
        changed["weight"] = self._read(str(weight.target), value)
        if bias is not None:
            changed["bias"] = self._sliced(bias, rows)
        return self._call(node, {**given_arguments(node), **changed}, self._copy)

    def _batch_norm(self, node: Node) -> Node:
        given, rows = arguments_of(node), self._positions(node)
        held = [n for n in ("weight", "bias", "running_mean", "running_var") if given[n] is not None]
        changed = {name: self._sliced(given[name], rows) for name in held}
        return self._call(node, {**given_arguments(node), **changed}, self._copy)

    def _layer_norm(self, node: Node) -> Node:
        """With the statistics of all channels, from those that are left: the others are zero."""
        given, rows, call = arguments_of(node), self._positions(node), self.graph.call_function
        assert rows is not None
        count = given["normalized_shape"][0]
        weight, bias = self._sliced(given["weight"], rows), self._sliced(given["bias"], rows)
        x = self._copy(given["input"])
        dtype = self._value(given["weight"]).dtype
        if dtype in (torch.float16, torch.bfloat16):  # as the operator itself does
            x = call(aten.to.dtype, (x, torch.float32))
        mean = call(aten.div.Tensor, (call(aten.sum.dim_IntList, (x, [-1], True)), count))
        centered = call(aten.sub.Tensor, (x, mean))
        squares = call(aten.sum.dim_IntList, (call(aten.square.default, (centered,)), [-1], True))
        missing = {"alpha": count - len(rows)}
        squares = call(aten.add.Tensor, (squares, call(aten.square.default, (mean,))), missing)
        variance = call(aten.add.Tensor, (call(aten.div.Tensor, (squares, count)), given["eps"]))
        normal = call(aten.mul.Tensor, (centered, call(aten.rsqrt.default, (variance,))))
        return call(aten.addcmul.default, (bias, call(aten.type_as.default, (normal, weight)), weight))

    def _attention(self, node: Node) -> Node:
        """The scale follows from the width that the heads had."""
        copied, query = self.graph.node_copy(node, self._copy), arguments_of(node)["query"]
        if arguments_of(node)["scale"] is None:
            copied.kwargs = {**copied.kwargs, "scale": concrete(query.meta["val"].shape[-1]) ** -0.5}
        return copied

    # -- operators without -------------------------------------------------------------------------------------

    def _pointwise(self, node: Node) -> Node:
        track, rank = self._channels.tracks.get(node), node.meta["val"].dim()
        if track is None:
            raise Misplaced(node, self._channels.around(node))
        return self.graph.node_copy(node, partial(self._fitting, track=track, rank=rank))

    def _fitting(self, node: Node, track: Track, rank: int) -> Node:
        """An operand; one without labels is cut as those with labels are."""
        value = node.meta.get("val")
        if node in self._channels.tracks or not isinstance(value, Tensor) or not self._removes(track):
            return self._copy(node)
        axis = track.axis - (rank - value.dim())
        if axis < 0 or concrete(value.shape[axis]) == 1:
            return self._copy(node)
        positions = self._along(track)
        if positions is None:
            raise Misplaced(node, [track])
        if node.op == "get_attr":
            held = self._value(node)
            return self._read(str(node.target), held.index_select(axis, positions.to(held.device)))
        where = self._read(f"{self._plain.constants}.positions", positions.to(self._plain.device))
        return self.graph.call_function(aten.index_select.default, (self._copy(node), axis, where))

    def _moved(self, node: Node) -> Node:
        """A call that moves channels, or lets them through, with the sizes of those that are left."""
        if node.target in PIECES:
            return self._pieces(node)
        track = self._channels.tracks.get(node)
        named = given_arguments(node)
        if node.target in SHAPES and isinstance(track, Track) and self._removes(track):
            sizes = list(named[SHAPES[node.target]])
            axis = track.axis - (int(named["dim"]) % node.args[0].meta["val"].dim() if "dim" in named else 0)  # type: ignore[union-attr]
            if 0 <= axis < len(sizes) and sizes[axis] != -1:
                sizes[axis] = self._length(track)
            named[SHAPES[node.target]] = sizes
        if node.target not in MOVES:
            return self._call(node, named, self._copy)
        like = self._channels.adopted(node)
        args, kwargs = _laid_out(node.target, named, lambda operand: self._left(operand, like))
        self._check(node, lambda: node.target(*args, **kwargs))  # type: ignore[operator]
        fitting = self._copy if like is None else partial(self._fitting, track=like, rank=like.labels.dim())
        return self._call(node, named, fitting)

    def _pieces(self, node: Node) -> Node:
        """A tensor taken apart, with the lengths that its pieces have then."""
        given = arguments_of(node)
        source, dimension = given["self"], int(given["dim"]) % given["self"].meta["val"].dim()
        tracks = self._channels.tracks.get(node) or [None] * len(node.meta["val"])
        pieces = zip(tracks, node.meta["val"], strict=True)
        lengths = [
            self._length(track) if track is not None and track.axis == dimension else concrete(piece.shape[dimension])
            for track, piece in pieces
        ]
        self._check(node, lambda: self._left(source, None).split_with_sizes(lengths, dimension))
        return self.graph.call_function(aten.split_with_sizes.default, (self._copy(source), lengths, dimension))

    def _check(self, node: Node, operator_on_labels: Callable[[], Any]) -> None:
        """Whether the operator, on the labels that are left, gives the labels that are left."""
        try:
            found = operator_on_labels()
        except RuntimeError as error:  # sizes that do not fit what is left
            raise Misplaced(node, self._channels.around(node)) from error
        several = isinstance(found, list | tuple)
        results, tracks = (found if several else [found]), self._channels.tracks.get(node)
        for labels, track in zip(results, tracks if isinstance(tracks, list) else [tracks] * len(results), strict=True):
            left = torch.full_like(labels, UNLABELLED) if track is None else self._only_left(track, labels.shape)
            if not torch.equal(left, labels):
                raise Misplaced(node, self._channels.around(node))

    def _left(self, node: Node, like: Track | None) -> Any:
        """The labels that are left of an operand, at the size that it has then."""
        value = node.meta["val"]
        if not isinstance(value, Tensor):
            return concrete(value)
        track = self._channels.tracks.get(node, like)
        shape = self._channels.shape(node)
        return torch.full(shape, UNLABELLED) if track is None else self._only_left(track, shape)

    def _only_left(self, track: Track, shape: Sequence[int]) -> Tensor:
        mask = self._channels.mask(track).movedim(track.axis, -1)
        labels = track.labels.movedim(track.axis, -1)
        left = labels[mask].reshape(*labels.shape[:-1], -1).movedim(-1, track.axis)
        return left.expand([left.shape[track.axis] if d == track.axis else size for d, size in enumerate(shape)])

    # -- small things ------------------------------------------------------------------------------------------

    def _copy(self, node: Node) -> Node:
        """A node of the plain graph as a node of this one."""
        if node.graph is self.graph:
            return node
        return self._read(str(node.target), self._value(node)) if node.op == "get_attr" else self._copies[node]

    def _call(self, node: Node, named: dict[str, Any], operand: Callable[[Node], Any]) -> Node:
        args, kwargs = _laid_out(node.target, named, operand)
        return self.graph.call_function(node.target, args, kwargs)  # type: ignore[arg-type]

    def _positions(self, node: Any) -> Tensor | None:
        """The channels of a tensor that are left; None if all are."""
        track = self._channels.tracks.get(node)
        return None if track is None or not self._removes(track) else self._along(track)

    def _along(self, track: Track) -> Tensor | None:
        """What is left along the axis; None where it is not the same everywhere."""
        mask = self._channels.mask(track)
        return mask.flatten().nonzero()[:, 0] if mask.numel() == mask.shape[track.axis] else None

    def _removes(self, track: Track) -> bool:
        return not bool(self._channels.mask(track).all())

    def _length(self, track: Track) -> int:
        mask = self._channels.mask(track).movedim(track.axis, -1)
        return int(mask.reshape(-1, mask.shape[-1])[0].sum())

    def _value(self, node: Node) -> Tensor:
        return self._plain.tensors[str(node.target)]

    def _sliced(self, node: Node, rows: Tensor | None) -> Node:
        value = self._value(node)
        return self._read(str(node.target), value if rows is None else value[rows.to(value.device)])

    def _read(self, name: str, value: Tensor) -> Node:
        unique = name_for(self.tensors, name, value)
        self.tensors[unique] = value
        return self.graph.create_node("get_attr", unique)


def _cut(weight: Tensor, rows: Tensor | None, columns: Tensor | None, groups: int) -> Tensor:
    """The rows and columns of a weight that are left; each group of a convolution has as many."""
    inputs = weight.shape[1]
    rows = torch.arange(len(weight)) if rows is None else rows
    columns = torch.arange(inputs * groups) if columns is None else columns
    pairs = zip(rows.chunk(groups), columns.chunk(groups), strict=True)
    return torch.cat([weight[own.to(weight.device)][:, (read % inputs).to(weight.device)] for own, read in pairs])


def _laid_out(target: Any, named: dict[str, Any], operand: Callable[[Node], Any]) -> tuple[Any, dict[str, Any]]:
    """Arguments by name as an operator takes them, with other operands."""
    given = {name: map_arg(value, operand) for name, value in named.items()}
    positional = [argument for argument in target._schema.arguments if not argument.kwarg_only]
    last = max((i for i, argument in enumerate(positional) if argument.name in given), default=-1)
    args = tuple(given.get(a.name, a.default_value) for a in positional[: last + 1])
    return args, {a.name: given[a.name] for a in target._schema.arguments if a.kwarg_only and a.name in given}
