"""What a conversion promises, measured on one model."""

from __future__ import annotations

import copy
import resource
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.utils import _pytree as pytree

from benchmarks.models import Subject
from hatify import HATModule, hatify
from hatify.verification.trials import (
    draw_masks,
    parameter_growth,
    perturb,
    plastic_share,
    relative_difference,
    scramble,
    with_all_features,
)

MOST_COSTLY = 5


@dataclass(frozen=True)
class Row:
    """What was measured on one model.

    eval_difference, train_difference: relative difference between `net(x)` and the model, in train mode with the
        same seed.
    masked_difference: that between a task with all features and no task, in eval mode.
    step_bitwise: task 0's outputs are the same bits after training steps of task 1 under AdamW with weight decay.
    scramble_bitwise: and after every entry that is not locked was overwritten. moved: which moved the network.
    plastic: the share of the shared parameters' entries that stays free after one task with half of each group.
    unfollowed: the share of the parameters' entries locked whole or kept once a task because no rule follows them.
    growth: the parameters at 3 tasks over the model's, heads aside.
    costly: the parameters that cost the most plasticity, with the share of them that is locked.
    unknown: operators without a rule. parameters: how many the model has.
    seconds, export_seconds: the time of the conversion, and of one torch.export of the model (None if that fails).
    memory: the most memory that the conversion took, over that of the model's parameters.
    """

    eval_difference: float
    train_difference: float
    masked_difference: float
    step_bitwise: bool
    scramble_bitwise: bool
    moved: bool
    plastic: float
    unfollowed: float
    growth: float
    groups: int
    gates: int
    costly: Mapping[str, float]
    unknown: Mapping[str, int]
    parameters: int
    seconds: float
    export_seconds: float | None
    memory: float

    def holds(self, equal: float) -> bool:
        """Whether the network was the model, to within `equal` in eval mode, and forgot nothing."""
        is_the_model = self.eval_difference <= equal and self.masked_difference <= equal
        return is_the_model and self.step_bitwise and self.scramble_bitwise and self.moved


def measure(subject: Subject) -> Row:
    """Convert a model, with every parameter perturbed first, and check the result."""
    model = subject.model
    perturb(model)
    example = subject.inputs(2)
    parameters = sum(p.numel() for p in model.parameters())
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    memory, started = psutil.Process().memory_info().rss, time.perf_counter()
    net = hatify(model, num_tasks=3, example_inputs=example)
    seconds = time.perf_counter() - started
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - memory
    export_seconds = _export_seconds(model, example)
    inputs = subject.inputs(3)
    evaluated, trained = _equality(model, net, inputs)
    masked = _masked_difference(net, inputs)
    growth = parameter_growth(net, model)
    del model, subject  # the largest leave no room for it beside what training needs
    return Row(
        evaluated,
        trained,
        masked,
        *_forgetting(net, inputs),
        plastic_share(net, 1),
        sum(net.get_parameter(name).numel() for name in net.blueprint.unfollowed) / parameters,
        growth,
        len(net.registry.groups),
        net.summary().gates,
        _costly(net),
        net.blueprint.unknown,
        parameters,
        seconds,
        export_seconds,
        taken / size,
    )


def _export_seconds(model: nn.Module, example: dict[str, Any]) -> float | None:
    """The time of one torch.export; None for a model that can only be captured in parts."""
    dynamic = pytree.tree_map(lambda value: {0: Dim.AUTO} if isinstance(value, Tensor) else None, example)
    started = time.perf_counter()
    try:
        torch.export.export(model, (), example, dynamic_shapes=dynamic)
    except Exception:
        return None
    return time.perf_counter() - started


def _equality(model: nn.Module, net: HATModule, inputs: dict[str, Any]) -> tuple[float, float]:
    model.eval(), net.eval()
    reference = copy.deepcopy(model)
    with torch.no_grad():
        torch.manual_seed(0)
        expected = reference(**inputs)
        torch.manual_seed(0)
        evaluated = _difference(copy.deepcopy(net)(**inputs), expected)
        reference.train(), net.train()
        torch.manual_seed(0)
        expected = reference(**inputs)
        torch.manual_seed(0)
        actual = copy.deepcopy(net)(**inputs)
    return evaluated, _difference(actual, expected)


def _masked_difference(net: HATModule, inputs: dict[str, Any]) -> float:
    trial = with_all_features(net)
    return _difference(_evaluated(trial, inputs, trial.num_tasks - 1), _evaluated(trial, inputs, None))


def _difference(actual: Any, expected: Any) -> float:
    """The largest relative difference of any output; NaN where one is."""
    pairs = zip(outputs(actual), outputs(expected), strict=True)
    return torch.tensor([relative_difference(a, e) for a, e in pairs]).max().item()


def _forgetting(net: HATModule, inputs: dict[str, Any]) -> tuple[bool, bool, bool]:
    """Task 0 with half of each group; then steps of task 1, then a scramble: is task 0 as it was, after each?

    Also whether the scramble moves the network with no task: one that moves nothing shows nothing.
    """
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=0.1)
    _step(net, 0, inputs, optimizer)
    draw_masks(net, 0)
    before, untasked = _evaluated(net, inputs, 0), _evaluated(net, inputs, None)
    _step(net, 1, inputs, optimizer)
    stepped = _same(before, _evaluated(net, inputs, 0))
    net.registry.trained.remove(1)
    scramble(net, 1)
    scrambled = _same(before, _evaluated(net, inputs, 0))
    moved = not _same(_evaluated(net, inputs, None), untasked)
    return stepped, scrambled, moved


def _evaluated(net: HATModule, inputs: dict[str, Any], task_id: int | None) -> list[Tensor]:
    """A task's outputs in eval mode, where a few models draw random numbers, too."""
    net.eval()
    torch.manual_seed(0)
    with torch.no_grad():
        return outputs(net(**inputs, task_id=task_id))


def _step(net: HATModule, task_id: int, inputs: dict[str, Any], optimizer: torch.optim.Optimizer) -> None:
    net.train()
    with net.learn(task_id, steps=2) as task:
        for _ in range(2):
            loss = sum((o.square().mean() for o in outputs(net(**inputs), detach=False)), task.regularization())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def outputs(output: Any, detach: bool = True) -> list[Tensor]:
    """The tensors of an output of any structure that carry numbers."""
    tensors = [t for t in pytree.tree_leaves(output) if isinstance(t, Tensor) and t.is_floating_point()]
    return [t.detach() if detach else t for t in tensors]


def _same(before: list[Tensor], after: list[Tensor]) -> bool:
    return all(torch.equal(a, b) and a.isfinite().all() for a, b in zip(before, after, strict=True))


def _costly(net: HATModule) -> dict[str, float]:
    """The parameters that cost the most plasticity: locked entries beyond the quarter that half masks cost."""
    locks = net.lock_masks(1)
    locked = {name: int(locks[name].sum()) for name in set(net.shared_parameters()) - net.blueprint.unread}
    cost = {name: count - locks[name].numel() / 4 for name, count in locked.items()}
    worst = sorted(cost, key=cost.__getitem__, reverse=True)[:MOST_COSTLY]
    return {name: locked[name] / locks[name].numel() for name in worst if cost[name] > 0}
