"""The theorem on networks that nobody designed: equal to the model, and unmoved when all that is free is scrambled."""

from __future__ import annotations

import copy
import warnings

import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor

from hatify import hatify
from hatify.errors import CapacityWarning
from hatify.verification.trials import draw_masks, perturb, relative_difference, scramble, with_all_features
from tests.random_networks import RandomNetwork, random_networks


def tells_apart(outputs: Tensor) -> bool:
    """Whether a network has different outputs for different inputs: in some a gate is shut for all of them."""
    return bool((outputs != outputs[:1]).any())


@settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(random_networks())
def test_equal_and_unmoved(model: RandomNetwork) -> None:
    perturb(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CapacityWarning)
        net = hatify(model, num_tasks=3, example_inputs=(model.example(2),))
    x = model.example(3)
    for mode in (True, False):
        reference, copied = copy.deepcopy(model).train(mode), copy.deepcopy(net).train(mode)
        assert relative_difference(copied(x), reference(x)) < 1e-5

    net.eval()
    trial = with_all_features(net)
    assert relative_difference(trial(x, task_id=trial.num_tasks - 1), net(x)) < 1e-5
    before = {}
    for task in (0, 1):
        with net.learn(task):
            draw_masks(net, task, density=0.4)
        before[task] = net(x, task_id=task).detach()
        assert before[task].isfinite().all()
        scrambled = copy.deepcopy(net)
        scramble(scrambled, task + 1)
        assert all(torch.equal(scrambled(x, task_id=seen), before[seen]) for seen in before)
        if task == 0 and net.registry.groups and tells_apart(net(x)):  # half of each group is free: not all was locked
            assert not torch.equal(scrambled(x), net(x))
