"""Recurrent layers: a dead unit's state starts at zero and stays there."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hatify import hatify
from tests.rewriters.promises import SHAPES, WIDTH, check, check_between, ideal

BLOCKS = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1}
HIDDEN = 8


class States(nn.Module):
    """The states of a recurrent layer at every position."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        if self.layer.batch_first:
            return self.layer(x)[0]
        return self.layer(x.transpose(0, 1))[0].transpose(0, 1)


def entries(layer: nn.Module) -> dict[str, Any]:
    """A layer's weights lie between two masked sides, its biases at one."""
    sizes = {name: parameter.numel() for name, parameter in layer.named_parameters()}
    biases = sum(size for name, size in sizes.items() if name.startswith("bias"))
    return {"one_sided": biases, "two_sided": sum(sizes.values()) - biases}


OPTIONS: dict[str, dict[str, Any]] = {
    "batch first": {"batch_first": True},
    "sequence first": {},
    "no biases": {"batch_first": True, "bias": False},
    "two layers": {"batch_first": True, "num_layers": 2, "dropout": 0.1},
    "both directions": {"batch_first": True, "bidirectional": True},
    "two layers, both directions": {"num_layers": 2, "bidirectional": True},
}


@pytest.mark.parametrize(
    ("kind", "option"),
    [
        *((nn.LSTM, option) for option in OPTIONS),
        *((nn.GRU, option) for option in ("no biases", "both directions", "two layers")),
        *((nn.RNN, option) for option in ("no biases", "two layers, both directions")),
    ],
)
def test_states_at_every_position(kind: Any, option: str) -> None:
    layer = kind(WIDTH, HIDDEN, **OPTIONS[option])
    read = HIDDEN * (2 if layer.bidirectional else 1)
    check_between("tokens", States(layer), **entries(layer), read=read, gates=0)


def test_a_plain_network_with_relu() -> None:
    layer = nn.RNN(WIDTH, HIDDEN, nonlinearity="relu", batch_first=True)
    check_between("tokens", States(layer), **entries(layer), read=HIDDEN, gates=0)


class FinalState(nn.Module):
    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.layer = kind(3, WIDTH, batch_first=True)
        self.read = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor, start: Tensor | None = None) -> Tensor:
        given: Any = None if start is None else start.transpose(0, 1).contiguous()
        if given is not None and isinstance(self.layer, nn.LSTM):
            given = given, -given
        final = self.layer(x, given)[1]
        hidden = final[0] + final[1] if isinstance(final, tuple) else final
        return self.head(torch.relu(self.read(hidden[-1])))


def share_of(kind: type[nn.RNNBase]) -> float:
    blocks = BLOCKS[kind]
    one_sided = blocks * WIDTH * (3 + 2) + WIDTH
    return ideal(one_sided=one_sided, two_sided=(blocks + 1) * WIDTH * WIDTH)


@pytest.mark.parametrize("kind", BLOCKS)
def test_final_states(kind: type[nn.RNNBase]) -> None:
    check(FinalState(kind), torch.randn(SHAPES["tokens"]), at_least=share_of(kind), gates=0)


@pytest.mark.parametrize("kind", BLOCKS)
def test_given_states_are_gated_on_their_way_in(kind: type[nn.RNNBase]) -> None:
    start = torch.randn(2, 1, WIDTH)
    check(FinalState(kind), torch.randn(SHAPES["tokens"]), start, at_least=share_of(kind), gates=0)


class Translator(nn.Module):
    """The decoder starts from the encoder's final state: their units are coupled."""

    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.encoder, self.decoder = kind(3, WIDTH, batch_first=True), kind(3, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.decoder(x.flip(1), self.encoder(x)[1])[0])


@pytest.mark.parametrize("kind", BLOCKS)
def test_states_handed_from_layer_to_layer(kind: type[nn.RNNBase]) -> None:
    blocks = BLOCKS[kind]
    share = ideal(one_sided=2 * blocks * WIDTH * 5, two_sided=2 * blocks * WIDTH * WIDTH)
    net = check(Translator(kind), torch.randn(SHAPES["tokens"]), at_least=share, gates=0)
    assert len(net.registry.groups) == 1


class Unrolled(nn.Module):
    """A cell, called once a position."""

    def __init__(self, cell: Any, learned: bool = False) -> None:
        super().__init__()
        self.cell = cell
        self.start = nn.Parameter(torch.randn(WIDTH)) if learned else None

    def forward(self, x: Tensor) -> Tensor:
        start = x.new_zeros(WIDTH) if self.start is None else self.start
        hidden = start.expand(x.shape[0], -1)
        state: Any = (hidden, hidden) if isinstance(self.cell, nn.LSTMCell) else hidden
        states = []
        for inputs in x.unbind(1):
            state = self.cell(inputs, state)
            states.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(states, 1)


@pytest.mark.parametrize("learned", [False, True], ids=["from zeros", "from a parameter"])
@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_cells(kind: Any, learned: bool) -> None:
    cell = kind(WIDTH, WIDTH)
    sizes = entries(cell)
    sizes["one_sided"] += WIDTH if learned else 0
    net = check_between("tokens", Unrolled(cell, learned), **sizes)
    assert len(net.registry.groups) == 3


@pytest.mark.parametrize("option", ["batch first", "no biases", "two layers, both directions"])
def test_projected_states(option: str) -> None:
    layer = nn.LSTM(WIDTH, WIDTH, proj_size=HIDDEN, **OPTIONS[option])
    read = HIDDEN * (2 if layer.bidirectional else 1)
    check_between("tokens", States(layer), **entries(layer), read=read, gates=0)


def test_given_projected_states() -> None:
    class Continued(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(3, WIDTH, proj_size=HIDDEN, batch_first=True)
            self.head = nn.Linear(HIDDEN, 4)

        def forward(self, x: Tensor, hidden: Tensor, cell: Tensor) -> Tensor:
            return self.head(self.lstm(x, (hidden.transpose(0, 1), cell.transpose(0, 1)))[0])

    states = torch.randn(2, 1, HIDDEN), torch.randn(2, 1, WIDTH)
    recurrent = 4 * WIDTH * HIDDEN + HIDDEN * WIDTH
    share = ideal(one_sided=4 * WIDTH * (3 + 2), two_sided=recurrent)
    check(Continued(), torch.randn(SHAPES["tokens"]), *states, at_least=share, gates=0)


def test_a_state_that_forward_makes_before_what_it_is_for() -> None:
    class Begun(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.write, self.gru, self.head = nn.Linear(3, WIDTH), nn.GRU(WIDTH, WIDTH), nn.Linear(WIDTH, 4)

        def forward(self, x: Tensor) -> Tensor:
            state = torch.zeros(1, x.size(1), WIDTH, dtype=x.dtype)
            return self.head(self.gru(self.write(x), state)[0])

    net = hatify(Begun(), num_tasks=2, example_inputs=(torch.randn(5, 2, 3),)).double()
    assert net(torch.randn(5, 2, 3).double(), task_id=0).dtype == torch.float64
