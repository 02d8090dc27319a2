"""Forgetting a task, and renewing what no task uses: it is gone, and no other task has moved."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hatify import HATModule, hatify
from hatify.errors import InputError, TaskError, TrainingError
from hatify.verification.trials import draw_masks, perturb


def network(num_tasks: int = 3, **options: object) -> HATModule:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
    return hatify(model, num_tasks=num_tasks, **options)


def learn(net: HATModule, task_id: int, x: Tensor, y: Tensor, steps: int = 100, stop_after: int | None = None) -> None:
    """Learn a task on 40 % of each group."""
    torch.manual_seed(task_id)
    draw_masks(net, task_id, density=0.4)
    masks = set(net.registry.parameters())
    optimizer = torch.optim.Adam([parameter for parameter in net.parameters() if parameter not in masks], lr=0.02)
    net.train()
    with net.learn(task_id, steps=steps):
        for step in range(steps):
            if step == stop_after:
                raise KeyboardInterrupt
            loss = F.cross_entropy(net(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    net.eval()


def examples(task_id: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(task_id)
    return torch.randn(64, 8, generator=generator), torch.randint(4, (64,), generator=generator)


def accuracy(net: HATModule, task_id: int) -> float:
    x, y = examples(task_id)
    return float((net(x, task_id=task_id).argmax(1) == y).float().mean())


@pytest.fixture(scope="module")
def trained_state() -> dict[str, Tensor]:
    net = network()
    for task_id in range(3):
        learn(net, task_id, *examples(task_id))
    return net.state_dict()


@pytest.fixture
def trained(trained_state: dict[str, Tensor]) -> HATModule:
    net = network()
    net.load_state_dict(trained_state)
    return net.eval()


@pytest.mark.parametrize("forgotten", range(3))
def test_the_others_are_bitwise_as_before_and_the_forgotten_is_at_chance(trained: HATModule, forgotten: int) -> None:
    others = [task for task in range(3) if task != forgotten]
    before = {task: trained(examples(task)[0], task_id=task) for task in others}
    assert accuracy(trained, forgotten) > 0.8
    report = trained.forget(forgotten, seed=0)
    assert all(torch.equal(trained(examples(task)[0], task_id=task), before[task]) for task in others)
    assert accuracy(trained, forgotten) < 0.5
    assert trained.trained_tasks == tuple(others)
    assert sum(report.entries.values()) > 0
    learn(trained, forgotten, *examples(forgotten))
    assert accuracy(trained, forgotten) > 0.8
    assert all(torch.equal(trained(examples(task)[0], task_id=task), before[task]) for task in others)


def test_what_later_tasks_still_know_is_not_read_off_by_the_forgotten_head() -> None:
    """A second task learns the same examples, so that its features tell them apart: only the head can forget."""
    net = network(num_tasks=2)
    for task_id in range(2):
        learn(net, task_id, *examples(0))
    right = []
    for seed in range(16):
        trial = copy.deepcopy(net)
        trial.forget(0, seed=seed)
        right.append(accuracy(trial, 0))
        assert torch.equal(trial(examples(0)[0], task_id=1), net(examples(0)[0], task_id=1))
    assert sum(right) / len(right) == pytest.approx(0.25, abs=0.08)


def test_only_what_the_task_alone_uses_is_drawn_anew_as_its_layer_draws_it(trained: HATModule) -> None:
    weight = trained.get_parameter("2.weight").detach()
    before = weight.clone()
    masks = {task: [g.binary_mask(task) for g in trained.registry.groups.values()] for task in range(3)}
    uses = {task: rows.outer(columns) for task, (columns, rows) in masks.items()}
    alone = uses[0] & ~uses[1] & ~uses[2]
    report = trained.forget(0)
    assert torch.equal(weight != before, alone)
    assert report.entries["2.weight"] == int(alone.sum())
    freed = masks[0][1] & ~masks[1][1] & ~masks[2][1]
    assert report.features[list(trained.registry.groups)[1]] == int(freed.sum())
    assert weight[alone].abs().max() <= 32**-0.5  # nn.Linear: uniform in +-1 / sqrt(inputs)
    assert weight[alone].std() == pytest.approx(32**-0.5 / 3**0.5, rel=0.2)


def test_a_dry_run_says_what_would_happen(trained: HATModule) -> None:
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    planned = trained.forget(1, dry_run=True)
    assert all(torch.equal(value, before[name]) for name, value in trained.state_dict().items())
    assert "would be" in str(planned)
    done = trained.forget(1)
    assert (done.entries, done.features) == (planned.entries, planned.features)
    assert "1 forgotten" in str(done)


def test_a_seed_decides_and_leaves_the_random_numbers_alone(trained_state: dict[str, Tensor]) -> None:
    nets = [network(), network()]
    for net in nets:
        net.load_state_dict(trained_state)
        torch.manual_seed(5)
        net.forget(0, seed=1)
    assert torch.equal(torch.randn(3), torch.randn(3, generator=torch.Generator().manual_seed(5)))
    assert all(torch.equal(a, b) for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True))


def test_pruning_leaves_one_task(trained: HATModule) -> None:
    x = examples(1)[0]
    before = trained(x, task_id=1)
    used = {name: group.binary_mask(1) for name, group in trained.registry.groups.items()}
    old = trained.get_parameter("2.weight").detach().clone()
    report = trained.prune(1)
    assert report.tasks == (0, 2)
    assert trained.trained_tasks == (1,)
    assert torch.equal(trained(x, task_id=1), before)
    assert trained.prune(1).tasks == ()
    columns, rows = used.values()
    assert torch.equal((trained.get_parameter("2.weight") == old) & rows.outer(columns), rows.outer(columns))


def test_a_task_that_was_interrupted_can_be_forgotten(trained: HATModule) -> None:
    trained.forget(2)
    before = {task: trained(examples(task)[0], task_id=task) for task in (0, 1)}
    with pytest.raises(KeyboardInterrupt):
        learn(trained, 2, *examples(2), stop_after=3)
    assert trained.trained_tasks == (0, 1)
    trained.forget(2)
    trained.eval()
    assert all(torch.equal(trained(examples(task)[0], task_id=task), before[task]) for task in (0, 1))
    with pytest.raises(TaskError, match="never trained"):
        trained.forget(2)


def test_a_task_that_was_interrupted_keeps_what_it_uses(trained: HATModule) -> None:
    trained.forget(2)
    with pytest.raises(KeyboardInterrupt):
        learn(trained, 2, *examples(2), stop_after=3)
    trained.eval()
    before = trained(examples(2)[0], task_id=2)
    trained.forget(0)
    assert torch.equal(trained(examples(2)[0], task_id=2), before)
    trained.prune(2)
    assert trained.trained_tasks == ()
    assert torch.equal(trained(examples(2)[0], task_id=2), before)


def test_a_diverged_task_can_be_forgotten(trained: HATModule) -> None:
    trained.forget(2)
    net, x = trained, examples(2)[0]
    with pytest.raises(KeyboardInterrupt):
        learn(net, 2, torch.full_like(x, float("inf")), examples(2)[1], stop_after=3)
    assert not all(bool(p.isfinite().all()) for p in net.parameters())
    net.forget(2)
    assert all(bool(p.isfinite().all()) for p in net.parameters())


@pytest.mark.parametrize("forget", [HATModule.forget, HATModule.prune])
def test_what_cannot_be_forgotten(forget: Callable[..., object]) -> None:
    net = network()
    for task_id, why in ((0, "never trained"), (7, "does not exist")):
        with pytest.raises(TaskError, match=why):
            forget(net, task_id)
    net.registry.trained.append(0)
    with net.learn(1, steps=3), pytest.raises(TrainingError, match="leave its `learn` block"):
        forget(net, 0)


def test_tied_weights_are_drawn_once() -> None:
    class LanguageModel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.embedding = nn.Linear(16, 10), nn.Embedding(10, 16)
            self.hidden = nn.Linear(16, 16)
            self.head.weight = self.embedding.weight

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(F.relu(self.hidden(self.embedding(tokens))))

    tokens = torch.randint(10, (4, 6))
    net = hatify(LanguageModel(), num_tasks=2, example_inputs=(tokens,)).eval()
    for task in (0, 1):
        draw_masks(net, task)
        net.registry.trained.append(task)
    before = net(tokens, task_id=1)
    report = net.forget(0)
    assert torch.equal(net(tokens, task_id=1), before)
    assert sum(report.entries.values()) > 0
    assert net.get_parameter("head.weight") is net.get_parameter("embedding.weight")


@pytest.mark.parametrize("name", ["resnet10t", "test_vit", "test_convnext", "test_mambaout", "test_nfnet"])
def test_forgetting_and_renewing_move_no_other_task_of_a_real_model(name: str) -> None:
    model = timm.create_model(name, num_classes=5)
    perturb(model)
    net = hatify(model, num_tasks=3, num_classes=[5, 3, 5]).eval()
    x = torch.randn(2, *model.pretrained_cfg["input_size"])
    for task in range(3):
        draw_masks(net, task)
        net.registry.trained.append(task)
    before = [net(x, task_id=task) for task in range(3)]
    assert sum(net.renew().values()) > 0
    assert all(torch.equal(net(x, task_id=task), before[task]) for task in range(3))
    net.renew(model.state_dict())
    assert all(torch.equal(net(x, task_id=task), before[task]) for task in range(3))
    net.forget(1)
    assert all(torch.equal(net(x, task_id=task), before[task]) for task in (0, 2))
    assert all(parameter.isfinite().all() for parameter in net.parameters())
    assert net(x, task_id=1).shape == (2, 3)
    assert not torch.allclose(net(x, task_id=1), before[1], atol=1e-3)
    net.prune(2)
    assert torch.equal(net(x, task_id=2), before[2])


def answers(net: HATModule) -> list[Tensor]:
    return [net(examples(task)[0], task_id=task) for task in range(3)]


def unused(net: HATModule) -> Tensor:
    """The entries of `2.weight` that no task uses."""
    masks = [[group.binary_mask(task) for group in net.registry.groups.values()] for task in range(3)]
    return ~torch.stack([rows.outer(columns) for columns, rows in masks]).any(0)


def test_what_no_task_uses_is_renewed_and_nothing_else(trained: HATModule) -> None:
    weight = trained.get_parameter("2.weight").detach()
    before, entries = weight.clone(), unused(trained)
    given = answers(trained)
    renewed = trained.renew(seed=0)
    assert all(map(torch.equal, answers(trained), given))
    assert torch.equal(weight != before, entries)
    assert renewed["2.weight"] == int(entries.sum()) > 0
    assert weight[entries].abs().max() <= 32**-0.5  # nn.Linear: uniform in +-1 / sqrt(inputs)
    assert weight[entries].std() == pytest.approx(32**-0.5 / 3**0.5, rel=0.2)
    learn(trained, 2, *examples(2))
    assert all(map(torch.equal, answers(trained)[:2], given[:2]))


def test_what_no_task_uses_is_put_back_to_the_models_own_values(trained: HATModule) -> None:
    own = {name: value.clone() for name, value in network().state_dict().items()}
    weight = trained.get_parameter("2.weight").detach()
    before, entries, given = weight.clone(), unused(trained), answers(trained)
    trained.renew(own)
    assert all(map(torch.equal, answers(trained), given))
    assert torch.equal(weight, torch.where(entries, own["2.weight"], before))
    assert not torch.equal(weight, before)


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"0.weight": torch.zeros(3)},
        {"0.weight": torch.zeros(32, 8).numpy()},
        {"0.weight": torch.zeros(32, 8, device="meta")},
        {"0.weight": torch.zeros(32, 8).to_sparse()},
        {"0.weight": torch.zeros(32, 8, dtype=torch.complex64)},
    ],
)
def test_values_that_do_not_fit_change_nothing(trained: HATModule, wrong: dict[str, Tensor]) -> None:
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    values = {name: torch.zeros_like(value) for name, value in before.items()} | wrong if wrong else wrong
    with pytest.raises(InputError, match=r"'0\.weight'.*give the state dict of the model"):
        trained.renew(values)
    assert all(torch.equal(value, before[name]) for name, value in trained.state_dict().items())


def test_a_model_in_place_of_its_state_dict_is_refused(trained: HATModule) -> None:
    with pytest.raises(InputError, match=r"got a Linear: give model.state_dict\(\)"):
        trained.renew(nn.Linear(8, 32))  # type: ignore[arg-type]


def test_a_tied_weight_is_found_by_any_of_its_names() -> None:
    model = nn.Sequential(
        nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.Linear(16, 4)
    )
    model[4].weight = model[2].weight
    net = hatify(model, num_tasks=2, example_inputs=(torch.randn(2, 8),))
    draw_masks(net, 0)
    net.registry.trained.append(0)
    values = {name: torch.full_like(value, 7) for name, value in model.state_dict().items() if name != "2.weight"}
    renewed = net.renew(values)
    assert renewed["2.weight"] == int((net.get_parameter("4.weight") == 7).sum()) > 0


@pytest.mark.parametrize("seed", [-1, 2**70, 1.5, "1", True])
def test_seeds(trained: HATModule, seed: object) -> None:
    for action in (trained.renew, lambda seed: trained.forget(0, seed=seed)):
        with pytest.raises(InputError, match="a seed is a whole number"):
            action(seed=seed)
    assert trained.trained_tasks == (0, 1, 2)


def test_before_the_first_task_nothing_is_renewed() -> None:
    net = network()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert net.renew() == {}
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_task_in_its_midst_and_frozen_parameters_are_not_renewed(trained: HATModule) -> None:
    trained.forget(2)
    with pytest.raises(KeyboardInterrupt):
        learn(trained, 2, *examples(2), stop_after=3)
    trained.eval()
    frozen = trained.get_parameter("0.weight").requires_grad_(False).detach().clone()
    given = answers(trained)
    renewed = trained.renew()
    assert all(map(torch.equal, answers(trained), given))
    assert torch.equal(trained.get_parameter("0.weight"), frozen)
    assert "0.weight" not in renewed
    assert renewed["2.weight"] > 0
    with trained.learn(2, steps=3), pytest.raises(TrainingError, match="leave its `learn` block"):
        trained.renew()
