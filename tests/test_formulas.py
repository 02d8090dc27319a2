"""The paper's formulas, piece by piece: a table that names each equation, computed here with Python's own numbers.

Equations are those of Serra et al. 2018 ("Overcoming catastrophic forgetting with hard attention to the task") and
Duan 2023 ("HAT-CL"). `tests/test_gradients.py` checks the same pieces together, in whole training steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from hatify import HATConfig, HATModule, hatify
from hatify.runtime.gradients import compensation, gated_gradient
from hatify.runtime.schedule import scheduled_scale

S_MAX = 400.0
E = [-6.0, -1.3, -0.02, 0.0, 0.4, 2.0, 6.0]  # embeddings of task 1
TAKEN = [True, False, False, True, False, True, False]  # the features of task 0
GRADIENT = [0.3, -1.0, 2.0, 0.5, -0.7, 1.1, -0.2]
SCALE = 3.0


def network(**config: object) -> HATModule:
    """One hidden layer of seven features; task 0 is trained."""
    model = nn.Sequential(nn.Linear(3, 7), nn.ReLU(), nn.Linear(7, 7), nn.ReLU(), nn.Linear(7, 2)).double()
    settings = HATConfig(schedule="constant", s_max=SCALE, **config)  # type: ignore[arg-type]
    net = hatify(model, 4, example_inputs=(torch.zeros(2, 3).double(),), config=settings).double()
    for group in net.registry.groups.values():
        group.embedding(0).data.copy_(torch.tensor([1.0 if taken else -1.0 for taken in TAKEN]))
        group.embedding(1).data.copy_(torch.tensor(E))
    with net.learn(0):
        pass
    return net


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def first_group(net: HATModule) -> str:
    return next(iter(net.registry.groups))


def soft_mask() -> Tensor:
    net = network()
    return net.registry.groups[first_group(net)].mask(1, SCALE)


def mask_at_inference() -> Tensor:
    net = network()
    return net.registry.groups[first_group(net)].binary_mask(1)


def cumulative_mask() -> Tensor:
    net = network()
    with net.learn(1):
        pass
    return net.registry.groups[first_group(net)].locked_mask(2)


def weight_lock() -> Tensor:
    return network().lock_masks(1)["2.weight"]


def bias_lock() -> Tensor:
    return network().lock_masks(1)["2.bias"]


def gated() -> Tensor:
    return gated_gradient(torch.tensor(GRADIENT).double(), torch.tensor(TAKEN), torch.zeros((), dtype=torch.float64))


def compensated() -> Tensor:
    return torch.tensor(GRADIENT).double() * compensation(torch.tensor(E).double(), SCALE, S_MAX, 50.0)


def by_hand(e: float) -> float:
    return S_MAX / SCALE * (math.cosh(max(-50.0, min(50.0, SCALE * e))) + 1) / (math.cosh(e) + 1)


def clamped() -> Tensor:
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e6)
    group = net.registry.groups[first_group(net)]
    with net.train().learn(1, steps=1):
        net(torch.ones(2, 3).double()).sum().backward()
        optimizer.step()
    return group.embedding(1).detach().abs().max()


def regularizer(**config: object) -> Callable[[], Tensor]:
    def value() -> Tensor:
        with network(**config).learn(1, steps=1) as task:
            return task.regularization().detach()

    return value


LEFT = [0.0 if taken else g for g, taken in zip(GRADIENT, TAKEN, strict=True)]
CUMULATIVE = [taken or e > 0 for taken, e in zip(TAKEN, E, strict=True)]
FREE = [not taken for taken in TAKEN]
SOFT = [sigmoid(SCALE * e) for e in E]
CHARGED = sum(a for a, free in zip(SOFT, FREE, strict=True) if free)

Formula = tuple[Callable[[], Tensor | float], Sequence[float] | Sequence[Sequence[float]] | float]

FORMULAS: dict[str, Formula] = {
    "Serra eq. 1: a = sigmoid(s e)": (soft_mask, SOFT),
    "Serra sec. 2.2: at inference a = (e > 0)": (mask_at_inference, [e > 0 for e in E]),
    "Serra sec. 2.3: c = max over the tasks before": (cumulative_mask, CUMULATIVE),
    "Serra eq. 2: g * (1 - min(c_out, c_in)), weights": (weight_lock, [[o and i for i in TAKEN] for o in TAKEN]),
    "Serra eq. 2: g * (1 - c_out), biases": (bias_lock, TAKEN),
    "Serra eq. 2: locked entries have gradient 0": (gated, LEFT),
    "Serra eq. 3: s = 1/s_max + (s_max - 1/s_max) b/B": (
        lambda: scheduled_scale("linear", 0.25, S_MAX), 1 / S_MAX + (S_MAX - 1 / S_MAX) * 0.25,
    ),
    "Serra eq. 4: q' = s_max/s (cosh(s e) + 1)/(cosh(e) + 1) q": (
        compensated, [g * by_hand(e) for g, e in zip(GRADIENT, E, strict=True)],
    ),
    "Serra sec. 2.4: e within [-6, 6]": (clamped, 6.0),
    "Serra eq. 5: sum a (1 - c) / sum (1 - c), whole network": (
        regularizer(regularizer="network", quota=False), 2 * CHARGED / (2 * sum(FREE)),
    ),
    "Duan: the mean of eq. 5 over layers": (regularizer(regularizer="layer", quota=False), CHARGED / sum(FREE)),
    "Duan: n / num_tasks features free of charge": (
        regularizer(regularizer="layer", quota=True), max(0.0, CHARGED - len(E) / 4) / sum(FREE),
    ),
    "Duan: s = max(1, s_max/2 (1 + cos(2 pi p)))": (
        lambda: scheduled_scale("cosine", 0.1, S_MAX), S_MAX / 2 * (1 + math.cos(0.2 * math.pi)),
    ),
    "Duan: at least 1 in mid-task": (lambda: scheduled_scale("cosine", 0.5, S_MAX), 1.0),
}  # fmt: skip


@pytest.mark.parametrize(("actual", "expected"), FORMULAS.values(), ids=FORMULAS)
def test_formula(actual: Callable[[], Tensor | float], expected: float | Sequence[float]) -> None:
    value, wanted = torch.as_tensor(actual()), torch.as_tensor(expected)
    torch.testing.assert_close(value.double(), wanted.double(), rtol=1e-6, atol=1e-9)
