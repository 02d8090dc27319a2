"""Which output channels of a plain graph's weights can be removed.

Every channel of a weight's result has a label. Labels follow the channels through the graph; a tensor's labels have
its layout, with size 1 where a dimension carries none (-1: what no label stands for, and stays). A channel that is
zero, or that nothing depends on, goes, unless an operator needs it in its place.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from hatify.analysis.call import arguments_of, concrete
from hatify.capture.mutations import mutates
from hatify.capture.views import base_of
from hatify.extraction.operators import (
    CONVOLUTIONS,
    LINEAR,
    MOVES,
    PADDINGS,
    PRODUCTS,
    QUOTIENTS,
    REDUCTIONS,
    SPATIAL,
    is_pointwise,
)
from hatify.extraction.plain import PlainGraph

aten = torch.ops.aten

UNLABELLED = -1


@dataclass
class Track:
    """A tensor's channels.

    labels: see above. axis: the dimension that becomes shorter where channels are removed.
    zero: whether the entries of all channels are zero that have not been kept so far (so it stays true as more are).
    """

    labels: Tensor
    axis: int
    zero: bool

    def lies_along(self, axis: int) -> bool:
        """Whether the labels vary along this dimension alone."""
        return self.axis == axis and self.labels.numel() == self.labels.shape[axis]


class Channels:
    """The labels of a plain graph's tensors, and which labels stay.

    tracks: by node, for tensors that have labels. kept: by label.
    """

    def __init__(self, plain: PlainGraph) -> None:
        self.plain = plain
        self.tracks: dict[Node, Any] = {}
        self.kept = torch.zeros(0, dtype=torch.bool)
        self._equal: list[tuple[Tensor, Tensor]] = []
        self._even: list[Track] = []  # channels by group of a convolution
        for node in plain.graph.nodes:
            track = self._track(node)
            if track is not None:
                self.tracks[node] = track
        self.settle()

    # -- what stays --------------------------------------------------------------------------------------------

    def keep(self, labels: Tensor) -> None:
        self.kept[labels[labels >= 0]] = True

    def keep_all(self, *nodes: Any) -> None:
        for node in nodes:
            for track in _each(self.tracks.get(node)):
                self.keep(track.labels)

    def around(self, node: Node) -> list[Track]:
        """The tracks of a node's results and of its operands."""
        return [track for n in (node, *node.all_input_nodes) for track in _each(self.tracks.get(n))]

    def mask(self, track: Track) -> Tensor:
        """Which entries of a tensor stay, in the layout of its labels."""
        return self._is_kept(track.labels)

    def settle(self) -> None:
        """Keep more until coupled channels agree and each tensor is as long everywhere."""
        before = -1
        while before != int(self.kept.sum()):
            before = int(self.kept.sum())
            for one, other in self._equal:
                both = self._is_kept(one) | self._is_kept(other)
                self.keep(one[both])
                self.keep(other[both])
            for tracks in (*self.tracks.values(), *self._even):
                for track in _each(tracks):
                    self._make_even(track)

    def _is_kept(self, labels: Tensor) -> Tensor:
        return (labels == UNLABELLED) | self.kept[labels.clamp(min=0)]

    def _make_even(self, track: Track) -> None:
        """Keep channels that could go, as many as make each row along the axis as long as the longest.

        One stays in any case: not every operator takes empty tensors.
        """
        labels = track.labels.movedim(track.axis, -1).reshape(-1, track.labels.shape[track.axis])
        counts = self._is_kept(labels).sum(-1)
        length = max(int(counts.max()), 1)
        for row, count in zip(labels, counts, strict=True):
            if count < length:
                free = row[~self._is_kept(row)]
                self.keep(free[: length - int(self._is_kept(row).sum())])

    # -- where channels go ---------------------------------------------------------------------------------------

    def _track(self, node: Node) -> Any:
        if node.op == "output":
            self.keep_all(*node.all_input_nodes)
        if node.op != "call_function":
            return None
        if node.target in LINEAR or node.target in CONVOLUTIONS:
            return self._weighted(node)
        if not any(n in self.tracks for n in node.all_input_nodes):
            return None
        if mutates(node) and base_of(node).op in ("get_attr", "placeholder"):
            return self._stays(node)
        if node.target is operator.getitem:
            source, position = node.args
            return self.tracks[source][position]  # type: ignore[index]
        is_known = isinstance(node.meta.get("val"), Tensor) or node.target in MOVES
        for known, rule in self._rules() if is_known else ():
            if known(node):
                return rule(node)
        return self._stays(node)

    def _rules(self) -> Sequence[tuple[Callable[[Node], bool], Callable[[Node], Any]]]:
        return (
            (lambda node: node.target is aten.batch_norm.default, self._batch_norm),
            (lambda node: node.target is aten.layer_norm.default, self._layer_norm),
            (lambda node: node.target is aten.scaled_dot_product_attention.default, self._attention),
            (lambda node: node.target is aten.matmul.default, self._matmul),
            (lambda node: node.target in MOVES, self._moved),
            (lambda node: node.target in SPATIAL, self._spatial),
            (lambda node: node.target in PADDINGS, self._padded),
            (lambda node: node.target in REDUCTIONS, self._reduced),
            (is_pointwise, self._pointwise),
        )

    def _stays(self, node: Node) -> Any:
        """No rule: what the node reads stays as it is."""
        self.keep_all(*node.all_input_nodes)
        return None

    def _weighted(self, node: Node) -> Track | None:
        given = arguments_of(node)
        x, weight, bias = given["input"], self._tensor(given["weight"]), self._tensor(given["bias"])
        if weight is None or (given["bias"] is not None and bias is None) or not self._floats(node):
            return self._stays(node)
        groups = given.get("groups", 1)
        axis = node.meta["val"].dim() - 1 if node.target in LINEAR else 1
        track = self.tracks.get(x)
        dead = (weight.reshape(len(weight), -1) == 0).all(-1)
        if bias is not None:
            dead &= bias == 0
        if is_depthwise(weight, groups) and track is not None:
            if not track.lies_along(1):
                return self._stays(node)
            silent = bias is None or self._all(bias == 0, track)
            return Track(track.labels, 1, (track.zero and silent) or self._all(dead, track))
        if track is not None and node.target in LINEAR and track.axis != axis and track.labels.shape[-1] == 1:
            return Track(track.labels, track.axis, track.zero and bias is None)  # it works along another dimension
        if track is not None:
            self._contract(track, axis, weight, groups)
        result = self._new(dead, axis, node)
        if groups > 1:
            self._even += [Track(t.labels.reshape(groups, -1), 1, t.zero) for t in (track, result) if t is not None]
        return result

    def _contract(self, track: Track, axis: int, weight: Tensor, groups: int) -> None:
        """A weight reads channels: those that go must be zero, or be read with zeros."""
        if not track.lies_along(axis):
            self.keep(track.labels)
        elif not track.zero:
            by_group = weight.reshape(groups, len(weight) // groups, weight.shape[1], -1)
            unread = (by_group == 0).all(-1).all(1).flatten()
            self.keep(track.labels.flatten()[~unread.cpu()])

    def _new(self, dead: Tensor, axis: int, node: Node) -> Track | None:
        """Labels for the channels of a weight's result, if any can go."""
        if not bool(dead.any()):
            return None
        start = len(self.kept)
        self.kept = torch.cat([self.kept, ~dead.cpu()])
        shape = [1] * node.meta["val"].dim()
        shape[axis] = -1
        return Track(torch.arange(start, start + len(dead)).reshape(shape), axis, zero=True)

    def _batch_norm(self, node: Node) -> Track | None:
        given = arguments_of(node)
        track = self._only(node, given["input"])
        if track is None or not track.lies_along(1):
            return self._stays(node)
        weight, bias = self._tensor(given["weight"]), self._tensor(given["bias"])
        silent = weight is not None and bias is not None
        return Track(track.labels, 1, silent and self._all((weight == 0) & (bias == 0), track))  # type: ignore[arg-type]

    def _layer_norm(self, node: Node) -> Track | None:
        """The statistics are of all channels: those that go must be zero."""
        given = arguments_of(node)
        track = self._only(node, given["input"])
        last = node.meta["val"].dim() - 1
        weight, bias = self._tensor(given["weight"]), self._tensor(given["bias"])
        if track is None or not track.zero or not track.lies_along(last):
            return self._stays(node)
        if weight is None or bias is None or len(given["normalized_shape"]) != 1:
            return self._stays(node)
        return Track(track.labels, last, self._all((weight == 0) & (bias == 0), track))

    def _attention(self, node: Node) -> Track | None:
        given = arguments_of(node)
        query, key, value = (self.tracks.get(given[name]) for name in ("query", "key", "value"))
        rest = [n for n in node.all_input_nodes if n not in (given["query"], given["key"], given["value"])]
        self.keep_all(*rest)
        last = node.meta["val"].dim() - 1
        if not self._pair(query, key, last):
            self.keep_all(given["query"], given["key"])
        if value is not None and (not _lies_in_rows(value, last) or given.get("enable_gqa")):
            self.keep_all(given["value"])
            return None
        return value

    def _pair(self, one: Track | None, other: Track | None, last: int) -> bool:
        """Couple what is contracted along the last dimension of both, row with row; whether that can be done."""
        if one is None or other is None or one.labels.shape != other.labels.shape:
            return False
        if not (_lies_in_rows(one, last) and _lies_in_rows(other, last) and (one.zero or other.zero)):
            return False
        self._equal.append((one.labels, other.labels))
        return True

    def _matmul(self, node: Node) -> Track | None:
        """`scores @ values`: the channels of the values; those of anything else that is contracted stay."""
        left, right = (self.tracks.get(operand) for operand in node.args)  # type: ignore[arg-type]
        last = node.meta["val"].dim() - 1
        if left is None and right is not None and _lies_in_rows(right, last):
            return right
        if right is not None and right.labels.dim() > 1:
            columns = Track(right.labels.transpose(-1, -2), right.axis + 1, right.zero)
            if right.axis == last - 1 and self._pair(left, columns, last):
                return None
        return self._stays(node)

    def _moved(self, node: Node) -> Any:
        """Labels go where the operator takes them."""
        like = self.adopted(node)
        labels = self.run(node, lambda n: self._full(n, like)[0])
        axes = self.run(node, lambda n: self._full(n, like)[1])
        floats = [n for n in node.all_input_nodes if _is_float(n)]
        zero = all(self.tracks[n].zero if n in self.tracks else self._is_zero(n, like) for n in floats)
        several = isinstance(labels, list | tuple)
        pairs = zip(labels, axes, strict=True) if several else [(labels, axes)]
        results = [_reduced_track(one, axis, zero) for one, axis in pairs]
        values = node.meta["val"] if several else [node.meta["val"]]
        if any(
            t is not None and isinstance(v.shape[t.axis], torch.SymInt) for t, v in zip(results, values, strict=True)
        ):
            return self._stays(node)  # channels among the examples of a batch
        return results if several else results[0]

    def run(self, node: Node, operand: Callable[[Node], Any]) -> Any:
        """The operator itself, on other operands."""
        args, kwargs = map_arg((node.args, node.kwargs), operand)
        return node.target(*args, **kwargs)  # type: ignore[operator]

    def adopted(self, node: Node) -> Track | None:
        """What tensors without labels, joined along another dimension with one that has some, take over from it."""
        tracks = [self.tracks[n] for n in node.all_input_nodes if n in self.tracks]
        joins = node.target is aten.cat.default and isinstance(tracks[0], Track)
        dimension = arguments_of(node)["dim"] if joins else 0
        return tracks[0] if joins and tracks[0].labels.shape[dimension] == 1 else None

    def _full(self, node: Node, like: Track | None) -> tuple[Any, Any]:
        """The labels of all entries of an operand, and where each stands along the axis."""
        value = node.meta["val"]
        if not isinstance(value, Tensor):
            return concrete(value), concrete(value)
        shape, track = self.shape(node), self.tracks.get(node, like)
        if track is None:
            return torch.full(shape, UNLABELLED), torch.zeros(shape, dtype=torch.int64)
        along = [1] * len(shape)
        along[track.axis] = -1
        places = torch.arange(1, shape[track.axis] + 1).reshape(along)
        return track.labels.expand(shape).contiguous(), places.expand(shape).contiguous()

    def _is_zero(self, node: Node, track: Track | None) -> bool:
        """Whether a tensor without labels is known to be zero wherever `track` has channels that can go."""
        held = self.held(node)
        if held is None or track is None:
            return False
        return bool(((held == 0).cpu() | self.mask(_aligned(track, max(held.dim(), track.labels.dim())))).all())

    def held(self, node: Node) -> Tensor | None:
        """The values of a tensor that does not depend on the inputs, up to expansion."""
        if node.target is aten.expand.default and isinstance(node.args[0], Node):
            return self._tensor(node.args[0])
        return self._tensor(node)

    def _spatial(self, node: Node) -> Track | None:
        track = self._only(node, node.args[0])
        dimensions = range(-SPATIAL[node.target], 0)
        if track is None or any(track.labels.shape[d] > 1 for d in dimensions):
            return self._stays(node)
        return track

    def _padded(self, node: Node) -> Track | None:
        given = arguments_of(node)
        track = self._only(node, node.args[0])
        amounts = zip(given["pad"][::2], given["pad"][1::2], strict=True)
        padded = [-1 - i for i, amount in enumerate(amounts) if amount != (0, 0)]
        if track is None or any(track.labels.shape[d] > 1 for d in padded):
            return self._stays(node)
        return Track(track.labels, track.axis, track.zero and not given["value"])

    def _reduced(self, node: Node) -> Track | None:
        given = arguments_of(node)
        track = self._only(node, node.args[0])
        if track is None or given["dim"] is None or given["dim"] == []:
            return self._stays(node)
        rank = track.labels.dim()
        dimensions = [d % rank for d in (given["dim"] if isinstance(given["dim"], list | tuple) else [given["dim"]])]
        if any(track.labels.shape[d] > 1 for d in dimensions):
            return self._stays(node)
        is_softmax = "softmax" in str(node.target)
        if is_softmax or given.get("keepdim"):
            return Track(track.labels, track.axis, track.zero and not is_softmax)
        labels = track.labels.reshape([s for d, s in enumerate(track.labels.shape) if d not in dimensions])
        return Track(labels, track.axis - sum(d < track.axis for d in dimensions), track.zero)

    def _pointwise(self, node: Node) -> Track | None:
        rank = node.meta["val"].dim()
        operands = [n for n in node.all_input_nodes if n in self.tracks]
        aligned = [_aligned(self.tracks[n], rank) for n in operands]
        first = max(aligned, key=lambda track: track.labels.numel())
        length = self.shape(node)[first.axis]
        for track in aligned:
            if track.labels.shape != first.labels.shape or track.axis != first.axis:
                return self._stays(node)
            if track.labels.shape[track.axis] != length:
                return self._stays(node)  # one channel for all of another operand
            if track is not first:
                self._equal.append((first.labels, track.labels))
        return Track(first.labels, first.axis, self._maps_to_zero(node, first))

    def _maps_to_zero(self, node: Node, like: Track) -> bool:
        """Whether a pointwise operator is known to give zero for removable channels."""
        zeros = [self.tracks[n].zero if n in self.tracks else self._is_zero(n, like) for n in node.all_input_nodes]
        tensors = [isinstance(n.meta.get("val"), Tensor) for n in node.all_input_nodes]
        if node.target in PRODUCTS and any(zeros):
            return True
        if node.target in QUOTIENTS and zeros[0] and node.args[0] in self.tracks:
            return True
        if not all(zeros) or not all(tensors):
            return False
        result = self.run(node, lambda n: torch.zeros((), dtype=n.meta["val"].dtype))
        return result.is_floating_point() and bool(result == 0)

    # -- small things ------------------------------------------------------------------------------------------

    def _only(self, node: Node, operand: Any) -> Track | None:
        """The track of the one operand that may have labels."""
        others = [n for n in node.all_input_nodes if n is not operand and n in self.tracks]
        track = self.tracks.get(operand)
        return track if not others and isinstance(track, Track) else None

    def shape(self, node: Node) -> list[int]:
        """A tensor's shape in the example."""
        return [concrete(size) for size in node.meta["val"].shape]

    def _tensor(self, node: Any) -> Tensor | None:
        is_held = isinstance(node, Node) and node.op == "get_attr"
        return self.plain.tensors[str(node.target)] if is_held else None

    def _floats(self, node: Node) -> bool:
        return all(_is_float(n) for n in node.all_input_nodes)

    def _all(self, true: Tensor, track: Track) -> bool:
        """Whether it is true of all removable channels (of a tensor with labels along its axis alone)."""
        return bool((true.cpu() | self._is_kept(track.labels.flatten())).all())


def is_depthwise(weight: Tensor, groups: int) -> bool:
    return groups > 1 and groups == len(weight) and weight.shape[1] == 1


def _lies_in_rows(track: Track, last: int) -> bool:
    """Whether labels lie along the last dimension of a matrix, the same in each of its rows."""
    return track.labels.dim() > 1 and track.axis == last == track.labels.dim() - 1 and track.labels.shape[-2] == 1


def _each(tracks: Any) -> Sequence[Track]:
    if tracks is None:
        return ()
    return [track for track in tracks if track is not None] if isinstance(tracks, list) else [tracks]


def _is_float(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point()


def _aligned(track: Track, rank: int) -> Track:
    """A track with dimensions in front, as PyTorch aligns shapes."""
    missing = rank - track.labels.dim()
    return Track(track.labels.reshape((1,) * missing + tuple(track.labels.shape)), track.axis + missing, track.zero)


def _reduced_track(labels: Tensor, coordinates: Tensor, zero: bool) -> Track | None:
    """A track from labels at full size; its axis is the last dimension along which the old axis runs."""
    if bool((labels == UNLABELLED).all()):
        return None
    runs = [d for d in range(labels.dim()) if _varies(coordinates, d)]
    for dimension in range(labels.dim()):
        if not _varies(labels, dimension):
            labels = labels.narrow(dimension, 0, 1)
    return Track(labels.contiguous(), runs[-1] if runs else labels.dim() - 1, zero)


def _varies(values: Tensor, dimension: int) -> bool:
    return not torch.equal(values, values.narrow(dimension, 0, 1).expand_as(values))
