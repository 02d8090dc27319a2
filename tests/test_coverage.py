"""The limits of "what only feeds gated places needs no gate": a second reader, and a product with a live part."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hatify import hatify
from hatify.verification import draw_masks, scramble


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
    before = net(x, task_id=0).detach()
    scramble(net, 1)
    assert torch.equal(net(x, task_id=0), before)
