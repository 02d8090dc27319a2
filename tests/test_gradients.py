"""Gradients against a plain reference: explicit gates, autograd, and the formulas of the paper written out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hatify import HATConfig, HATModule, hatify
from hatify.verification.trials import perturb

S_MAX = 400.0


class Reference(nn.Module):
    """Convolution, batch norm, convolution with a bias, flatten, linear, layer norm, linear, head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 6, 3)
        self.fc1 = nn.Linear(24, 5)
        self.norm2 = nn.LayerNorm(5)
        self.fc2 = nn.Linear(5, 7)
        self.head = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv1(x)))
        x = F.relu(self.conv2(x)).flatten(1)
        x = self.norm2(self.fc1(x))
        return self.head(F.gelu(self.fc2(x)))


def gated_forward(p: dict[str, Tensor], masks: dict[str, Tensor], x: Tensor) -> Tensor:
    """The same network by hand: each gate is a multiplication of the activation that it gates."""
    x = F.conv2d(x, p["conv1.weight"], padding=1)
    x = F.batch_norm(x, None, None, p["norm1.weight"], p["norm1.bias"], training=True)
    x = F.relu(x * masks["conv1"].view(1, -1, 1, 1))
    x = F.relu(F.conv2d(x, p["conv2.weight"], p["conv2.bias"]) * masks["conv2"].view(1, -1, 1, 1)).flatten(1)
    x = F.linear(x, p["fc1.weight"], p["fc1.bias"]) * masks["fc1"]
    x = F.layer_norm(x, (5,), p["norm2.weight"], p["norm2.bias"]) * masks["fc1"]
    x = F.gelu(F.linear(x, p["fc2.weight"], p["fc2.bias"]) * masks["fc2"])
    return F.linear(x, p["head.weight"], p["head.bias"])


def expected_locks(taken: dict[str, Tensor]) -> dict[str, Tensor]:
    """`min(c_out[o], c_in[i])` for weights, `c_out[o]` for biases; a channel stands for its flattened pixels."""
    inputs = {"conv1": torch.zeros(2).bool() | True, "conv2": taken["conv1"], "fc2": taken["fc1"]}
    inputs["fc1"] = taken["conv2"].repeat_interleave(4)
    locks: dict[str, Tensor] = {}
    for name, into in inputs.items():
        both = taken[name][:, None] & into[None, :]
        locks[f"{name}.weight"] = both[:, :, None, None] if name.startswith("conv") else both
        if name != "conv1":  # it has no bias
            locks[f"{name}.bias"] = taken[name]
    return locks


@pytest.fixture
def net() -> HATModule:
    model = Reference()
    perturb(model, 0.3)
    net = hatify(model.double(), num_tasks=2, example_inputs=(torch.randn(2, 2, 4, 4).double(),)).double()
    for task in (0, 1):
        for group in net.registry.groups.values():
            group.embedding(task).data.normal_().clamp_(-1.5, 1.5)
    with net.learn(0):
        pass
    return net.train()


@pytest.mark.parametrize("mask_scale", [0.7, 3.0, 40.0, S_MAX])
def test_gradients_equal_the_formulas(net: HATModule, mask_scale: float) -> None:
    x, weights = torch.randn(8, 2, 4, 4).double(), torch.randn(8, 3).double()
    with net.learn(1):
        (net(x, task_id=1, mask_scale=mask_scale) * weights).sum().backward()

    groups = net.registry.groups
    assert list(groups) == ["conv1", "conv2", "fc1", "fc2"]
    p = {name: value.detach().clone() for name, value in net.named_parameters()}
    for layer in ("norm1", "norm2", "head"):
        for kind in ("weight", "bias"):
            p[f"{layer}.{kind}"] = p[f"{layer}.per_task.1.{kind}"]
    p = {name: value.clone().requires_grad_() for name, value in p.items()}
    embeddings = {name: group.embedding(1).detach().clone().requires_grad_() for name, group in groups.items()}
    masks = {name: torch.sigmoid(mask_scale * e) for name, e in embeddings.items()}
    (gated_forward(p, masks, x) * weights).sum().backward()

    locks = expected_locks({name: group.binary_mask(0) for name, group in groups.items()})
    own = dict(net.named_parameters())
    for name, lock in locks.items():
        expected = p[name].grad * (1 - lock.double())
        torch.testing.assert_close(own[name].grad, expected, rtol=1e-6, atol=1e-9)
    for layer in ("norm1", "norm2", "head"):
        for kind in ("weight", "bias"):
            actual = own[f"{layer}.per_task.1.{kind}"].grad
            torch.testing.assert_close(actual, p[f"{layer}.{kind}"].grad, rtol=1e-6, atol=1e-9)
    for name, e in embeddings.items():
        scaled = (mask_scale * e).clamp(-50, 50)
        factor = (S_MAX / mask_scale) * (torch.cosh(scaled) + 1) / (torch.cosh(e) + 1)
        expected = e.grad * factor.detach()
        torch.testing.assert_close(groups[name].embedding(1).grad, expected, rtol=1e-6, atol=1e-9)


