"""A plain graph without the channels that can go."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node
from torch.fx.node import map_arg

from hatify.analysis.sizes import concrete
from hatify.errors import ExtractionError
from hatify.extraction.channels import UNLABELLED, Channels, Track
from hatify.extraction.plain import PlainGraph, name_for
from hatify.extraction.registry import family_of

aten = torch.ops.aten


class Misplaced(Exception):
    """An operator would not put the channels that are left where they belong: all of these have to stay."""

    def __init__(self, node: Node, tracks: Sequence[Track]) -> None:
        super().__init__(str(node))
        self.target = str(node.target)
        self.tracks = tracks


def without_removable_channels(plain: PlainGraph) -> tuple[Graph, dict[str, Tensor], dict[str, str]]:
    """The same function, with tensors from which the channels that can go are cut.

    The third result says, by module, why channels stay that the task does not use.
    """
    channels = Channels(plain)
    while True:
        try:
            smaller = Smaller(plain, channels)
            return smaller.graph, smaller.tensors, channels.report()
        except Misplaced as misplaced:
            if all(bool(channels.mask(track).all()) for track in misplaced.tracks):
                raise ExtractionError(
                    f"the channels of {misplaced} cannot be followed: this is a bug of hatify"
                ) from None
            for track in misplaced.tracks:
                channels.keep(track.labels, f"{misplaced.target} would put them elsewhere")
            channels.settle()


class Smaller:
    """The smaller graph, while it is built, with what the families need for that."""

    def __init__(self, plain: PlainGraph, channels: Channels) -> None:
        self.graph = Graph()
        self.tensors: dict[str, Tensor] = {}
        self.channels = channels
        self._plain = plain
        self._copies: dict[Node, Node] = {}
        for node in plain.graph.nodes:
            if node.op != "get_attr":
                self._copies[node] = self._smaller(node)

    def _smaller(self, node: Node) -> Node:
        family = family_of(node)
        if family is None or node.op != "call_function" or node.target is operator.getitem or not self._is_cut(node):
            return self.copied(node)
        return family.shrink(self, node)

    def _is_cut(self, node: Node) -> bool:
        """Whether anything goes from a node's result or operands."""
        return any(map(self.removes, self.channels.around(node)))

    # -- calls -------------------------------------------------------------------------------------------------

    def copied(self, node: Node) -> Node:
        """The same call on the operands of this graph."""
        return self.graph.node_copy(node, self.copy)

    def call(self, node: Node, named: dict[str, Any], operand: Callable[[Node], Any] | None = None) -> Node:
        """The same operator with these arguments, by name."""
        args, kwargs = laid_out(node.target, named, operand or self.copy)
        return self.graph.call_function(node.target, args, kwargs)  # type: ignore[arg-type]

    def check(self, node: Node, operator_on_labels: Callable[[], Any]) -> None:
        """Whether the operator, on the labels that are left, gives the labels that are left.

        Raises:
            Misplaced: it does not.
        """
        try:
            found = operator_on_labels()
        except RuntimeError as error:  # sizes that do not fit what is left
            raise Misplaced(node, self.channels.around(node)) from error
        several = isinstance(found, list | tuple)
        results, tracks = (found if several else [found]), self.channels.tracks.get(node)
        for labels, track in zip(results, tracks if isinstance(tracks, list) else [tracks] * len(results), strict=True):
            left = torch.full_like(labels, UNLABELLED) if track is None else self._only_left(track, labels.shape)
            if not torch.equal(left, labels):
                raise Misplaced(node, self.channels.around(node))

    # -- operands ----------------------------------------------------------------------------------------------

    def copy(self, node: Any) -> Node:
        """A node of the plain graph as a node of this one."""
        if node.graph is self.graph:
            return node
        return self.read(str(node.target), self.value(node)) if node.op == "get_attr" else self._copies[node]

    def fitting(self, node: Node, track: Track, rank: int) -> Node:
        """An operand; one without labels is cut as those with labels are."""
        value = node.meta.get("val")
        if node in self.channels.tracks or not isinstance(value, Tensor) or not self.removes(track):
            return self.copy(node)
        axis = track.axis - (rank - value.dim())
        if axis < 0 or concrete(value.shape[axis]) == 1:
            return self.copy(node)
        positions = self._along(track)
        if positions is None:
            raise Misplaced(node, [track])
        if node.op == "get_attr":
            held = self.value(node)
            return self.read(str(node.target), held.index_select(axis, positions.to(held.device)))
        where = self.read(f"{self._plain.constants}.positions", positions.to(self._plain.device))
        return self.graph.call_function(aten.index_select.default, (self.copy(node), axis, where))

    def sliced(self, node: Node, rows: Tensor | None) -> Node:
        """What a node holds, of which these rows are left; None: all."""
        value = self.value(node)
        return self.read(str(node.target), value if rows is None else value[rows.to(value.device)])

    def read(self, name: str, value: Tensor) -> Node:
        """A node that holds a tensor."""
        unique = name_for(self.tensors, name, value)
        self.tensors[unique] = value
        return self.graph.create_node("get_attr", unique)

    def value(self, node: Node) -> Tensor:
        """What a node of the plain graph holds."""
        return self._plain.tensors[str(node.target)]

    def is_mask(self, node: Node) -> bool:
        """Whether a node of the plain graph holds one of the task's masks."""
        return node.op == "get_attr" and str(node.target).startswith(f"{self._plain.constants}.mask")

    # -- what is left ------------------------------------------------------------------------------------------

    def positions(self, node: Any) -> Tensor | None:
        """The channels of a tensor that are left; None if all are."""
        track = self.channels.tracks.get(node)
        return None if track is None or not self.removes(track) else self._along(track)

    def length(self, track: Track) -> int:
        """How long a tensor is then along the track's axis."""
        mask = self.channels.mask(track).movedim(track.axis, -1)
        return int(mask.reshape(-1, mask.shape[-1])[0].sum())

    def left(self, node: Node, like: Track | None) -> Any:
        """The labels that are left of an operand, at the size that it has then."""
        value = node.meta["val"]
        if not isinstance(value, Tensor):
            return concrete(value)
        track = self.channels.tracks.get(node, like)
        shape = self.channels.shape(node)
        return torch.full(shape, UNLABELLED) if track is None else self._only_left(track, shape)

    def _only_left(self, track: Track, shape: Sequence[int]) -> Tensor:
        mask = self.channels.mask(track).movedim(track.axis, -1)
        labels = track.labels.movedim(track.axis, -1)
        left = labels[mask].reshape(*labels.shape[:-1], -1).movedim(-1, track.axis)
        return left.expand([left.shape[track.axis] if d == track.axis else size for d, size in enumerate(shape)])

    def _along(self, track: Track) -> Tensor | None:
        """What is left along the axis; None where it is not the same everywhere."""
        mask = self.channels.mask(track)
        return mask.flatten().nonzero()[:, 0] if mask.numel() == mask.shape[track.axis] else None

    def removes(self, track: Track) -> bool:
        """Whether any of these channels go."""
        return not bool(self.channels.mask(track).all())


def laid_out(target: Any, named: dict[str, Any], operand: Callable[[Node], Any]) -> tuple[Any, dict[str, Any]]:
    """Arguments by name as an operator takes them, with other operands."""
    given = {name: map_arg(value, operand) for name, value in named.items()}
    positional = [argument for argument in target._schema.arguments if not argument.kwarg_only]
    last = max((i for i, argument in enumerate(positional) if argument.name in given), default=-1)
    args = tuple(given.get(a.name, a.default_value) for a in positional[: last + 1])
    return args, {a.name: given[a.name] for a in target._schema.arguments if a.kwarg_only and a.name in given}
