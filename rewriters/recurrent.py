"""Fused recurrent layers and cells: LSTM, GRU and plain RNNs.

The mask goes into the rows of the candidate: where those are zero and the state starts at zero, the state
stays zero, whatever the other gates say. With soft masks the candidate is scaled before its tanh, not the state.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.fx import Node

from hatify.analysis.call import Call
from hatify.analysis.effect import Argument, Effect, Factor, Gate, Use
from hatify.analysis.support import LIVE, ZERO, Support, along
from hatify.capture.calls import is_tensor
from rewriters.registry import rewriter

aten = torch.ops.aten

Ids = npt.NDArray[np.int64]


class Kind(NamedTuple):
    """How the rows of a weight are laid out: in blocks of hidden size, one of which is the candidate's."""

    blocks: int
    candidate: int


LSTM = Kind(blocks=4, candidate=2)  # input, forget, cell, output
GRU = Kind(blocks=3, candidate=2)  # reset, update, new
RNN = Kind(blocks=1, candidate=0)


@rewriter(aten.lstm.input)
def lstm(call: Call) -> Effect:
    return layers(call, LSTM)


@rewriter(aten.gru.input)
def gru(call: Call) -> Effect:
    return layers(call, GRU)


@rewriter(aten.rnn_tanh.input, aten.rnn_relu.input)
def rnn(call: Call) -> Effect:
    return layers(call, RNN)


@rewriter(aten.lstm_cell.default)
def lstm_cell(call: Call) -> Effect:
    return cell(call, LSTM)


@rewriter(aten.gru_cell.default)
def gru_cell(call: Call) -> Effect:
    return cell(call, GRU)


@rewriter(aten.rnn_tanh_cell.default, aten.rnn_relu_cell.default)
def rnn_cell(call: Call) -> Effect:
    return cell(call, RNN)


@dataclass(frozen=True)
class Weights:
    """Where a layer's weights stand in the call: `input` and `state` (blocks * hidden, in), and the biases.

    projection: of an LSTM whose output is projected, the weight (out, hidden) that does it.
    """

    input: Argument
    state: Argument
    biases: tuple[Argument, ...]
    projection: Argument | None = None


def layers(call: Call, kind: Kind) -> Effect:
    """Several layers, each of one or two directions, in one call."""
    depth, directions = int(call["num_layers"]), 2 if call["bidirectional"] else 1
    per_layer = len(call["params"]) // (depth * directions)
    operand, outputs, hidden = call["input"], call.results[1][-1], call.results[-1][-1]
    support, source = call.support(operand), operand
    gates: list[Gate] = []
    uses: list[Use] = []
    written: list[Ids] = []
    cells: list[Ids] = []
    for position in range(depth * directions):
        first = position * per_layer
        weight, recurrent, *rest = (Argument("params", first + i) for i in range(per_layer))
        projection = rest.pop() if len(rest) % 2 else None
        weights = Weights(weight, recurrent, tuple(rest), projection)
        cells.append(call.fresh(hidden))
        written.append(cells[-1] if projection is None else call.fresh(outputs))
        gates.append(_gate(cells[-1], weights, kind))
        uses += _uses(call, cells[-1], written[-1], weights, kind, support, source)
        if projection is not None:
            gates.append(Gate(written[-1], {projection: (-1, 1)}))
        if (position + 1) % directions == 0:
            support, source = np.concatenate(written[-directions:]), call.node
    states = [np.stack(written)[:, None, :], np.stack(cells)[:, None, :]]
    reads, state_gates = _initial_states(call, states)
    sequence = along(support, -1, len(call.results[0]))
    final = [s if len(shape) == 3 else s[:, 0] for s, shape in zip(states, call.results[1:], strict=False)]
    return Effect((sequence, *final), reads=(operand, *reads), gates=(*gates, *state_gates), uses=tuple(uses))


def cell(call: Call, kind: Kind) -> Effect:
    """One step of one layer."""
    operand, features = call["input"], call.fresh(call.result_shape[-1])
    biases = tuple(Argument(name) for name in ("b_ih", "b_hh") if call[name] is not None)
    weights = Weights(Argument("w_ih"), Argument("w_hh"), biases)
    state = along(features, -1, len(call.result_shape))
    reads, state_gates = _initial_states(call, [state, state])
    is_single = isinstance(call.node.meta["val"], torch.Tensor)
    return Effect(
        state if is_single else tuple(state for _ in call.results),
        reads=(operand, *reads),
        gates=(_gate(features, weights, kind), *state_gates),
        uses=tuple(_uses(call, features, features, weights, kind, call.support(operand), operand)),
    )


def _gate(features: Ids, weights: Weights, kind: Kind) -> Gate:
    blocks = [features if block == kind.candidate else np.full_like(features, LIVE) for block in range(kind.blocks)]
    slots: dict[Argument, tuple[int, ...]] = {weights.input: (-1, 1), weights.state: (-1, 1)}
    return Gate(np.concatenate(blocks), slots | {bias: (-1,) for bias in weights.biases})


def _uses(
    call: Call, cells: Ids, outputs: Ids, weights: Weights, kind: Kind, support: Support, source: Node
) -> Iterator[Use]:
    """Every row belongs to a feature, and matters only if the state of that feature is zero where it is dead.

    cells: the features of the hidden units. outputs: those of what they give, the same unless it is projected.
    """
    rows = np.tile(cells, kind.blocks)
    written = Factor(rows[:, None], "input", call.node)
    read = Factor(support[..., None, :], "input", source, rows=support.ndim - 1)
    recurs = Factor(outputs[None, :], "input", call.node)
    yield Use(weights.input, (written, read))
    yield Use(weights.state, (written, recurs))
    for argument in weights.biases:
        yield Use(argument, (Factor(rows, "input", call.node),))
    if weights.projection is not None:
        factors = (Factor(outputs[:, None], "input", call.node), Factor(cells[None, :], "input", call.node))
        yield Use(weights.projection, factors)


def _initial_states(call: Call, features: Sequence[Support]) -> tuple[list[Node], list[Gate]]:
    """States that are handed in must be zero where they are masked.

    Features of another layer's state are coupled with this one's and must be zero themselves; anything else is
    gated on its way in.
    """
    given = call["hx"]
    reads: list[Node] = []
    gates: list[Gate] = []
    for (location, state), written in zip(_located(given), features, strict=False):
        support = call.support(state)
        if not is_tensor(state) or (support == ZERO).all():
            continue
        ids = written if len(call.shape(state)) == written.ndim else written[:, 0]
        combination = call.variables.combine(support, ids)
        if combination.is_coupled:
            reads.append(state)
        else:
            gates.append(Gate(ids, {location: ids.shape}))
    return reads, gates


def _located(argument: Any) -> list[tuple[Argument, Node]]:
    if isinstance(argument, list | tuple):
        return [(Argument("hx", index), state) for index, state in enumerate(argument)]
    return [(Argument("hx"), argument)]