def test_binary_masks_give_the_gradients_of_the_remaining_network(net: HATModule) -> None:
    x = torch.randn(8, 2, 4, 4).double()
    with net.learn(1) as task:
        task.progress = 0.5
        net.eval()
        net(x, task_id=1).sum().backward()
    for name, group in net.registry.groups.items():
        weight = net.get_parameter(f"{name}.weight")
        assert weight.grad is not None
        dead = ~group.binary_mask(1)
        assert torch.equal(weight.grad[dead], torch.zeros_like(weight.grad[dead]))
        assert group.embedding(1).grad is None
    assert net.get_parameter("fc2.weight").grad.abs().sum() > 0


def test_locks_equal_the_formulas(net: HATModule) -> None:
    taken = {name: group.binary_mask(0) for name, group in net.registry.groups.items()}
    locks = net.lock_masks(1)
    for name, lock in expected_locks(taken).items():
        assert torch.equal(locks[name], lock.expand(locks[name].shape))
    assert set(locks) == {name for name, _ in net.named_parameters()}
    for name in ("norm1.weight", "head.bias", "norm2.per_task.0.bias", "registry.embeddings.conv1.0"):
        assert locks[name].all()
    for name in ("head.per_task.1.weight", "norm1.per_task.1.bias", "registry.embeddings.conv1.1"):
        assert not locks[name].any()


def test_compensation_can_be_switched_off() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    config = HATConfig(compensation=False)
    net = hatify(model, num_tasks=1, example_inputs=(torch.randn(2, 3).double(),), config=config).double().train()
    x = torch.randn(5, 3).double()
    (group,) = net.registry.groups.values()
    with net.learn(0):
        net(x, task_id=0, mask_scale=2.0).sum().backward()
    e = group.embedding(0).detach().clone().requires_grad_()
    hidden = F.relu(F.linear(x, model[0].weight, model[0].bias) * torch.sigmoid(2.0 * e))
    F.linear(hidden, model[2].weight, model[2].bias).sum().backward()
    torch.testing.assert_close(group.embedding(0).grad, e.grad)


def test_compensation_is_that_of_the_present_embeddings_and_scale(net: HATModule) -> None:
    with net.learn(1) as task:
        for progress in (0.2, 0.26, 0.26):
            task.progress = progress
            for group in net.registry.groups.values():
                group.embedding(1).grad = None
                with torch.no_grad():
                    group.embedding(1).mul_(0.9)
            task.regularization().backward()
            for name, group in net.registry.groups.items():
                e = group.embedding(1).detach().clone().requires_grad_()
                free = 1 - group.binary_mask(0).double()
                paid = (torch.sigmoid(task.mask_scale * e) * free).sum() - group.num_features / net.num_tasks
                (paid.clamp(min=0) / free.sum() / len(net.registry.groups)).backward()
                scaled = (task.mask_scale * e.detach()).clamp(-50, 50)
                factor = S_MAX / task.mask_scale * (torch.cosh(scaled) + 1) / (torch.cosh(e.detach()) + 1)
                torch.testing.assert_close(group.embedding(1).grad, e.grad * factor, rtol=1e-6, atol=1e-9, msg=name)
