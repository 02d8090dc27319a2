"""Learning tasks one after another: no trained task moves, whatever the optimizer does."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hatify import HatifyError, HATModule, HATPayload, hatify
from hatify.errors import CapacityWarning, TrainingError, TrainingWarning
from hatify.verification.trials import draw_masks, perturb, scramble

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.5),
    "adamw foreach": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.5, foreach=True),
    "adamw fused": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.5, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, weight_decay=0.1),
}


LARGE = 2048  # of such a weight the guard keeps the locked block alone


def small_network(width: int = 16) -> HATModule:
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 16, width),
        nn.ReLU(),
        nn.Linear(width, 3),
    )
    perturb(model)
    return hatify(model, num_tasks=3, example_inputs=(torch.randn(2, 1, 6, 6),))


def train(net: HATModule, task_id: int, optimizer: torch.optim.Optimizer, steps: int = 4) -> None:
    shape = (16, *[1, 6, 6])
    net.train()
    with net.learn(task_id, steps=steps) as task:
        for _ in range(steps):
            x, y = torch.randn(shape), torch.randint(3, (16,))
            loss = F.cross_entropy(net(x), y) + 0.75 * task.regularization()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    net.eval()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_one_optimizer_over_all_tasks_moves_no_trained_task(name: str) -> None:
    net, x = small_network(), torch.randn(5, 1, 6, 6)
    optimizer = OPTIMIZERS[name](net.parameters())
    logits: dict[int, Tensor] = {}
    for task in range(3):
        before = {n: p.detach().clone() for n, p in net.named_parameters()}
        locks = net.lock_masks(task)
        train(net, task, optimizer)
        if task == 0:
            draw_masks(net, 0)
        if task == 1:
            draw_masks(net, 1, density=0.25)
        logits[task] = net(x, task_id=task).detach()
        for earlier in range(task + 1):
            assert torch.equal(net(x, task_id=earlier), logits[earlier])
        for parameter_name, parameter in net.named_parameters():
            lock = locks[parameter_name]
            assert torch.equal(parameter[lock], before[parameter_name][lock])
        moved = [n for n, p in net.named_parameters() if not torch.equal(p, before[n])]
        assert "0.weight" in moved
        assert f"6.per_task.{task}.weight" in moved
    assert net.trained_tasks == (0, 1, 2)


def test_accumulated_and_clipped_gradients_move_nothing() -> None:
    net, x = small_network(), torch.randn(5, 1, 6, 6)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=0.1)
    train(net, 0, optimizer)
    draw_masks(net, 0)
    before = net(x, task_id=0).detach()
    net.train()
    with net.learn(1, steps=3) as task:
        for _ in range(3):
            for _ in range(2):
                (net(torch.randn(8, 1, 6, 6)).square().mean() + task.regularization()).backward()
            nn.utils.clip_grad_norm_(net.parameters(), 0.1)
            optimizer.step()
            optimizer.zero_grad()
    assert torch.equal(net.eval()(x, task_id=0), before)


@pytest.mark.parametrize("width", [16, LARGE])
def test_of_weights_loaded_in_mid_task_the_free_ones_are_kept(width: int) -> None:
    net = small_network(width)
    train(net, 0, torch.optim.SGD(net.parameters(), lr=0.1))
    draw_masks(net, 0)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    loaded = {name: value + 1 if name.startswith(("0.", "4.")) else value for name, value in before.items()}
    with net.train().learn(1):
        with pytest.warns(TrainingWarning, match="stays as it was"):
            net.load_state_dict(loaded)
        lock, weight = net.lock_masks(1)["4.weight"], net.get_parameter("4.weight")
        assert torch.equal(weight, torch.where(lock, before["4.weight"], loaded["4.weight"]))


def test_weights_loaded_while_nothing_is_trained_are_kept() -> None:
    net = small_network()
    loaded = {name: value + 1 if value.is_floating_point() else value for name, value in net.state_dict().items()}
    with net.train().learn(1):
        net.load_state_dict(loaded)
    assert all(torch.equal(value, loaded[name]) for name, value in net.named_parameters())


def test_a_second_optimizer_and_a_foreign_one() -> None:
    net, foreign = small_network(), nn.Linear(2, 2)
    first = torch.optim.SGD(net.registry.parameters(), lr=0.1)
    second = torch.optim.SGD([p for n, p in net.named_parameters() if not n.startswith("registry")], lr=0.1)
    other = torch.optim.SGD(foreign.parameters(), lr=0.1)
    net.train()
    with net.learn(0, steps=4) as task:
        foreign(torch.randn(1, 2)).sum().backward()
        other.step()
        assert task.progress == 0.0
        (net(torch.randn(8, 1, 6, 6)).sum()).backward()
        first.step()
        second.step()
        assert task.progress == 0.25


def test_parameter_groups_hold_each_parameter_once_and_decay_no_embedding() -> None:
    net = small_network()
    weights, masks = net.parameter_groups(mask_learning_rate=0.1)
    optimizer = torch.optim.AdamW([weights, masks], lr=0.01, weight_decay=0.5)
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {id(p) for p in net.parameters()}
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [(0.01, 0.5), (0.1, 0.0)]
    assert {id(p) for p in masks["params"]} == {id(p) for p in net.registry.parameters()}
    train(net, 0, optimizer)
    assert net.trained_tasks == (0,)


def test_embeddings_stay_in_their_limits() -> None:
    net = small_network()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e4)
    train(net, 0, optimizer)
    for group in net.registry.groups.values():
        assert group.embedding(0).abs().max() <= 6.0
        assert torch.equal(group.embedding(1), torch.ones(group.num_features))


class TwoAnswers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.left, self.right = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.one, self.other = nn.Linear(8, 3), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.first(x).relu()
        return self.one(self.left(x).relu()), self.other(self.right(x).relu())


def test_a_loss_of_one_output_only() -> None:
    net, x = hatify(TwoAnswers(), num_tasks=2, example_inputs=(torch.randn(2, 4),)), torch.randn(4, 4)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    before = None
    for task_id in range(2):
        net.train()
        with net.learn(task_id, steps=3) as task:
            for _ in range(3):
                loss = net(x)[0].square().mean() + task.regularization()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        before = net.eval()(x, task_id=0) if before is None else before
    assert all(torch.equal(now, then) for now, then in zip(net.eval()(x, task_id=0), before, strict=True))


def test_an_exception_does_not_mark_the_task_as_trained() -> None:
    net = small_network()
    with pytest.raises(KeyboardInterrupt), net.learn(1):
        raise KeyboardInterrupt
    assert net.trained_tasks == ()
    with net.learn(1):
        pass
    assert net.trained_tasks == (1,)


def test_a_trained_task_can_go_on() -> None:
    net, x = small_network(), torch.randn(5, 1, 6, 6)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    for task in (0, 1):
        train(net, task, optimizer)
        draw_masks(net, task, density=0.4)
    first, second = (net(x, task_id=t).detach() for t in (0, 1))
    train(net, 0, optimizer)
    assert net.trained_tasks == (0, 1)
    assert not torch.equal(net(x, task_id=0), first)
    assert torch.equal(net(x, task_id=1), second)


def test_the_schedule_follows_the_steps_and_the_mode() -> None:
    net, x = small_network(), torch.randn(4, 1, 6, 6)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    net.train()
    with net.learn(0, steps=4) as task:
        assert task.mask_scale == 400
        for _ in range(2):
            net(x).sum().backward()
            optimizer.step()
        assert (task.progress, task.mask_scale) == (0.5, 1.0)
        assert torch.equal(net(x), net(x, task_id=0))
        assert torch.equal(net(x), net(x, mask_scale=1.0))
        assert not torch.equal(net(x), net(x, mask_scale=50.0))
        task.progress = 0.25
        assert task.mask_scale == pytest.approx(200)
        net.eval()
        assert torch.equal(net(x), net(x, task_id=0))
    assert torch.equal(net(x, task_id=0), net(HATPayload(x, task_id=0)).data)


def test_a_deep_copy_learns_on_its_own() -> None:
    net, x = small_network(), torch.randn(5, 1, 6, 6)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    train(net, 0, optimizer)
    draw_masks(net, 0)
    copied = copy.deepcopy(net)
    original = net(x, task_id=0).detach()
    assert torch.equal(copied(x, task_id=0), original)
    assert copied.trained_tasks == (0,)
    train(copied, 1, torch.optim.AdamW(copied.parameters(), lr=0.1, weight_decay=0.1))
    assert torch.equal(copied(x, task_id=0), original)
    assert net.trained_tasks == (0,)
    assert not torch.equal(copied.get_parameter("4.weight"), net.get_parameter("4.weight"))


def test_more_tasks_than_planned() -> None:
    net, x = small_network(), torch.randn(5, 1, 6, 6)
    for task in range(3):
        train(net, task, torch.optim.SGD(net.parameters(), lr=0.05))
        draw_masks(net, task, density=0.25)
    before = [net(x, task_id=task).detach() for task in range(3)]
    net.add_tasks(2)
    train(net, 4, torch.optim.AdamW(net.parameters(), lr=0.05, weight_decay=0.1))
    assert net.num_tasks == 5
    assert all(torch.equal(net(x, task_id=task), before[task]) for task in range(3))


def test_an_optimizer_in_mid_life_takes_the_parameters_of_added_tasks() -> None:
    """Tasks are added while another is learned; the optimizer goes on with its momentum and gets what is new."""
    net, x = small_network(), torch.randn(4, 1, 6, 6)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.05, weight_decay=0.1)
    train(net, 0, optimizer)
    before = net.eval()(x, task_id=0).detach()
    known = set(net.parameters())
    with net.train().learn(1, steps=4):
        for step in range(4):
            if step == 2:
                net.add_tasks(2)
                optimizer.add_param_group({"params": [p for p in net.parameters() if p not in known], "lr": 0.1})
            optimizer.zero_grad()
            net(x).square().mean().backward()
            optimizer.step()
    second = net.eval()(x, task_id=1).detach()
    train(net, net.num_tasks - 1, optimizer)
    net.eval()
    assert torch.equal(net(x, task_id=0), before)
    assert torch.equal(net(x, task_id=1), second)
    assert net.trained_tasks == (0, 1, net.num_tasks - 1)


def test_the_warning_that_capacity_is_used_up_comes_once() -> None:
    net = small_network()
    with net.learn(0):
        draw_masks(net, 0, density=1.0)
    numbers = r"of .*, the fullest, 0 of \d+ features are free, the others are taken by tasks 0; task 1 can only"
    with pytest.warns(CapacityWarning, match=numbers), net.learn(1):
        pass
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with net.learn(2):
            pass


def test_a_task_whose_masks_the_regularizer_has_emptied_is_named() -> None:
    net, x = small_network(), torch.randn(4, 1, 6, 6)
    optimizer = torch.optim.Adam(net.registry.parameters(), lr=0.5)
    complaint = r"task 0 uses no feature of \d+ of \d+ mask groups"
    with pytest.warns(CapacityWarning, match=complaint), net.train().learn(0, steps=20) as task:
        for _ in range(20):
            optimizer.zero_grad()
            (net(x).square().mean() + 1000 * task.regularization()).backward()
            optimizer.step()


def test_a_timm_network_learns_and_keeps_real_digits() -> None:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    x = F.interpolate(torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16, size=32)
    y = torch.tensor(labels)
    model = timm.create_model("test_resnet", in_chans=1, num_classes=2)
    net = hatify(model, num_tasks=2, example_inputs=(x[:2],))
    embeddings = list(net.registry.parameters())
    weights = [p for name, p in net.named_parameters() if not name.startswith("registry.")]
    groups = [{"params": weights}, {"params": embeddings, "lr": 0.2, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=2e-3, weight_decay=0.05)
    logits: dict[int, Tensor] = {}
    for task in (0, 1):
        chosen = torch.isin(y, torch.tensor([2 * task, 2 * task + 1]))
        images_of_task, labels_of_task = x[chosen], y[chosen] - 2 * task
        net.train()
        with net.learn(task, steps=120) as learning:
            for step in range(120):
                batch = torch.arange(step * 32, step * 32 + 32) % len(images_of_task)
                loss = F.cross_entropy(net(images_of_task[batch]), labels_of_task[batch])
                loss = loss + learning.regularization()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        net.eval()
        logits[task] = net(images_of_task[:64], task_id=task).detach()
        assert (logits[task].argmax(1) == labels_of_task[:64]).float().mean() > 0.9
        assert any(0 < group.used[task] < group.num_features for group in net.capacity().values())
        if task == 1:
            first = torch.isin(y, torch.tensor([0, 1]))
            assert torch.equal(net(x[first][:64], task_id=0), logits[0])


def test_state_that_forward_changes_belongs_to_the_task() -> None:
    class Remembering(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.head = nn.Linear(4, 6), nn.Linear(6, 2)
            self.register_buffer("mean", torch.zeros(6))

        def forward(self, x: Tensor) -> Tensor:
            x = self.linear(x)
            self.mean.mul_(0.9).add_(x.detach().mean(0), alpha=0.1)
            return self.head(x - self.mean)

    net, x = hatify(Remembering(), num_tasks=2), torch.randn(5, 4)
    with net.learn(0):
        draw_masks(net, 0)
    state = net.get_buffer("operators.mean.per_task.0.mean").clone()
    with net.learn(1, steps=1) as task:
        (net.train()(torch.randn(8, 4) + 5).sum() + task.regularization()).backward()
        torch.optim.SGD(net.parameters(), lr=0.1).step()
    assert torch.equal(net.get_buffer("operators.mean.per_task.0.mean"), state)
    assert not torch.equal(net.get_buffer("operators.mean.per_task.1.mean"), state)
    assert net.eval()(x, task_id=0).isfinite().all()


def test_a_parameter_that_forward_changes_is_refused() -> None:
    model = nn.Sequential(nn.Embedding(5, 4, max_norm=1.0), nn.Linear(4, 2))
    with pytest.raises(HatifyError, match=r"writes into the parameter '0\.weight'"):
        hatify(model, num_tasks=2, example_inputs=(torch.randint(5, (2, 3)),))


def test_a_trained_task_refuses_what_would_move_it_outside_learn() -> None:
    net, x = small_network(), torch.randn(5, 1, 6, 6)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=0.1)
    train(net, 0, optimizer)
    before = net(x, task_id=0).detach()
    with pytest.raises(TrainingError, match="outside net"):
        optimizer.step()
    with pytest.raises(TrainingError, match="batch statistics"):
        net.train()(x + 5, task_id=0)
    with net.learn(1), torch.no_grad(), pytest.raises(TrainingError, match="batch statistics"):
        net(x + 5, task_id=0)
    assert torch.equal(net.eval()(x, task_id=0), before)


@pytest.mark.parametrize("width", [16, LARGE])
def test_writes_beside_the_optimizer_are_undone_when_learning_ends(width: int) -> None:
    net, x = small_network(width), torch.randn(5, 1, 6, 6)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    train(net, 0, optimizer)
    draw_masks(net, 0)
    before = net(x, task_id=0).detach()
    with net.learn(1):
        for parameter in net.parameters():
            parameter.data.clamp_(-0.01, 0.01)
    assert torch.equal(net(x, task_id=0), before)


def test_a_large_weight_whose_locks_are_no_rows_and_columns() -> None:
    model = nn.Sequential(nn.Conv2d(3, 512, 1), nn.ReLU(), nn.Conv2d(512, 1024, 1, groups=2), nn.ReLU(), nn.Flatten())
    x = torch.randn(4, 3, 2, 2)
    net = hatify(model.append(nn.Linear(4096, 3)), num_tasks=2, example_inputs=(x,))
    with net.learn(0):
        draw_masks(net, 0)
    before, lock = net.eval()(x, task_id=0), net.lock_masks(1)["2.weight"].flatten(1)
    assert not torch.equal(lock, lock.any(1, keepdim=True) & lock.any(0, keepdim=True))
    weight = net.get_parameter("2.weight")
    free = weight.detach().flatten(1)[~lock].clone()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=0.5)
    net.train()
    with net.learn(1, steps=2):
        for _ in range(2):
            optimizer.zero_grad()
            net(x).square().sum().backward()
            optimizer.step()
    assert torch.equal(net.eval()(x, task_id=0), before)
    assert bool((weight.flatten(1)[~lock] != free).all())


def test_a_state_dict_knows_the_trained_tasks() -> None:
    net, other = small_network(), small_network()
    train(net, 2, torch.optim.SGD(net.parameters(), lr=0.1))
    train(net, 0, torch.optim.SGD(net.parameters(), lr=0.1))
    other.load_state_dict(net.state_dict())
    assert other.trained_tasks == (2, 0)
    x = torch.randn(3, 1, 6, 6)
    assert torch.equal(other.eval()(x, task_id=2), net(x, task_id=2))


def test_binary_masks_in_training_are_warned_of() -> None:
    net = small_network().eval()
    with net.learn(0), pytest.warns(TrainingWarning, match=r"net\.train\(\)"):
        net(torch.randn(4, 1, 6, 6)).sum().backward()


def test_half_precision_embeddings_have_finite_gradients() -> None:
    net = hatify(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), num_tasks=1).half().train()
    with net.learn(0):
        net(torch.randn(3, 4).half()).sum().backward()
    assert all(e.grad is not None and e.grad.isfinite().all() for e in net.registry.task_embeddings(0))


def test_an_exponential_of_dead_features_does_not_overflow_into_a_trained_task() -> None:
    class Exponential(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.a(x) * torch.exp(self.b(x)))

    net, x = hatify(Exponential(), num_tasks=2), torch.randn(5, 4)
    with net.learn(0):
        draw_masks(net, 0)
    before = net(x, task_id=0).detach()
    scramble(net, 1, scale=100.0)
    assert torch.equal(net(x, task_id=0), before)


def test_a_task_that_no_optimizer_took_a_step_of_is_warned_of() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)  # of the model, not of the network
    net = hatify(model, num_tasks=2)
    net.train()
    with pytest.warns(TrainingWarning, match="make it from net.parameters"), net.learn(0, steps=2):
        for _ in range(2):
            net(torch.randn(3, 4)).sum().backward()
            optimizer.step()


def test_a_look_at_the_network_before_backward_changes_nothing() -> None:
    net, x = small_network(), torch.randn(5, 1, 6, 6)
    net.train()
    gradients = []
    for looks in (False, True):
        net.zero_grad()
        with warnings.catch_warnings(), net.learn(0) as task:
            warnings.simplefilter("error", TrainingWarning)
            task.progress = 0.5
            loss = net(x).square().sum()
            if looks:
                with torch.no_grad():
                    net(x)
            loss.backward()
        gradients.append([group.embedding(0).grad for group in net.registry.groups.values()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_hooks_see_what_the_model_takes_and_gives() -> None:
    net, x = small_network().eval(), torch.randn(5, 1, 6, 6)
    expected = net(x, task_id=1)
    net.register_forward_pre_hook(lambda module, inputs: (2 * inputs[0],))
    net.register_forward_hook(lambda module, inputs, result: result + 1)
    assert torch.equal(net(x / 2, task_id=1), expected + 1)
    assert torch.equal(net.forward(x, task_id=1), expected)
