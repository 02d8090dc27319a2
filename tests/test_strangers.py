"""What a conversion promises, on models by people who never heard of masks."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from hatify import HATModule, hatify
from hatify.verification.trials import (
    draw_masks,
    perturb,
    plastic_share,
    relative_difference,
    scramble,
    with_all_features,
)
from tests.strangers import STRANGERS

SLACK = 0.01  # random masks miss the mean by so much


@pytest.mark.parametrize("name", STRANGERS)
@pytest.mark.filterwarnings("ignore")
def test_equal_unmoved_plastic_forgotten_and_extracted(name: str) -> None:
    stranger = STRANGERS[name]
    model = stranger.model()
    perturb(model)
    net = hatify(model, num_tasks=2, example_inputs=stranger.inputs(2))
    inputs = stranger.inputs(3)
    assert_same_function(model.eval(), net.eval(), inputs)
    trial = with_all_features(net)
    assert_same_function(model, trial, inputs, task_id=trial.num_tasks - 1)
    train(net, 0, inputs)
    draw_masks(net, 0)
    assert_forgotten(copy.deepcopy(net), inputs)
    assert_not_moved(net, inputs)
    assert plastic_share(net, 1) >= stranger.plastic - SLACK
    assert_extracted(net, inputs)


def assert_same_function(model: nn.Module, net: HATModule, inputs: dict[str, Any], **task: int) -> None:
    expected, actual = outputs(model, inputs), outputs(net, inputs, **task)
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        assert one.shape == other.shape
        assert relative_difference(one, other) < 1e-5


def assert_forgotten(net: HATModule, inputs: dict[str, Any]) -> None:
    """Forgetting task 0 does not move task 1."""
    draw_masks(net, 1)
    net.registry.trained.append(1)
    before = outputs(net, inputs, task_id=1)
    net.forget(0)
    assert all(map(torch.equal, outputs(net, inputs, task_id=1), before))
    assert net.trained_tasks == (1,)


def assert_not_moved(net: HATModule, inputs: dict[str, Any]) -> None:
    """Neither steps of task 1 nor scrambling all that is free moves task 0, and the scramble moves the network."""
    before, untasked = outputs(net, inputs, task_id=0), outputs(net, inputs)
    assert all(output.isfinite().all() for output in before)
    train(net, 1, inputs)
    assert all(map(torch.equal, outputs(net, inputs, task_id=0), before))
    net.registry.trained.remove(1)
    scramble(net, 1)
    assert all(map(torch.equal, outputs(net, inputs, task_id=0), before))
    assert not all(map(torch.equal, outputs(net, inputs), untasked))


def assert_extracted(net: HATModule, inputs: dict[str, Any]) -> None:
    """Task 0 as a plain module does the same."""
    extracted = net.extract(0)
    torch.manual_seed(0)
    expected = outputs(net, inputs, task_id=0)
    torch.manual_seed(0)
    for one, other in zip(outputs(extracted, inputs), expected, strict=True):
        assert relative_difference(one, other) < 1e-5


def train(net: HATModule, task_id: int, inputs: dict[str, Any]) -> None:
    """Steps that move whatever is not held: AdamW's momentum and weight decay need no gradient."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=0.1)
    net.train()
    with net.learn(task_id, steps=2) as task:
        for _ in range(2):
            loss = sum((o.square().mean() for o in floating(net(**inputs))), task.regularization())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    net.eval()


@torch.no_grad()
def outputs(network: nn.Module, inputs: dict[str, Any], **kwargs: Any) -> list[Tensor]:
    return floating(network(**inputs, **kwargs))


def floating(output: Any) -> list[Tensor]:
    """The tensors of an output of any structure that carry numbers."""
    return [t for t in pytree.tree_leaves(output) if isinstance(t, Tensor) and t.is_floating_point()]
