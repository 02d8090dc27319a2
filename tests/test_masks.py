"""Schedules, initial embeddings, masks and the regularizer, against the formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from hatify import HATConfig, HatifyError, HATModule, hatify
from hatify.runtime.schedule import scheduled_scale


def network(num_tasks: int = 4, config: HATConfig | None = None) -> HATModule:
    model = nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 20), nn.ReLU(), nn.Linear(20, 3))
    return hatify(model, num_tasks=num_tasks, config=config)


@pytest.mark.parametrize(
    ("schedule", "start", "middle", "end"),
    [
        ("linear", 1 / 400, (400 + 1 / 400) / 2, 400),
        ("cosine", 400, 1, 400),
        ("exponential", 1 / 400, 1, 400),
        ("constant", 400, 400, 400),
    ],
)
def test_schedules(schedule: str, start: float, middle: float, end: float) -> None:
    scales = [scheduled_scale(schedule, p, 400) for p in (0.0, 0.5, 1.0)]
    assert scales == pytest.approx([start, middle, end])


def test_cosine_schedule_in_between() -> None:
    assert scheduled_scale("cosine", 0.2, 400) == pytest.approx(200 * (1 + math.cos(0.4 * math.pi)))


def test_cycles_run_through_the_schedule_once_an_epoch() -> None:
    assert scheduled_scale("linear", 0.375, 400, cycles=4) == pytest.approx(scheduled_scale("linear", 0.5, 400))
    assert scheduled_scale("linear", 1.0, 400, cycles=4) == 400


def test_initial_embeddings() -> None:
    dense = network(config=HATConfig(init="dense")).registry.groups["0"]
    assert torch.equal(dense.embedding(2), torch.ones(40))
    sparse = network(config=HATConfig(init="sparse")).registry.groups["0"]
    assert int(sparse.binary_mask(1).sum()) == 10
    normal = network(config=HATConfig(init="normal")).registry.groups["0"]
    assert 0.5 < float(normal.embedding(0).detach().std()) < 1.5
    assert not torch.equal(normal.embedding(0), normal.embedding(1))


def test_groups_tell_who_writes_and_reads_them() -> None:
    groups = network().registry.groups
    assert list(groups) == ["0", "2"]
    assert groups["0"].members == ("0", "2")
    assert groups["2"].members == ("2", "4")
    assert (groups["0"].num_features, groups["2"].num_features) == (40, 20)


def test_masks_and_locked_masks() -> None:
    net = network()
    group = net.registry.groups["2"]
    for task in range(3):
        group.embedding(task).data.normal_()
    assert torch.equal(group.mask(0, 2.5), torch.sigmoid(2.5 * group.embedding(0)))
    assert not group.locked_mask(0).any()
    for task in (0, 1):
        with net.learn(task):
            pass
    assert net.trained_tasks == (0, 1)
    assert torch.equal(group.locked_mask(2), group.binary_mask(0) | group.binary_mask(1))
    assert torch.equal(group.locked_mask(0), group.binary_mask(1))


@pytest.mark.parametrize("quota", [False, True])
@pytest.mark.parametrize("mode", ["layer", "network"])
def test_regularizer(mode: str, quota: bool) -> None:
    net = network(num_tasks=4, config=HATConfig(regularizer=mode, quota=quota, schedule="constant", s_max=2.0))
    groups = list(net.registry.groups.values())
    for group in groups:
        for task in (0, 1):
            group.embedding(task).data.normal_()
    with net.learn(0):
        pass
    used, free, sizes = [], [], []
    for group in groups:
        a = torch.sigmoid(2.0 * group.embedding(1).detach())
        open_features = 1 - group.binary_mask(0).float()
        used.append((a * open_features).sum())
        free.append(open_features.sum())
        sizes.append(group.num_features / 4 if quota else 0.0)
    if mode == "network":
        expected = (sum(used) - sum(sizes)).clamp(min=0) / sum(free)
    else:
        shares = [(u - s).clamp(min=0) / f for u, s, f in zip(used, sizes, free, strict=True)]
        expected = sum(shares) / len(shares)
    with net.learn(1) as task:
        torch.testing.assert_close(task.regularization(), expected)


@pytest.mark.parametrize(
    "settings",
    [{"init": "dens"}, {"schedule": "step"}, {"s_max": 0.5}, {"regularizer": "l1"}, {"embedding_limit": 0}],
)
def test_settings_that_do_not_exist(settings: dict[str, object]) -> None:
    with pytest.raises(HatifyError, match=next(iter(settings))):
        HATConfig(**settings)


def test_capacity_counts_used_shared_and_free_features() -> None:
    net = network()
    group = net.registry.groups["2"]
    for task, features in ((0, range(0, 10)), (1, range(5, 12))):
        group.embedding(task).data.fill_(-1.0)
        group.embedding(task).data[list(features)] = 1.0
        with net.learn(task):
            pass
    capacity = net.capacity()["2"]
    assert (capacity.num_features, capacity.used, capacity.shared, capacity.free) == (20, {0: 10, 1: 7}, 5, 8)
