"""The limits of "what only feeds gated places needs no gate": a second reader, and a product with a live part."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hatify import hatify
from hatify.verification.trials import draw_masks, scramble


class ReadElsewhere(nn.Module):
    """A gate's branch is covered by the product, but a divisor reads it too."""

    def __init__(self) -> None:
        super().__init__()
        self.values, self.gates = nn.Linear(6, 6), nn.Linear(6, 6)
        self.product, self.quotient, self.head = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        gates = torch.sigmoid(self.gates(x))
        return self.head(self.product(self.values(x) * gates) + self.quotient(x / (1 + gates)))


class PartlyLiveFactor(nn.Module):
    """A factor whose zeros are certain covers only the features that are its own."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow, self.wide, self.last, self.head = (
            nn.Linear(4, 4),
            nn.Linear(4, 8),
            nn.Linear(8, 6),
            nn.Linear(6, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        partly_live = torch.cat([x, torch.relu(self.narrow(x))], 1)
        return self.head(self.last(torch.sigmoid(self.wide(x)) * partly_live))


@pytest.mark.parametrize("model", [ReadElsewhere(), PartlyLiveFactor()])
def test_nothing_moves(model: nn.Module) -> None:
    x = torch.randn(5, 6 if isinstance(model, ReadElsewhere) else 4)
    net = hatify(model, num_tasks=2, example_inputs=(x,)).eval()
    with net.learn(0):
        draw_masks(net, 0)
    before, untasked = net(x, task_id=0).detach(), net(x).detach()
    scramble(net, 1)
    assert torch.equal(net(x, task_id=0), before)
    assert not torch.equal(net(x), untasked)  # it is not that everything was locked


def test_a_gate_behind_a_view_that_merges_features_into_the_batch() -> None:
    """The features of one example follow those of another: the mask repeats, whatever the batch size."""

    class Windows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.write, self.read, self.head = nn.Linear(8, 18), nn.Linear(9, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            windows = self.write(x).reshape(-1, 9, 1).softmax(1).squeeze(-1)
            return self.head(self.read(windows).relu().reshape(x.shape[0], -1, 5).sum(1))

    net = hatify(Windows(), num_tasks=2, example_inputs=(torch.randn(2, 8),)).eval()
    draw_masks(net, 0)
    net.registry.trained.append(0)
    x = torch.randn(7, 8)
    before, untasked = net(x, task_id=0), net(x)
    scramble(net, 1)
    assert torch.equal(net(x, task_id=0), before)
    assert not torch.equal(net(x), untasked)
