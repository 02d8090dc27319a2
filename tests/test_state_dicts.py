"""State dicts loaded into a network with trained tasks, whenever and in whatever way: nothing moves unnoticed."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from hatify import HATConfig, HATModule, hatify, verify
from hatify.errors import InputError, TrainingError, TrainingWarning

CONFIG = HATConfig(init="normal")  # a task takes half of each group
Copying = Callable[[HATModule], HATModule]
X = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))


def network(num_tasks: int = 2) -> HATModule:
    torch.manual_seed(0)
    return hatify(model(), num_tasks=num_tasks, example_inputs=(X,), config=CONFIG)


def on_the_meta_device() -> HATModule:
    with torch.device("meta"):
        return hatify(model(), num_tasks=2, example_inputs=(torch.randn(2, 8),), config=CONFIG)


def learn(net: HATModule, task_id: int) -> Tensor:
    """The task's logits once it has been learned."""
    torch.manual_seed(task_id)
    optimizer = torch.optim.AdamW(net.parameter_groups(0.05), lr=0.01)
    net.train()
    with net.learn(task_id, steps=10) as task:
        for _ in range(10):
            loss = net(X).square().mean() + task.regularization()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return answer(net, task_id)


@torch.no_grad()
def answer(net: HATModule, task_id: int) -> Tensor:
    return net.eval()(X, task_id=task_id)


@pytest.mark.parametrize("way", ["assigned", "emptied"])
def test_a_network_from_the_meta_device_learns_and_forgets_nothing(way: str) -> None:
    net, values = on_the_meta_device(), network().state_dict()
    if way == "assigned":
        net.load_state_dict(values, assign=True)
    else:
        net.to_empty(device="cpu").load_state_dict(values)
    remembered = learn(net, 0)
    assert any(lock.any() and not lock.all() for lock in net.lock_masks(1).values())
    learn(net, 1)
    assert torch.equal(answer(net, 0), remembered)
    assert verify(net).ok


def test_a_round_trip_over_the_meta_device() -> None:
    net = network()
    remembered = learn(net, 0)
    values = copy.deepcopy(net.state_dict())
    net.to("meta").to_empty(device="cpu")
    net.load_state_dict(values)
    assert torch.equal(answer(net, 0), remembered)
    learn(net, 1)
    assert torch.equal(answer(net, 0), remembered)


def test_without_weights_nothing_can_be_forgotten_or_renewed() -> None:
    net = on_the_meta_device()
    net.registry.trained.append(0)
    for action in (net.renew, lambda: net.forget(0), lambda: net.prune(0)):
        with pytest.raises(TrainingError, match="meta device"):
            action()


def test_parameters_that_were_exchanged_are_watched_like_others() -> None:
    net = network()
    remembered = learn(net, 0)
    for _ in range(3):  # ids of freed parameters come back
        net.load_state_dict(copy.deepcopy(net.state_dict()), assign=True)
        learn(net, 1)
        assert torch.equal(answer(net, 0), remembered)
    assert verify(net).ok


def test_parameters_are_not_exchanged_while_a_task_is_learned() -> None:
    net = network()
    remembered = learn(net, 0)
    values = {name: torch.zeros_like(value) for name, value in net.state_dict().items() if "extra" not in name}
    with net.learn(1), pytest.raises(TrainingError, match="assign=True"):
        net.load_state_dict(values, assign=True, strict=False)
    assert torch.equal(answer(net, 0), remembered)


def test_tasks_that_there_is_no_room_for() -> None:
    larger, net = network(5), network(3)
    learn(larger, 4)
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(InputError, match=r"a task 4, .* tasks 0 to 2: net\.add_tasks\(2\)"):
        net.load_state_dict(larger.state_dict())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    net.add_tasks(2)
    net.load_state_dict(larger.state_dict())
    assert torch.equal(answer(net, 4), answer(larger, 4))


def test_a_best_checkpoint_from_the_midst_of_a_task_is_not_locked_and_says_so() -> None:
    net = network()
    with net.learn(0, steps=2):
        best = copy.deepcopy(net.state_dict())
    with pytest.warns(TrainingWarning, match=r"knows the trained tasks \[0\] as untrained"):
        net.load_state_dict(best)
    with net.learn(0):
        pass
    remembered = answer(net, 0)
    learn(net, 1)
    assert torch.equal(answer(net, 0), remembered)


def in_a_state_dict(net: HATModule) -> HATModule:
    saved = network()
    saved.load_state_dict(net.state_dict())
    return saved


@pytest.mark.parametrize("saved", [in_a_state_dict, copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_what_is_saved_in_the_midst_of_a_task_holds_the_earlier_ones_as_they_were(saved: Copying) -> None:
    """Whatever has written to the weights then: an optimizer that is none of PyTorch's, say."""
    net = network()
    remembered = learn(net, 0)
    with net.learn(1), torch.no_grad():
        for parameter in net.parameters():
            parameter.data *= 0.9
        in_the_midst = saved(net)
    assert torch.equal(answer(in_the_midst, 0), remembered)


def test_a_copy_has_the_same_state() -> None:
    class Shifted(nn.Sequential):
        def __init__(self, *layers: nn.Module) -> None:
            super().__init__(*layers)
            self.register_buffer("steps", torch.arange(4.0), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * torch.tensor([1.0, 2.0, 3.0, 4.0]) + self.steps

    net = hatify(Shifted(*model().children()), num_tasks=2, example_inputs=(X,), config=CONFIG)
    for copied in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert copied.state_dict().keys() == net.state_dict().keys()
        assert torch.equal(copied(X), net(X))


def test_a_plain_models_weights_over_trained_tasks_are_noticed() -> None:
    net = network()
    learn(net, 0)
    net.load_state_dict(model().state_dict(), strict=False)
    assert [check.name for check in verify(net) if not check.ok] == ["unmoved"]
    assert "0.weight" in net.moved_since_trained(0)


def test_a_task_that_is_learned_further_may_move() -> None:
    net = network()
    learn(net, 0)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
    with pytest.raises(KeyboardInterrupt), net.train().learn(0, steps=5):
        net(X).square().mean().backward()
        optimizer.step()
        raise KeyboardInterrupt
    assert net.moved_since_trained(0) == ()
    assert verify(net).ok


def test_an_average_of_state_dicts_is_of_the_same_tasks_or_refused() -> None:
    net = network(3)
    learn(net, 0)
    one = copy.deepcopy(net.state_dict())
    before = answer(net, 0)
    net.load_state_dict({name: (value + value) / 2 for name, value in one.items()})
    assert net.trained_tasks == (0,)
    assert torch.equal(answer(net, 0), before)
    other = network(3)
    learn(other, 1)
    with pytest.raises(InputError, match="not learned the same tasks"):
        net.load_state_dict({name: (value + other.state_dict()[name]) / 2 for name, value in one.items()})
    assert torch.equal(answer(net, 0), before)
