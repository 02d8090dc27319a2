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
