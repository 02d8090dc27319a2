"""The checks of `verify`. Each leaves the network as it is, and works on a copy where it must change one."""

from __future__ import annotations

import copy
import statistics
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from hatify.capture.inputs import Arguments
from hatify.errors import CapacityWarning, HatifyError, first_few
from hatify.module import HATModule
from hatify.seeding import seeded
from hatify.verification.trials import draw_masks, plastic_share, relative_difference, scramble, with_all_features

ROUNDING = 1e-5
DRAWS = 4
LEAST_PLASTIC = 0.45  # a weight with one live side has 1/2 when half of each group is taken, one with none has 3/4
STEPS = 2


@dataclass(frozen=True)
class Check:
    """The outcome of one check. seen: what was measured. asked: what it had to be."""

    name: str
    ok: bool
    seen: str
    asked: str


def equivalence(net: HATModule, call: Arguments, model: nn.Module | None) -> Check:
    """The network of no task is the model; without it: that of a task that uses every feature is that of no task."""
    expected = _outputs(net, call)
    if model is not None:
        actual, asked = _outputs(model, call), "the outputs of the model"
    else:
        trial = with_all_features(net)
        actual, asked = _outputs(trial, call, trial.num_tasks - 1), "with all features, the outputs of no task"
    if [output.shape for output in actual] != [output.shape for output in expected]:
        return Check("equivalence", False, "outputs of other shapes", asked)
    differences = [relative_difference(*pair) for pair in zip(actual, expected, strict=True)]
    same = all(difference < ROUNDING for difference in differences)  # NaN is not
    return Check("equivalence", same, f"differs by {', '.join(f'{d:.0e}' for d in differences)}", asked)


def scrambled(net: HATModule, call: Arguments) -> Check:
    """Noise on all that one task may train leaves the others as they are."""
    trial = _with_trained_task(net)
    moved = [other for task in _learners(trial) for other in _moved(trial, call, task, scramble)]
    return _bitwise("scramble", trial.trained_tasks, moved)


def trained(net: HATModule, call: Arguments) -> Check:
    """Steps of one task leave the others as they are, under an optimizer that moves what has no gradient."""
    trial = _with_trained_task(net)
    learner = _learners(trial)[0]
    moved = _moved(trial, call, learner, partial(_train, call=call))
    return _bitwise("training", [other for other in trial.trained_tasks if other != learner], moved)


def tightness(net: HATModule) -> Check:
    """When one task has half of each group, most entries must be left for others."""
    trial = _with_two_tasks(net)
    trial.registry.trained = [0]
    with seeded(0):  # the share depends a little on the masks: a network has one answer
        share = statistics.mean(_share_beside_drawn_masks(trial) for _ in range(DRAWS))
    return Check(
        "tightness", share >= LEAST_PLASTIC, f"{share:.3f} plastic", f"at least {LEAST_PLASTIC} (ideal: 0.50 to 0.75)"
    )


def _share_beside_drawn_masks(trial: HATModule) -> float:
    draw_masks(trial, 0)
    return plastic_share(trial, 1)


def hooks(net: HATModule) -> Check:
    """Each trainable parameter has its gradient hook: one that was exchanged by hand has none."""
    trainable = {name: parameter for name, parameter in net.named_parameters() if parameter.requires_grad}
    missing = [name for name, parameter in trainable.items() if not net.is_hooked(parameter)]
    return Check("hooks", not missing, _named("missing", missing), f"on {len(trainable)} trainable parameters")


def unmoved(net: HATModule) -> Check:
    """Nothing that a trained task depends on has changed since it was trained."""
    known = sorted(net.registry.fingerprints)
    moved = list(dict.fromkeys(name for task in known for name in net.moved_since_trained(task)))
    return Check("unmoved", not moved, _named("moved", moved), f"since the training of {_tasks(known)}")


# -- trial networks ----------------------------------------------------------------------------------------------


def _with_two_tasks(net: HATModule) -> HATModule:
    """A copy with at least two tasks."""
    trial = copy.deepcopy(net)
    if trial.num_tasks == 1:
        trial.add_tasks(1)
    return trial


def _with_trained_task(net: HATModule) -> HATModule:
    """A copy with at least one trained task and one to train, of which all can be trained."""
    trial = _with_two_tasks(net)
    for parameter in trial.parameters():
        parameter.requires_grad_(parameter.is_floating_point() or parameter.is_complex())
    if not trial.trained_tasks:
        draw_masks(trial, 0)
        trial.registry.trained.append(0)
    return trial


def _learners(net: HATModule) -> Sequence[int]:
    """Tasks whose training could move others: a new one, or else each of those that were trained."""
    new = [task for task in range(net.num_tasks) if task not in net.trained_tasks]
    return new[:1] or net.trained_tasks


def _train(net: HATModule, task: int, call: Arguments) -> None:
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, weight_decay=0.5)
    net.train()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CapacityWarning)
        with net.learn(task, steps=STEPS) as learning:
            for _ in range(STEPS):
                args, kwargs = copy.deepcopy(call)
                outputs = [output for output in _tensors(net(*args, **kwargs)) if output.requires_grad]
                loss = sum((output.abs().square().mean() for output in outputs), learning.regularization())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()


# -- outputs -----------------------------------------------------------------------------------------------------


def _moved(net: HATModule, call: Arguments, task: int, disturb: Callable[[HATModule, int], None]) -> list[int]:
    """The trained tasks that give something else once a copy of the network was disturbed on behalf of `task`."""
    disturbed = copy.deepcopy(net)
    disturb(disturbed, task)
    others = [other for other in net.trained_tasks if other != task]
    return [other for other in others if not _same(_outputs(disturbed, call, other), _outputs(net, call, other))]


@torch.no_grad()
def _outputs(network: nn.Module, call: Arguments, task: int | None = None) -> list[Tensor]:
    """In eval mode, with the same random numbers each time, from a copy: forward may have state, or write to inputs."""
    args, kwargs = copy.deepcopy(call)
    chosen = {"task_id": task} if isinstance(network, HATModule) else {}
    with seeded(0):
        return _tensors(copy.deepcopy(network).eval()(*args, **chosen, **kwargs))


def _tensors(output: Any) -> list[Tensor]:
    tensors = [value for value in pytree.tree_leaves(output) if isinstance(value, Tensor)]
    if not tensors:
        raise HatifyError("the network returns no tensor: there is nothing to verify it by")
    return tensors


def _same(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    """Whether outputs are equal, NaN where the other is NaN."""
    return all(map(partial(torch.allclose, rtol=0, atol=0, equal_nan=True), one, other))


# -- words -------------------------------------------------------------------------------------------------------


def _bitwise(name: str, tasks: Sequence[int], moved: Sequence[int]) -> Check:
    return Check(
        name, not moved, f"moved: {_tasks(moved)}" if moved else "bitwise the same", f"outputs of {_tasks(tasks)}"
    )


def _named(what: str, names: Sequence[str]) -> str:
    return f"{what}: {first_few(names)}" if names else f"nothing {what}"


def _tasks(tasks: Sequence[int]) -> str:
    return f"task{'s' * (len(tasks) > 1)} {', '.join(map(str, tasks))}" if tasks else "no task"
