"""Writes into a part of a tensor: later readers of that memory get what was written, as in the model."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn

from hatify import HATModule, hatify
from hatify.errors import CaptureError
from hatify.verification.trials import draw_masks, perturb, scramble

Write = Callable[[Tensor], tuple[Tensor, ...]]


class Writing(nn.Module):
    """A hidden layer whose activations (batch, 6) are written to before they are read."""

    def __init__(self, write: Write) -> None:
        super().__init__()
        self.first, self.second, self.write = nn.Linear(4, 6), nn.Linear(6, 3), write

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        hidden = self.first(x)
        return (*self.write(hidden), self.second(hidden))


def assign(x: Tensor) -> tuple[Tensor, ...]:
    x[:, 0] = 1.0
    x[..., 2:4] = x[:, 4:]
    x[1] = x[0] * 2
    return ()


def update(x: Tensor) -> tuple[Tensor, ...]:
    x[:, 1:3] += x[:, 3:5]
    x[:, -1:].mul_(2).sub_(1)
    x.narrow(1, -3, 2).clamp_(min=0)
    return ()


def index(x: Tensor) -> tuple[Tensor, ...]:
    x[:, [0, 2]] = x[:, [1, 3]]
    x[x > 0] = 0.5
    x.index_add_(1, torch.tensor([0]), x[:, 5:] * 2)
    return ()


def fill(x: Tensor) -> tuple[Tensor, ...]:
    x[0].zero_()
    x[:, 1].fill_(3)
    x[:, 2].fill_(x.mean())
    x[:, 3:].masked_fill_(x[:, 3:] > 0, -1.0)
    x.diagonal().add_(1)
    return ()


def through_several_views(x: Tensor) -> tuple[Tensor, ...]:
    x.view(-1, 2, 3).transpose(1, 2).mul_(2)
    x.unsqueeze(0).permute(2, 0, 1)[3].squeeze(0).add_(1)
    x.unflatten(1, (3, 2))[:, 1].flatten().exp_()
    x.t()[2] -= 1
    return ()


def views_read_later(x: Tensor) -> tuple[Tensor, ...]:
    before, first, flat = x * 1, x[:, :2], x.view(-1)
    x[:, 1] = 7.0
    first[0] += 1
    flat[3] = -flat[3]
    return before, first, flat


def into_other_tensors(x: Tensor) -> tuple[Tensor, ...]:
    canvas = torch.zeros(6, x.shape[0])
    canvas.t().copy_(x)
    canvas[0] += 1
    copied = torch.empty_like(x)
    copied.copy_(x)
    x.add_(1)
    mask = torch.full((6, 6), float("-inf")).triu_(1)
    mask[0] = 0
    return canvas, copied, x @ mask.exp()


def of_another_dtype(x: Tensor) -> tuple[Tensor, ...]:
    half = x.half()
    half[:, 1] += torch.ones(x.shape[0]) * 1e-3
    half[:, 2] = x[:, 3]
    return (half,)


WRITES = [
    assign,
    update,
    index,
    fill,
    through_several_views,
    views_read_later,
    into_other_tensors,
    of_another_dtype,
]


@pytest.mark.parametrize("write", WRITES, ids=lambda write: write.__name__)
def test_writes_into_views_are_followed(write: Write) -> None:
    model = Writing(write)
    net = hatify(model, num_tasks=2)
    x = torch.randn(5, 4)
    for actual, expected in zip(net(x), model(x), strict=True):
        assert torch.equal(actual, expected)
    assert torch.equal(input_gradient(net.requires_grad_(False), x), input_gradient(model, x))
    is_unmoved(net, x)


def input_gradient(model: nn.Module, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    torch.stack([output.float().sum() for output in model(x)]).sum().backward()
    assert x.grad is not None
    return x.grad


def is_unmoved(net: HATModule, x: Tensor) -> None:
    """Whether task 0 survives the overwriting of all that task 1 may move."""
    net.eval()
    draw_masks(net, 0)
    net.registry.trained.append(0)
    with torch.no_grad():
        before = net(x, task_id=0)
        scramble(net, 1)
        after = net(x, task_id=0)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_model_that_writes_into_views_of_its_positions() -> None:
    model = timm.create_model("convit_tiny", num_classes=4, depth=3, local_up_to_layer=2, img_size=64).eval()
    perturb(model)
    net = hatify(model, num_tasks=2)
    x = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(net(x), model(x))


def test_a_write_into_an_argument_is_seen_by_the_caller() -> None:
    class Marking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x[:, 0] = 1.0
            x[:, 1] += 1
            return self.linear(x)

    model = Marking()
    net = hatify(model, num_tasks=2)
    x = torch.randn(3, 4)
    mine, theirs = x.clone(), x.clone()
    assert torch.equal(net(mine), model(theirs))
    assert torch.equal(mine, theirs)


def test_a_write_that_cannot_be_followed_is_refused() -> None:
    class Windowed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            x.unfold(1, 2, 2)[:, 0] = 1.0
            return self.second(x)

    with pytest.raises(CaptureError, match=r"unfold.*without the in-place assignment"):
        hatify(Windowed())
