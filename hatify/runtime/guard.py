"""The optimizer guard: momentum and weight decay move entries whose gradient is zero; here they are put back."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from hatify.errors import TrainingError
from hatify.runtime.kept import Kept, put_back

Network = TypeVar("Network", bound=nn.Module)

_GUARDS: list[OptimizerGuard] = []  # those of the tasks that are being learned
_FORBIDDEN: weakref.WeakKeyDictionary[nn.Module, Callable[[Any], bool]] = weakref.WeakKeyDictionary()  # by network


class OptimizerGuard:
    """Restores locked entries bitwise after each step of any optimizer that holds one of the parameters.

    locks: of the parameters that have locked entries, see `locks.compact`.
    on_step: called after each such step with the number of the task's steps so far. What several optimizers do in turn
        is one step of the task, until one of them steps again.
    """

    def __init__(
        self,
        locks: Mapping[nn.Parameter, Tensor],
        parameters: Iterable[nn.Parameter],
        on_step: Callable[[int], None],
    ) -> None:
        self._kept = [Kept(parameter, lock) for parameter, lock in locks.items()]
        self._watched = {id(parameter) for parameter in parameters}
        self._steps = 0
        self._in_this_step: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
        self._on_step = on_step

    def attach(self, stack: ExitStack) -> None:
        """Watch every optimizer until the stack is left, and restore once more then."""
        _watch_optimizers()
        stack.callback(self.restore)
        _GUARDS.append(self)
        stack.callback(_GUARDS.remove, self)

    @torch.no_grad()
    def restore(self) -> None:
        """Put the locked entries back."""
        put_back(self._kept)

    @torch.no_grad()
    def reload(self) -> None:
        """Keep the values that the parameters have now: a state dict was loaded."""
        for kept in self._kept:
            kept.reload()

    @torch.no_grad()
    def _restore_moved(self) -> None:
        put_back([kept for kept in self._kept if kept.may_have_moved()])

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Restore what a step of this optimizer may have moved."""
        if holds_any(optimizer, self._watched):
            self._restore_moved()
            if not self._in_this_step or optimizer in self._in_this_step:
                self._in_this_step.clear()
                self._steps += 1
            self._in_this_step.add(optimizer)
            self._on_step(self._steps)


def holds_any(optimizer: torch.optim.Optimizer, parameters: set[int]) -> bool:
    """Whether an optimizer holds any of the parameters with these `id`s."""
    return any(not parameters.isdisjoint(map(id, group["params"])) for group in optimizer.param_groups)


def refuse_steps(net: Network, forbidden: Callable[[Network], bool]) -> None:
    """Refuse each step of an optimizer that holds a parameter of `net` while `forbidden(net)`, as long as `net` lives.

    forbidden: a function that does not keep `net` alive.
    """
    _watch_optimizers()
    _FORBIDDEN[net] = forbidden


@functools.cache
def _watch_optimizers() -> None:
    """For good: a hook that goes with its network may go just while an optimizer calls its hooks, which is an error."""
    register_optimizer_step_pre_hook(_before_step)
    register_optimizer_step_post_hook(_after_step)


def _before_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    for net, forbidden in list(_FORBIDDEN.items()):
        if forbidden(net) and holds_any(optimizer, {id(p) for p in net.parameters()}):
            raise TrainingError(
                "an optimizer step outside net.learn would change the trained tasks: "
                "take it inside `with net.learn(task_id, steps=n)`"
            )


def _after_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    for guard in list(_GUARDS):
        guard.after_step(optimizer)
