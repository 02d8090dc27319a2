"""LSTM, GRU and plain RNNs: a hidden unit whose candidate and first state are zero stays zero."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from hatify.analysis.nodes import arguments_of
from hatify.capture.calls import given_arguments
from hatify.extraction.channels import Channels, Track
from hatify.extraction.families.weighted import contract, cut
from hatify.extraction.registry import Family, register
from hatify.extraction.smaller import Smaller
from rewriters.recurrent import GRU, LSTM, RNN, Kind

aten = torch.ops.aten

KINDS: dict[Any, Kind] = {
    aten.lstm.input: LSTM,
    aten.gru.input: GRU,
    aten.rnn_tanh.input: RNN,
    aten.rnn_relu.input: RNN,
}
ZEROS: set[Any] = {aten.zeros.default, aten.new_zeros.default}


@dataclass(frozen=True)
class Layout:
    """How a call is made up. weights: the nodes of each layer and direction: input, state, then biases."""

    kind: Kind
    directions: int
    weights: tuple[tuple[Node, ...], ...]
    states: tuple[Node, ...]

    @classmethod
    def of(cls, node: Node) -> Layout:
        given = arguments_of(node)
        directions = 2 if given["bidirectional"] else 1
        parts, params = int(given["num_layers"]) * directions, given["params"]
        size = len(params) // parts
        states = given["hx"] if isinstance(given["hx"], list | tuple) else [given["hx"]]
        weights = tuple(tuple(params[i * size : (i + 1) * size]) for i in range(parts))
        return cls(KINDS[node.target], directions, weights, tuple(states))


def follow(channels: Channels, node: Node) -> Any:
    layout = Layout.of(node)
    given = arguments_of(node)
    weights = [[channels.held(weight) for weight in own] for own in layout.weights]
    tensors = [[tensor for tensor in own if tensor is not None] for own in weights]
    is_projected = len(layout.weights[0]) % 2 == 1
    complete = all(len(own) == len(other) for own, other in zip(tensors, weights, strict=True))
    if not complete or is_projected or not all(state.target in ZEROS for state in layout.states):
        return channels.stays(node)
    track = channels.only(node, given["input"])
    if track is not None:
        first = torch.cat([own[0] for own in tensors[: layout.directions]])
        contract(channels, node, track, given["input"].meta["val"].dim() - 1, first)
    dead = [_dead(own, layout.kind) for own in tensors]
    if not any(bool(own.any()) for own in dead):
        return None
    labels = torch.stack(
        [channels.new_labels(own[0], unused) for own, unused in zip(layout.weights, dead, strict=True)]
    )
    channels.stay_level(Track(labels, 1, zero=True))
    sequence, *states = node.meta["val"]
    last = torch.cat(tuple(labels[-layout.directions :])).reshape([1] * (sequence.dim() - 1) + [-1])
    state = labels if states[0].dim() == 2 else labels[:, None]
    return [Track(last, last.dim() - 1, True), *(Track(state, state.dim() - 1, True) for _ in states)]


def shrink(smaller: Smaller, node: Node) -> Node:
    layout, given = Layout.of(node), arguments_of(node)
    tracks = smaller.channels.tracks.get(node)
    columns = smaller.positions(given["input"])
    hidden = smaller.value(layout.weights[0][1]).shape[1]
    left = [torch.arange(hidden) for _ in layout.weights] if tracks is None else _left(smaller, tracks[1])
    params: list[Node] = []
    for position, own in enumerate(layout.weights):
        layer = position // layout.directions
        if layer and position % layout.directions == 0:
            before = left[position - layout.directions : position]
            columns = torch.cat([d * hidden + units for d, units in enumerate(before)])
        rows = torch.cat([block * hidden + left[position] for block in range(layout.kind.blocks)])
        reads = (columns, left[position])
        for weight, read in zip(own[:2], reads, strict=True):
            params.append(smaller.read(str(weight.target), cut(smaller.value(weight), rows, read)))
        params += [smaller.sliced(bias, rows) for bias in own[2:]]
    states = [_zeros(smaller, state, len(left[0])) for state in layout.states]
    hx = states if isinstance(given["hx"], list | tuple) else states[0]
    return smaller.call(node, {**given_arguments(node), "hx": hx, "params": params})


def _dead(weights: Sequence[Tensor], kind: Kind) -> Tensor:
    """The units whose candidate is zero."""
    rows = [weight.unflatten(0, (kind.blocks, -1))[kind.candidate] for weight in weights]
    return torch.stack([(row.reshape(len(row), -1) == 0).all(-1) for row in rows]).all(0)


def _left(smaller: Smaller, states: Track) -> list[Tensor]:
    """The units that are left, of each layer and direction."""
    mask = smaller.channels.mask(states)
    return [row.nonzero()[:, 0] for row in mask.reshape(mask.shape[0], -1)]


def _zeros(smaller: Smaller, state: Node, units: int) -> Node:
    """The first state, with fewer units."""
    named = given_arguments(state)
    return smaller.call(state, {**named, "size": [*named["size"][:-1], units]})


register(Family(follow, shrink, writes=True), *KINDS)
