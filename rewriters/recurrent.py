"""Fused recurrent layers: LSTM, GRU and plain RNNs.

The mask goes into the rows of the candidate: where those are zero and the state starts at zero, the state stays
zero, whatever the other gates say. With soft masks the candidate's pre-activation is scaled, not the state.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from hatify.analysis.call import Call
from hatify.analysis.effect import Argument, Effect, Factor, Gate, Use
from hatify.analysis.support import LIVE, ZERO
from rewriters.registry import rewriter

aten = torch.ops.aten


@rewriter(aten.lstm.input)
def lstm(call: Call) -> Effect:
    return recurrent(call, rows=4, candidate=2)  # input, forget, cell, output


@rewriter(aten.gru.input)
def gru(call: Call) -> Effect:
    return recurrent(call, rows=3, candidate=2)  # reset, update, new


@rewriter(aten.rnn_tanh.input, aten.rnn_relu.input)
def rnn(call: Call) -> Effect:
    return recurrent(call, rows=1, candidate=0)


def recurrent(call: Call, *, rows: int, candidate: int) -> Effect:
    """`rows`: blocks of hidden-size rows in each weight. `candidate`: the block that is masked."""
    layers, directions = int(call["num_layers"]), 2 if call["bidirectional"] else 1
    per_layer = 4 if call["has_biases"] else 2
    if len(call["params"]) != layers * directions * per_layer:
        return call.live(reads=call.operands)  # an LSTM with projections
    operand = call["input"]
    hidden = call.results[-1][-1]
    inputs, source = call.support(operand)[..., :], operand
    gates: list[Gate] = []
    uses: list[Use] = []
    states: list[npt.NDArray[np.int64]] = []
    for layer in range(layers):
        outputs = [call.fresh(hidden) for _ in range(directions)]
        for direction, features in enumerate(outputs):
            first = (layer * directions + direction) * per_layer
            weights = [Argument("params", first + i) for i in range(per_layer)]
            blocks = [features if block == candidate else np.full(hidden, LIVE) for block in range(rows)]
            mask = np.concatenate(blocks)
            gates.append(Gate(mask, {w: (-1, 1) if i < 2 else (-1,) for i, w in enumerate(weights)}))
            written = np.tile(features, rows)
            state = Factor(written[:, None], "input", call.node)
            read = Factor(inputs[..., None, :], "input", source, rows=inputs.ndim - 1)
            recurs = Factor(features[None, :], "input", call.node)
            uses += [Use(weights[0], (state, read)), Use(weights[1], (state, recurs))]
            uses += [Use(bias, (Factor(written, "input", call.node),)) for bias in weights[2:]]
        inputs, source = np.concatenate(outputs), call.node
        states += outputs
    stacked = np.stack(states)[:, None, :]
    gates += _initial_states(call, stacked)
    sequence = inputs.reshape((1,) * (len(call.results[0]) - 1) + (-1,))
    rest = [stacked if len(shape) == 3 else stacked[:, 0] for shape in call.results[1:]]
    return Effect((sequence, *rest), reads=(operand,), gates=tuple(gates), uses=tuple(uses))


def _initial_states(call: Call, features: npt.NDArray[np.int64]) -> list[Gate]:
    """States that the caller hands in must be zero where they are masked."""
    states = call["hx"]
    given = [states] if not isinstance(states, list | tuple) else list(states)
    gates: list[Gate] = []
    for index, state in enumerate(given):
        if not (call.support(state) == ZERO).all():
            location = Argument("hx", index) if isinstance(states, list | tuple) else Argument("hx")
            ids = features if len(call.shape(state)) == 3 else features[:, 0]
            gates.append(Gate(ids, {location: ids.shape}))
    return gates
