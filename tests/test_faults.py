"""What goes wrong in one task stays in it: diverged weights, and a training that was interrupted."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hatify import HATModule, hatify
from hatify.verification.trials import draw_masks, perturb

MODELS = ["resnet10t", "test_vit", "test_convnext", "test_efficientnet"]


def network(name: str) -> tuple[HATModule, Tensor]:
    """A network with two trained tasks and room for a third, in eval mode."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5)
    perturb(model)
    x = torch.randn(4, *(3, 64, 64) if name == "resnet10t" else model.pretrained_cfg["input_size"])
    net = hatify(model, num_tasks=3, example_inputs=(x,)).eval()
    for task in range(3):
        draw_masks(net, task)
    net.registry.trained += [0, 1]
    return net, x


def answers(net: HATModule, x: Tensor) -> list[Tensor]:
    masked = [net(x, task_id=task) for task in (0, 1)]
    return masked + [net.extract(task)(x) for task in (0, 1)]


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_entries_of_another_task_may_be_nan_or_infinite(name: str) -> None:
    net, x = network(name)
    before = answers(net, x)
    for value in (float("nan"), float("inf")):
        for parameter_name, lock in net.lock_masks(2).items():
            net.get_parameter(parameter_name)[~lock] = value
        assert all(torch.equal(now, then) for now, then in zip(answers(net, x), before, strict=True))
    assert not net(x, task_id=2).isfinite().all()


class Affine(nn.Module):
    """Raw parameters: masks are gates of their own, behind what another task may have made huge."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 12), nn.Linear(12, 5)
        self.shift, self.scale = nn.Parameter(torch.randn(12)), nn.Parameter(torch.randn(12))

    def forward(self, x: Tensor) -> Tensor:
        return self.last((self.first(x) + self.shift) * self.scale + 1)


class Pooled(nn.Module):
    """Learned queries: PyTorch chooses a kernel for `matmul` by whether a gradient is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.write, self.norm, self.head = nn.Linear(6, 12), nn.LayerNorm(12), nn.Linear(12, 5)
        self.queries = nn.Parameter(torch.randn(3, 12))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.write(x)).unflatten(0, (-1, 2))
        return self.head(torch.matmul(torch.matmul(self.queries, x.mT).softmax(-1), x)).mean(1)


def normalised_weights() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 12),
        nn.ReLU(),
        nn.utils.parametrizations.weight_norm(nn.Linear(12, 12)),
        nn.ReLU(),
        nn.Linear(12, 5),
    )


@pytest.mark.parametrize("model", [Affine, Pooled, normalised_weights])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e25])
@torch.no_grad()
def test_nor_may_they_be_so_where_gates_and_norms_are_of_weights(model: Callable[[], nn.Module], value: float) -> None:
    torch.manual_seed(0)
    net, x = hatify(model(), num_tasks=2, example_inputs=(torch.randn(4, 6),)).eval(), torch.randn(4, 6)
    with net.learn(0):
        draw_masks(net, 0)
    before = net(x, task_id=0)
    for name, lock in net.lock_masks(1).items():
        net.get_parameter(name)[~lock] = value
    assert torch.equal(net(x, task_id=0), before)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("name", MODELS)
def test_nan_gradients_stay_in_their_task(name: str, optimizer: Callable[..., torch.optim.Optimizer]) -> None:
    net, x = network(name)
    before = answers(net, x)
    steps = optimizer([p for p in net.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)
    net.train()
    with net.learn(2, steps=2):
        for _ in range(2):
            (F.cross_entropy(net(x), torch.zeros(4, dtype=torch.long)) * float("nan")).backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            steps.step()
    net.eval()
    assert not all(bool(p.isfinite().all()) for p in net.parameters())
    assert all(torch.equal(now, then) for now, then in zip(answers(net, x), before, strict=True))


def test_resumed_training_is_bitwise_what_it_would_have_been() -> None:
    def start() -> tuple[HATModule, torch.optim.Optimizer]:
        net, _ = network("resnet10t")
        return net, torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=0.01)

    batches = torch.randn(6, 4, 3, 64, 64, generator=torch.Generator().manual_seed(1))

    def learn(net: HATModule, optimizer: torch.optim.Optimizer, steps: range, stop: bool = False) -> None:
        net.train()
        with net.learn(2, steps=6) as task:
            assert task.progress == steps.start / 6
            for step in steps:
                loss = F.cross_entropy(net(batches[step]), torch.arange(4)) + 0.75 * task.regularization()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            if stop:
                raise KeyboardInterrupt

    whole, optimizer = start()
    learn(whole, optimizer, range(6))
    interrupted, optimizer = start()
    with pytest.raises(KeyboardInterrupt):
        learn(interrupted, optimizer, range(3), stop=True)
    assert interrupted.trained_tasks == (0, 1)
    saved, saved_optimizer = interrupted.state_dict(), copy.deepcopy(optimizer.state_dict())
    resumed, optimizer = start()
    resumed.load_state_dict(saved)
    optimizer.load_state_dict(saved_optimizer)
    learn(resumed, optimizer, range(3, 6))
    assert resumed.trained_tasks == (0, 1, 2)
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in resumed.state_dict().items())


def test_a_task_that_was_learned_begins_anew() -> None:
    net = hatify(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(2):
        with net.learn(0, steps=2) as task:
            assert task.progress == 0.0
            net(torch.randn(3, 4)).sum().backward()
            optimizer.step()
            assert task.progress == 0.5
