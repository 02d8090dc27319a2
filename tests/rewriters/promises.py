"""What every conversion promises, checked on one model at a time, and the small models that the tests share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from hatify import HATModule, hatify
from hatify.rewriting.layers import gate
from hatify.verification.trials import (
    draw_masks,
    perturb,
    plastic_share,
    relative_difference,
    scramble,
    with_all_features,
)

WIDTH = 16
SHAPES = {"vectors": (2, 3), "tokens": (2, 5, 3), "lines": (2, 3, 8), "images": (2, 3, 8, 8)}


def ideal(*, one_sided: int = 0, two_sided: int = 0, locked: int = 0) -> float:
    """The share of entries that stays plastic if one task takes half of each group.

    one_sided: entries between a masked side and a live one (biases, too). two_sided: between two masked sides.
    locked: entries that every task needs.
    """
    return (one_sided / 2 + two_sided * 3 / 4) / (one_sided + two_sided + locked)


def check(
    model: nn.Module,
    *inputs: Any,
    at_least: float = 0.70,
    gates: int | None = None,
    unknown: Sequence[str] = (),
    other_inputs: tuple[Any, ...] | None = None,
) -> HATModule:
    """Convert `model` and assert what a conversion promises; returns the network, scrambled.

    inputs: a call with a batch of 2; the promises are checked on `other_inputs`, by default with a batch of 3.
    at_least: the share of entries that must stay plastic when one task has taken half of each group.
    gates: how many activations may be multiplied with a mask of their own (default: any number).
    unknown: the operators that no rule is expected for.
    """
    torch.manual_seed(0)
    perturb(model)
    net = hatify(model, num_tasks=2, example_inputs=inputs)
    assert tuple(net.blueprint.unknown) == tuple(unknown)
    assert gates is None or number_of_gates(net) == gates, net.graph

    inputs = other_inputs or pytree.tree_map(_of_three, inputs)
    _assert_same_function(model, net, inputs)
    with net.learn(0):
        pass
    draw_masks(net, 0)
    _assert_finite_gradients(net, inputs)
    assert plastic_share(net, 1) >= at_least - 1e-6, plastic_share(net, 1)
    _assert_no_forgetting(net, inputs)
    return net


def number_of_gates(net: HATModule) -> int:
    return sum(node.target is gate for node in net.graph.nodes)


def _of_three(value: Any) -> Any:
    """Another value of the same kind, with three entries in the first dimension."""
    if not isinstance(value, Tensor):
        return value
    longer = torch.cat([value, value[:1]])
    return torch.randn_like(longer) if value.is_floating_point() else longer


def _assert_same_function(model: nn.Module, net: HATModule, inputs: tuple[Any, ...]) -> None:
    for training in (False, True):
        model.train(training), net.train(training)
        expected, actual = _seeded(model, *inputs), _seeded(net, *inputs)
        assert len(actual) == len(expected)
        for one, other in zip(actual, expected, strict=True):
            assert relative_difference(one, other) < 1e-5, f"training={training}"
    trial = with_all_features(net.eval())
    expected, actual = _seeded(net, *inputs), _seeded(trial, *inputs, task_id=trial.num_tasks - 1)
    for one, other in zip(actual, expected, strict=True):
        assert relative_difference(one, other) < 1e-5, "a task with all features"


def _assert_finite_gradients(net: HATModule, inputs: tuple[Any, ...]) -> None:
    """Under hard masks no gradient is infinite or NaN, although dead features are exactly zero."""
    net.train()
    with net.learn(0):
        outputs = pytree.tree_leaves(net(*inputs, mask_scale=400.0))
        torch.stack([output.square().sum() for output in outputs]).sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


def _assert_no_forgetting(net: HATModule, inputs: tuple[Any, ...]) -> None:
    """Scrambling whatever task 1 may train leaves task 0 bitwise as it is, and moves the network with no task."""
    net.eval()
    before, untasked = _run(net, *inputs, task_id=0), _run(net, *inputs)
    assert all(output.isfinite().all() for output in before)
    scramble(net, 1)
    after, moved = _run(net, *inputs, task_id=0), _run(net, *inputs)
    assert all(torch.equal(one, other) for one, other in zip(after, before, strict=True))
    assert not all(torch.equal(one, other) for one, other in zip(moved, untasked, strict=True))


def _seeded(network: nn.Module, *inputs: Any, **kwargs: Any) -> list[Tensor]:
    torch.manual_seed(1)
    return _run(network, *inputs, **kwargs)


@torch.no_grad()
def _run(network: nn.Module, *inputs: Any, **kwargs: Any) -> list[Tensor]:
    return pytree.tree_leaves(network(*inputs, **kwargs))


class Sandwich(nn.Module):
    """A layer that writes WIDTH features, what is tested, a layer that reads the result, and a head.

    kind: "vectors" and "tokens" have their features last, "lines" and "images" in dimension 1.
    read: how many features the result of `middle` has.
    """

    def __init__(self, kind: str, middle: Callable[[Tensor], Tensor], read: int = WIDTH) -> None:
        super().__init__()
        layer: Any = {"lines": nn.Conv1d, "images": nn.Conv2d}.get(kind, nn.Linear)
        size = (1,) if kind in ("lines", "images") else ()
        self.write = layer(3, WIDTH, *size)
        self.middle = middle
        self.read = layer(read, WIDTH, *size)
        self.head = nn.Linear(WIDTH, 4)
        self.pooled = {"tokens": (1,), "lines": (2,), "images": (2, 3)}.get(kind, ())

    def forward(self, x: Tensor) -> Tensor:
        features = torch.relu(self.read(self.middle(self.write(x))))
        return self.head(features.mean(self.pooled) if self.pooled else features)


def check_between(
    kind: str,
    middle: Callable[[Tensor], Tensor],
    *,
    read: int = WIDTH,
    one_sided: int = 0,
    two_sided: int = 0,
    locked: int = 0,
    tight: bool = True,
    slack: float = 0.0,
    gates: int | None = None,
    unknown: Sequence[str] = (),
) -> HATModule:
    """Check `middle` in a sandwich of the layers before and behind it.

    one_sided, two_sided, locked: the entries of `middle`'s own shared parameters, as for `ideal`.
    tight: whether the reading layer knows which of its inputs are zero.
    slack: how far random masks may miss the share: where a weight reads some features only, not half are taken.
    """
    around, behind = 5 * WIDTH, read * WIDTH
    share = ideal(
        one_sided=one_sided + around + (0 if tight else behind),
        two_sided=two_sided + (behind if tight else 0),
        locked=locked,
    )
    model = Sandwich(kind, middle, read)
    return check(model, torch.randn(SHAPES[kind]), at_least=share - slack, gates=gates, unknown=unknown)
