"""Residual sums that leave the features of what they add apart."""

import pytest
import torch
from torch import Tensor, nn

from hatify import hatify
from hatify.gated_sum import gated_sum
from tests.rewriters.promises import WIDTH, check


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return gated_sum(self.conv(x), x).relu()


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 3)
        self.blocks = nn.Sequential(Block(), Block())
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def test_each_sum_has_a_mask_of_its_own() -> None:
    net = check(Residual(), torch.randn(2, 3, 8, 8), gates=2)
    assert list(net.registry.groups) == ["stem", "blocks.0.conv", "blocks.1.conv"]


def test_a_sum_lets_through_what_its_own_mask_does() -> None:
    model = Residual().eval()
    net = hatify(model, example_inputs=(torch.randn(2, 3, 8, 8),)).eval()
    images = torch.randn(4, 3, 8, 8)
    masks = [torch.rand(WIDTH) < 0.5 for _ in net.registry.groups]
    with torch.no_grad():
        for group, mask in zip(net.registry.groups.values(), masks, strict=True):
            group.embedding(0).copy_(mask.float() - 0.5)
        stream, *gates = (mask.float()[:, None, None] for mask in masks)
        x = model.stem(images) * stream
        for block, gate in zip(model.blocks, gates, strict=True):
            x = (gate * (block.conv(x) + x)).relu()
        torch.testing.assert_close(net(images, task_id=0), model.head(x.mean((2, 3))))


def test_a_sum_is_of_two_tensors_of_one_shape() -> None:
    with pytest.raises(ValueError, match=r"of one shape, got \(2, 3\) and \(3,\)"):
        gated_sum(torch.ones(2, 3), torch.ones(3))
