"""Masked vectors: multiplied all at once, and in every way what each layer would multiply by itself."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from hatify import HATModule, hatify
from hatify.verification.trials import draw_masks, perturb

INPUT = torch.randn(5, 1, 6, 6, generator=torch.Generator().manual_seed(0))


def network() -> HATModule:
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 12), nn.ReLU(), nn.Linear(12, 3)
    )
    perturb(model)
    net = hatify(model, num_tasks=2, example_inputs=(INPUT,)).eval()
    for task_id in (0, 1):
        draw_masks(net, task_id)
    return net


def by_the_layers(net: HATModule, **task: int) -> Tensor:
    """The answer where each layer multiplies for itself: those with hooks of their own do."""
    alone = copy.deepcopy(net)
    for module in alone.modules():
        module.register_forward_pre_hook(lambda module, inputs: None)
    return alone(INPUT, **task)


@pytest.mark.parametrize("task", [{}, {"task_id": 0}, {"task_id": 1, "mask_scale": 2.0}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_they_are_what_layers_multiply(task: dict[str, int], dtype: torch.dtype) -> None:
    net = network()
    net.registry.to(dtype)
    assert torch.equal(net(INPUT, **task), by_the_layers(net, **task))


def test_a_layer_that_takes_the_place_of_another_is_used() -> None:
    net = network()
    setattr(net, "4", copy.deepcopy(net.get_submodule("4")))
    before = net(INPUT, task_id=0)
    with torch.no_grad():
        net.get_parameter("4.bias").add_(1.0)
    assert not torch.equal(net(INPUT, task_id=0), before)


def test_a_hook_may_write_to_its_layer_just_before_it_is_used() -> None:
    net = network()
    written = copy.deepcopy(net)
    with torch.no_grad():
        written.get_parameter("4.bias").fill_(0.5)

    @torch.no_grad()
    def write(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        layer.bias.fill_(0.5)

    net.get_submodule("4").register_forward_pre_hook(write)
    assert torch.equal(net(INPUT, task_id=0), written(INPUT, task_id=0))


def test_many_networks_in_one_call() -> None:
    first, second = network(), network()
    tensors = [{**dict(net.named_parameters()), **dict(net.named_buffers())} for net in (first, second)]
    stacked = {name: torch.stack([of_one[name].detach() for of_one in tensors]) for name in tensors[0]}
    both = vmap(lambda tensors: functional_call(first, tensors, (INPUT,), {"task_id": 0}))(stacked)
    torch.testing.assert_close(both, torch.stack([first(INPUT, task_id=0), second(INPUT, task_id=0)]))


def test_a_state_dict_has_each_of_them_once() -> None:
    assert not [name for name in network().state_dict() if name.startswith("masked_vectors")]


def test_a_vector_that_no_loss_depends_on_has_no_gradient() -> None:
    class TwoOutputs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = (nn.Sequential(nn.Linear(36, 4), nn.ReLU(), nn.Linear(4, 2)) for _ in range(2))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = x.flatten(1)
            return self.used(x), self.unused(x)

    net = hatify(TwoOutputs(), num_tasks=1, example_inputs=(INPUT,)).train()
    with net.learn(0):
        used, _ = net(INPUT)
        used.sum().backward()
    assert net.get_parameter("used.0.bias").grad is not None
    assert net.get_parameter("unused.0.bias").grad is None


def test_gradients_of_gradients() -> None:
    net, single = network().double(), INPUT.double()
    bias = net.get_parameter("4.bias")
    with net.learn(0):

        def penalty() -> Tensor:
            inputs = single.clone().requires_grad_()
            (slope,) = torch.autograd.grad(
                net(inputs, task_id=0, mask_scale=1.0).sin().sum(), inputs, create_graph=True
            )
            return slope.square().sum()

        (computed,) = torch.autograd.grad(penalty(), bias)
        for index in range(3):
            difference = []
            for step in (1e-5, -1e-5):
                with torch.no_grad():
                    bias[index] += step
                difference.append(penalty())
                with torch.no_grad():
                    bias[index] -= step
            torch.testing.assert_close(computed[index], (difference[0] - difference[1]) / 2e-5, rtol=1e-4, atol=1e-7)
