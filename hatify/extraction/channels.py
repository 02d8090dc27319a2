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

from hatify.analysis.sizes import concrete
from hatify.capture.mutations import mutates
from hatify.capture.views import base_of
from hatify.extraction.plain import PlainGraph
from hatify.extraction.registry import family_of

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

    def lies_in_rows(self, last: int) -> bool:
        """Whether labels lie along the last dimension of a matrix, the same in each of its rows."""
        return self.labels.dim() > 1 and self.axis == last == self.labels.dim() - 1 and self.labels.shape[-2] == 1

    def aligned(self, rank: int) -> Track:
        """The same with dimensions in front, as PyTorch aligns shapes."""
        missing = rank - self.labels.dim()
        return Track(self.labels.reshape((1,) * missing + tuple(self.labels.shape)), self.axis + missing, self.zero)


@dataclass(frozen=True)
class Source:
    """The channels of one weight's result. name: the weight's module. labels: theirs. unused: which the task leaves."""

    name: str
    labels: slice
    unused: Tensor


class Channels:
    """The labels of a plain graph's tensors, and which labels stay.

    tracks: by node, for tensors that have labels. kept: by label.
    """

    def __init__(self, plain: PlainGraph) -> None:
        self.plain = plain
        self.tracks: dict[Node, Any] = {}
        self.kept = torch.zeros(0, dtype=torch.bool)
        self._equal: list[tuple[Tensor, Tensor]] = []
        self._level: list[Track] = []
        self._sources: list[Source] = []
        self._reasons: list[str] = []
        self._reason = torch.zeros(0, dtype=torch.int64)  # of each label, which reason it was first kept for
        for node in plain.graph.nodes:
            track = self._follow(node)
            if track is not None:
                self.tracks[node] = track
        self.settle()

    # -- what stays --------------------------------------------------------------------------------------------

    def keep(self, labels: Tensor, reason: str) -> None:
        """Keep these channels. reason: why they cannot go, for the report."""
        new = labels[labels >= 0]
        new = new[~self.kept[new]]
        if len(new):
            if reason not in self._reasons:
                self._reasons.append(reason)
            self._reason[new] = self._reasons.index(reason)
            self.kept[new] = True

    def keep_all(self, *nodes: Any, reason: str) -> None:
        for node in nodes:
            for track in each(self.tracks.get(node)):
                self.keep(track.labels, reason)

    def stays(self, node: Node) -> Any:
        """No rule: what the node reads stays as it is, and its result has no labels."""
        self.keep_all(*node.all_input_nodes, reason=f"{_called(node)} needs them in their place")
        return None

    def stay_equal(self, one: Tensor, other: Tensor) -> None:
        """What stays of one stays of the other."""
        self._equal.append((one, other))

    def stay_level(self, track: Track) -> None:
        """As many stay in each row along the track's axis."""
        self._level.append(track)

    def settle(self) -> None:
        """Keep more until coupled channels agree and each tensor is as long everywhere."""
        before = -1
        while before != int(self.kept.sum()):
            before = int(self.kept.sum())
            for one, other in self._equal:
                both = self._is_kept(one) | self._is_kept(other)
                self.keep(one[both], "they meet channels that stay")
                self.keep(other[both], "they meet channels that stay")
            for tracks in (*self.tracks.values(), *self._level):
                for track in each(tracks):
                    self._make_level(track)

    def _make_level(self, track: Track) -> None:
        """Keep channels that could go, as many as make each row along the axis as long as the longest.

        One stays in any case: not every operator takes empty tensors.
        """
        labels = track.labels.movedim(track.axis, -1).reshape(-1, track.labels.shape[track.axis])
        counts = self._is_kept(labels).sum(-1)
        length = max(int(counts.max()), 1)
        for row, count in zip(labels, counts, strict=True):
            if count < length:
                free = row[~self._is_kept(row)]
                reason = "each group or head has as many" if len(labels) > 1 else "one channel is left in any case"
                self.keep(free[: length - int(self._is_kept(row).sum())], reason)

    def _is_kept(self, labels: Tensor) -> Tensor:
        return (labels == UNLABELLED) | self.kept[labels.clamp(min=0)]

    def report(self) -> dict[str, str]:
        """By module, why channels stay that the task does not use."""
        report: dict[str, str] = {}
        for source in self._sources:
            staying = source.unused & self.kept[source.labels]
            if bool(staying.any()):
                reasons = dict.fromkeys(self._reasons[i] for i in self._reason[source.labels][staying].tolist())
                counts = f"{int(staying.sum())} of {int(source.unused.sum())} unused channels stay"
                report[source.name] = f"{counts}: {'; '.join(reasons)}"
        return report

    # -- where channels go -------------------------------------------------------------------------------------

    def _follow(self, node: Node) -> Any:
        if node.op == "output":
            self.keep_all(*node.all_input_nodes, reason="they are outputs")
        if node.op != "call_function":
            return None
        family = family_of(node)
        writes = family is not None and family.writes
        if not writes and not any(n in self.tracks for n in node.all_input_nodes):
            return None
        if mutates(node) and base_of(node).op in ("get_attr", "placeholder"):
            return self.stays(node)
        if node.target is operator.getitem:
            source, position = node.args
            return self.tracks[source][position] if source in self.tracks else None  # type: ignore[index]
        return self.stays(node) if family is None else family.follow(self, node)

    def begin(self, node: Node, weight: Node, unused: Tensor, axis: int) -> Track | None:
        """Labels for the channels of a weight's result, along an axis, if the task leaves some unused."""
        if not bool(unused.any()):
            return None
        labels = self.new_labels(weight, unused)
        shape = [1] * node.meta["val"].dim()
        shape[axis] = -1
        return Track(labels.reshape(shape), axis, zero=True)

    def new_labels(self, weight: Node, unused: Tensor) -> Tensor:
        start, unused = len(self.kept), unused.cpu()
        self.kept = torch.cat([self.kept, ~unused])
        self._reason = torch.cat([self._reason, torch.zeros(len(unused), dtype=torch.int64)])
        module = str(weight.target).rpartition(".")[0] or str(weight.target)
        self._sources.append(Source(module, slice(start, start + len(unused)), unused))
        return torch.arange(start, start + len(unused))

    # -- what the families ask -----------------------------------------------------------------------------------

    def around(self, node: Node) -> list[Track]:
        """The tracks of a node's results and of its operands."""
        return [track for n in (node, *node.all_input_nodes) for track in each(self.tracks.get(n))]

    def mask(self, track: Track) -> Tensor:
        """Which entries of a tensor stay, in the layout of its labels."""
        return self._is_kept(track.labels)

    def only(self, node: Node, operand: Any) -> Track | None:
        """The track of the one operand that may have labels."""
        others = [n for n in node.all_input_nodes if n is not operand and n in self.tracks]
        track = self.tracks.get(operand)
        return track if not others and isinstance(track, Track) else None

    def run(self, node: Node, operand: Callable[[Node], Any]) -> Any:
        """The operator itself, on other operands."""
        args, kwargs = map_arg((node.args, node.kwargs), operand)
        return node.target(*args, **kwargs)  # type: ignore[operator]

    def shape(self, node: Node) -> list[int]:
        """A tensor's shape in the example."""
        return [concrete(size) for size in node.meta["val"].shape]

    def held(self, node: Any) -> Tensor | None:
        """The values of a tensor that does not depend on the inputs."""
        is_held = isinstance(node, Node) and node.op == "get_attr"
        return self.plain.tensors[str(node.target)] if is_held else None

    def is_zero(self, node: Node, track: Track | None) -> bool:
        """Whether a tensor without labels is known to be zero wherever `track` has channels that can go."""
        expanded = node.target is aten.expand.default
        values = self.held(node.args[0] if expanded else node)
        if values is None or track is None:
            return False
        aligned = track.aligned(max(values.dim(), track.labels.dim()))
        return bool(((values == 0).cpu() | self.mask(aligned)).all())

    def all(self, true: Tensor, track: Track) -> bool:
        """Whether it is true of all removable channels (of a tensor with labels along its axis alone)."""
        return bool((true.cpu() | self._is_kept(track.labels.flatten())).all())


def each(tracks: Any) -> Sequence[Track]:
    """The tracks of one result or of several."""
    if tracks is None:
        return ()
    return [track for track in tracks if track is not None] if isinstance(tracks, list) else [tracks]


def is_float(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point()


def _called(node: Node) -> str:
    """What is called, and where, in words."""
    path = node.meta.get("module_path")
    return f"{node.target} in {path!r}" if path else str(node.target)
